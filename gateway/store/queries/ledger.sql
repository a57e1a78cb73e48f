-- name: insert_order
INSERT INTO consent.orders (order_id, order_hash, tenant, number, state, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $6);

-- name: lock_order
SELECT order_id FROM consent.orders WHERE order_id = $1 FOR NO KEY UPDATE;

-- name: project_order
UPDATE consent.orders SET state = $2, gateway = $3, updated_at = $4 WHERE order_id = $1;

-- name: insert_event
INSERT INTO consent.events (order_id, seq, event_id, at, type, envelope, hash) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: select_events
SELECT envelope, hash FROM consent.events WHERE order_id = $1 ORDER BY seq;

-- name: insert_record_key
INSERT INTO consent.record_keys (order_id, wrapped) VALUES ($1, $2);

-- name: claim_name
SELECT pg_try_advisory_lock(hashtextextended('gateway ' || $1, 0));

-- name: any_record_key
SELECT order_id, wrapped FROM consent.record_keys LIMIT 1;

-- name: select_record_key
SELECT wrapped FROM consent.record_keys WHERE order_id = $1;

-- name: select_last_hash
SELECT hash FROM consent.events WHERE order_id = $1 ORDER BY seq DESC LIMIT 1;

-- name: select_order
SELECT order_id, tenant, number, state, created_at, updated_at FROM consent.orders WHERE order_id = $1;

-- name: find_orders_by_prefix
SELECT order_id FROM consent.orders WHERE order_id::text LIKE $1 || '%' LIMIT 2;

-- name: list_orders
SELECT order_id, tenant, number, state, created_at, updated_at FROM consent.orders
WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR state = $2)
ORDER BY created_at DESC LIMIT $3;

-- name: orders_of
SELECT order_id FROM consent.orders WHERE number = $1 AND state = ANY ($2::text[])
ORDER BY created_at DESC, order_id DESC;

-- name: orders_calling_at
SELECT order_id FROM consent.orders WHERE gateway = $1;

-- name: insert_spoken_consent
INSERT INTO consent.spoken_consents (order_id, order_hash, event_id, at, affirmation_id, affirmed_at)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: insert_code_reply
INSERT INTO consent.code_replies (order_id, order_hash, event_id, at, expires_at) VALUES ($1, $2, $3, $4, $5);

-- name: insert_confirmation
INSERT INTO consent.confirmations (order_id, order_hash, spoken_at, recording_id, recorded_at, replied_at)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: insert_refusal
INSERT INTO consent.refusals (order_id, event_id, type, at, state) VALUES ($1, $2, $3, $4, $5);

-- name: insert_provisioning_event
INSERT INTO consent.provisioning_events (webhook_id, order_id, order_hash, at) VALUES ($1, $2, $3, $4);

-- name: insert_inbound_message
INSERT INTO consent.inbound_messages (channel, message_id, number, order_id, result, received_at)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (channel, message_id) DO NOTHING RETURNING 1;

-- name: select_inbound_message
SELECT order_id FROM consent.inbound_messages WHERE channel = $1 AND message_id = $2;

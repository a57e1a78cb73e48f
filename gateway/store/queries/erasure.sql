-- name: has_pending_deliveries
SELECT EXISTS (SELECT FROM consent.deliveries WHERE order_id = $1 AND state = 'pending');

-- name: erase_record
SELECT consent.erase_record($1);

-- name: insert_erased_call
INSERT INTO consent.erased_calls (call_id, gateway, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: erased_calls
SELECT call_id FROM consent.erased_calls WHERE gateway = $1 ORDER BY call_id;

-- name: forget_erased_call
DELETE FROM consent.erased_calls WHERE gateway = $1 AND call_id = $2;

-- name: orders_without_key
SELECT order_id FROM unnest($1::uuid[]) AS known (order_id)
WHERE NOT EXISTS (SELECT FROM consent.record_keys WHERE record_keys.order_id = known.order_id);

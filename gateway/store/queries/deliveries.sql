-- name: insert_delivery
INSERT INTO consent.deliveries (
    webhook_id, kind, tenant, endpoint, order_id, event_id, provisioning_id, body, created_at, updated_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9);

-- name: select_attemptable
-- A delivery, and all that decides whether it is posted now. wait_s: how long its schedule wants it to wait still.
SELECT d.webhook_id, d.kind, d.tenant, d.endpoint, d.order_id, d.body, d.state, d.schedule, o.state AS order_state, k.wrapped,
    extract(epoch FROM d.next_at - now())::float8 AS wait_s, coalesce((
        SELECT CASE WHEN c.disabled THEN c.reason END FROM consent.endpoint_changes c
        WHERE (c.tenant, c.endpoint) = (d.tenant, d.endpoint) ORDER BY c.change_id DESC LIMIT 1
    ), '') AS disabled
FROM consent.deliveries d JOIN consent.orders o USING (order_id) LEFT JOIN consent.record_keys k USING (order_id)
WHERE d.webhook_id = $1;

-- name: note_attempt
-- A replay that came meanwhile ($2 is the schedule of the attempt) has begun a schedule of its own, which only a success ends.
UPDATE consent.deliveries SET
    attempts = attempts + 1, last_status = $4, last_error = $5, updated_at = $7,
    state = CASE WHEN $3 = 'delivered' OR schedule = $2 THEN $3 ELSE state END,
    next_at = CASE WHEN $3 = 'delivered' THEN NULL WHEN schedule = $2 THEN now() + $6::interval ELSE next_at END,
    delivered_at = CASE WHEN $3 = 'delivered' THEN coalesce(delivered_at, $7) ELSE delivered_at END
WHERE webhook_id = $1 RETURNING attempts;

-- name: insert_attempt
INSERT INTO consent.delivery_attempts (webhook_id, attempt, at, gateway, status, error, duration_ms, answer)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: end_delivery
-- Without an attempt.
UPDATE consent.deliveries SET state = $3, last_error = $4, next_at = NULL, updated_at = $5
WHERE webhook_id = $1 AND schedule = $2 AND state = 'pending' RETURNING attempts;

-- name: revive_deliveries
-- What is neither under way nor of an order that was frozen after it was confirmed begins its schedule again.
WITH revived AS (
    UPDATE consent.deliveries d SET state = 'pending', schedule = schedule + 1, next_at = NULL, updated_at = $9
    WHERE ($1::uuid IS NULL OR d.webhook_id = $1) AND ($2::text IS NULL OR d.tenant = $2)
        AND ($3::text IS NULL OR d.endpoint = $3) AND ($4::text IS NULL OR d.kind = $4)
        AND ($5::text IS NULL OR d.state = $5)
        AND ($6::timestamptz IS NULL OR d.created_at >= $6) AND ($7::timestamptz IS NULL OR d.created_at < $7)
        AND (d.kind <> 'consent.confirmed' OR EXISTS (
            SELECT FROM consent.orders o WHERE o.order_id = d.order_id AND o.state = ANY ($8::text[])
        ))
        AND EXISTS (SELECT FROM consent.record_keys k WHERE k.order_id = d.order_id)
        AND (d.state <> 'pending' OR NOT EXISTS (
            SELECT FROM consent.jobs j WHERE j.key = d.webhook_id || ':' || d.schedule AND j.state = 'ready'
        ))
    RETURNING webhook_id, schedule
), jobs AS (
    INSERT INTO consent.jobs (kind, key, payload)
    SELECT 'deliver_webhook', webhook_id || ':' || schedule,
        jsonb_build_object('webhook_id', webhook_id::text, 'schedule', schedule)
    FROM revived ON CONFLICT (key) DO NOTHING RETURNING job_id
)
SELECT count(*), pg_notify('consent_jobs', '') FROM jobs;

-- name: hurry_deliveries
-- The deliveries of an endpoint that wait for their next attempt: due now. What runs at this moment (it has a token) is left alone.
WITH waiting AS (
    SELECT webhook_id FROM consent.deliveries WHERE tenant = $1 AND endpoint = $2 AND state = 'pending'
    ORDER BY webhook_id FOR UPDATE SKIP LOCKED
), hurried AS (
    UPDATE consent.deliveries d SET next_at = now() FROM waiting w WHERE d.webhook_id = w.webhook_id
    RETURNING d.webhook_id, d.schedule
)
UPDATE consent.jobs j SET run_at = now() FROM hurried h
WHERE j.key = h.webhook_id || ':' || h.schedule AND j.state = 'ready' AND j.token IS NULL;

-- name: insert_endpoint_change
INSERT INTO consent.endpoint_changes (tenant, endpoint, disabled, reason, at) VALUES ($1, $2, $3, $4, $5);

-- name: endpoint_states
SELECT DISTINCT ON (tenant, endpoint) tenant, endpoint, disabled, reason, at FROM consent.endpoint_changes
ORDER BY tenant, endpoint, change_id DESC;

-- name: pending_by_endpoint
SELECT tenant, endpoint, count(*) FILTER (WHERE state = 'pending') AS pending, count(*) FILTER (WHERE state = 'dead') AS dead
FROM consent.deliveries WHERE state IN ('pending', 'dead') GROUP BY tenant, endpoint;

-- name: select_delivery
SELECT d.webhook_id, d.kind, d.tenant, d.endpoint, d.order_id, d.event_id, d.body, d.state, d.schedule, d.attempts,
    d.last_status, d.last_error, d.next_at, d.created_at, d.updated_at, d.delivered_at, o.state AS order_state
FROM consent.deliveries d JOIN consent.orders o USING (order_id) WHERE d.webhook_id = $1;

-- name: deliveries_of_order
SELECT webhook_id FROM consent.deliveries WHERE order_id = $1 ORDER BY created_at, webhook_id;

-- name: select_attempts
SELECT attempt, at, gateway, status, error, duration_ms, answer FROM consent.delivery_attempts
WHERE webhook_id = $1 ORDER BY attempt;

-- name: find_deliveries_by_prefix
SELECT webhook_id FROM consent.deliveries WHERE webhook_id::text LIKE $1 || '%' LIMIT 2;

-- name: list_deliveries
SELECT webhook_id, kind, tenant, endpoint, order_id, state, attempts, last_status, last_error, next_at, created_at, updated_at,
    delivered_at
FROM consent.deliveries
WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR kind = $3)
    AND ($4::uuid IS NULL OR order_id = $4) AND ($5::text IS NULL OR endpoint = $5)
    AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7)
    AND ($8::timestamptz IS NULL OR (created_at, webhook_id) < ($8, $9::uuid))
ORDER BY created_at DESC, webhook_id DESC LIMIT $10;

-- name: insert_billing_reference
INSERT INTO consent.billing_references (order_id, tenant, reference, at) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING 1;

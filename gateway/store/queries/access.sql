-- name: insert_api_key
INSERT INTO consent.api_keys (key_id, tenant, name, secret_hash, scopes, rate, burst, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: select_api_key
SELECT k.key_id, k.tenant, k.name, k.secret_hash, k.scopes, k.rate, k.burst, k.created_at, k.expires_at, k.last_used_at,
    r.at AS revoked_at
FROM consent.api_keys k LEFT JOIN consent.api_key_revocations r USING (key_id) WHERE k.key_id = $1;

-- name: list_api_keys
SELECT k.key_id, k.tenant, k.name, k.scopes, k.rate, k.burst, k.created_at, k.expires_at, k.last_used_at,
    r.at AS revoked_at, r.reason AS revoked_because
FROM consent.api_keys k LEFT JOIN consent.api_key_revocations r USING (key_id)
WHERE $1::text IS NULL OR k.tenant = $1 ORDER BY k.created_at DESC, k.key_id;

-- name: revoke_api_key
INSERT INTO consent.api_key_revocations (key_id, reason, at) SELECT key_id, $2, $3 FROM consent.api_keys WHERE key_id = $1
ON CONFLICT (key_id) DO NOTHING;

-- name: touch_api_key
UPDATE consent.api_keys SET last_used_at = $2 WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < $2);

-- name: lock_idempotency_key
SELECT pg_try_advisory_xact_lock(hashtextextended($1 || ' ' || encode($2, 'hex'), 0));

-- name: select_idempotency_key
SELECT fingerprint, order_id FROM consent.idempotency_keys WHERE tenant = $1 AND key_hash = $2;

-- name: insert_idempotency_key
INSERT INTO consent.idempotency_keys (tenant, key_hash, fingerprint, order_id, at) VALUES ($1, $2, $3, $4, $5);

-- name: forget_idempotency_keys
DELETE FROM consent.idempotency_keys WHERE (tenant, key_hash) IN (
    SELECT tenant, key_hash FROM consent.idempotency_keys WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
);

-- name: insert_audit
INSERT INTO consent.audit (at, tenant, key_id, method, route, order_id, status, remote)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: page_of_audit
SELECT audit_id, at, key_id, method, route, order_id, status, remote FROM consent.audit
WHERE tenant = $1 AND ($2::text IS NULL OR key_id = $2) AND ($3::timestamptz IS NULL OR at >= $3)
    AND ($4::timestamptz IS NULL OR at < $4) AND ($5::bigint IS NULL OR audit_id < $5)
ORDER BY audit_id DESC LIMIT $6;

-- name: page_of_orders
SELECT order_id, tenant, number, state, created_at, updated_at FROM consent.orders
WHERE tenant = $1 AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR number = $3)
    AND ($4::timestamptz IS NULL OR created_at >= $4) AND ($5::timestamptz IS NULL OR created_at < $5)
    AND ($6::timestamptz IS NULL OR (created_at, order_id) < ($6, $7::uuid))
ORDER BY created_at DESC, order_id DESC LIMIT $8;

-- name: lock_offer
SELECT pg_advisory_xact_lock(hashtextextended('offer ' || $1 || ' ' || $2, 0));

-- name: insert_offer
INSERT INTO consent.offers (tenant, offer_id, version, sha256, terms, key_id, at) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: offer_versions
SELECT o.offer_id, o.version, o.sha256, o.terms, o.at, w.at AS withdrawn_at, coalesce(w.reason, '') AS withdrawn_because
FROM consent.offers o LEFT JOIN consent.offer_withdrawals w USING (tenant, offer_id, version)
WHERE o.tenant = $1 AND o.offer_id = $2 AND ($3::integer IS NULL OR o.version < $3) ORDER BY o.version DESC LIMIT $4;

-- name: page_of_offers
SELECT DISTINCT ON (o.offer_id) o.offer_id, o.version, o.sha256, o.terms, o.at, w.at AS withdrawn_at,
    coalesce(w.reason, '') AS withdrawn_because
FROM consent.offers o LEFT JOIN consent.offer_withdrawals w USING (tenant, offer_id, version)
WHERE o.tenant = $1 AND ($2::text IS NULL OR o.offer_id > $2) ORDER BY o.offer_id, o.version DESC LIMIT $3;

-- name: withdraw_offer
INSERT INTO consent.offer_withdrawals (tenant, offer_id, version, reason, key_id, at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING;

-- name: block_number
INSERT INTO consent.do_not_call (number, tenant, action, source, reason, order_id, at)
SELECT $1, tenant, 'block', 'subscriber', $2, order_id, $4 FROM consent.orders WHERE order_id = $3;

-- name: is_blocked
SELECT EXISTS (
    SELECT FROM consent.do_not_call b WHERE b.number = $1 AND b.action = 'block' AND NOT EXISTS (
        SELECT FROM consent.do_not_call l
        WHERE l.number = b.number AND l.tenant = b.tenant AND l.entry_id > b.entry_id AND l.action = 'lift'
    )
);

-- name: which_are_blocked
SELECT DISTINCT b.number FROM consent.do_not_call b WHERE b.number = ANY ($1::text[]) AND b.action = 'block' AND NOT EXISTS (
    SELECT FROM consent.do_not_call l
    WHERE l.number = b.number AND l.tenant = b.tenant AND l.entry_id > b.entry_id AND l.action = 'lift'
);

-- name: lock_number
SELECT pg_advisory_xact_lock(hashtextextended('number ' || $1, 0));

-- name: last_do_not_call
SELECT entry_id, number, action, source, reason, order_id, at FROM consent.do_not_call
WHERE number = $1 AND tenant = $2 ORDER BY entry_id DESC LIMIT 1;

-- name: insert_do_not_call
INSERT INTO consent.do_not_call (number, tenant, action, source, reason, key_id, at)
VALUES ($1, $2, $3, 'api', $4, $5, $6) RETURNING entry_id, number, action, source, reason, order_id, at;

-- name: page_of_do_not_call
SELECT b.entry_id, b.number, b.action, b.source, b.reason, b.order_id, b.at FROM consent.do_not_call b
WHERE b.tenant = $1 AND ($2::bigint IS NULL OR b.entry_id < $2) AND ($3 OR (b.action = 'block' AND NOT EXISTS (
    SELECT FROM consent.do_not_call l WHERE l.number = b.number AND l.tenant = b.tenant AND l.entry_id > b.entry_id
)))
ORDER BY b.entry_id DESC LIMIT $4;

-- name: tenant_of_order
SELECT tenant FROM consent.orders WHERE order_id = $1;

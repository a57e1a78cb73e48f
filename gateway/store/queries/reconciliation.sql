-- name: orders_of_bills
-- What is known of each bill; one without an order is found by billing's own reference.
SELECT b.line, coalesce(b.order_id, CASE WHEN r.many = 1 THEN r.one END) AS order_id, r.many, o.tenant, o.state,
    c.replied_at AS confirmed_at
FROM unnest($2::bigint[], $3::uuid[], $4::text[]) AS b (line, order_id, reference)
    LEFT JOIN LATERAL (
        SELECT count(*) AS many, min(k.order_id::text)::uuid AS one FROM consent.billing_references k
        WHERE b.order_id IS NULL AND k.reference = b.reference AND ($1::text IS NULL OR k.tenant = $1)
    ) r ON true
    LEFT JOIN consent.orders o ON o.order_id = coalesce(b.order_id, CASE WHEN r.many = 1 THEN r.one END)
    LEFT JOIN consent.confirmations c ON c.order_id = o.order_id
ORDER BY b.line;

-- name: consents_to_bill
SELECT c.order_id FROM consent.confirmations c JOIN consent.orders o USING (order_id)
WHERE o.state = ANY ($2::text[]) AND ($1::text IS NULL OR o.tenant = $1)
    AND ($3::timestamptz IS NULL OR c.replied_at >= $3) AND ($4::timestamptz IS NULL OR c.replied_at < $4)
ORDER BY c.replied_at, c.order_id;

-- name: unbilled_consents
SELECT c.order_id, o.tenant, c.replied_at AS confirmed_at, d.state AS webhook, d.last_error, d.delivered_at, (
        SELECT string_agg(k.reference, ', ' ORDER BY k.at, k.reference) FROM consent.billing_references k
        WHERE k.order_id = c.order_id
    ) AS reference
FROM consent.confirmations c JOIN consent.orders o USING (order_id)
    LEFT JOIN consent.deliveries d ON d.order_id = c.order_id AND d.kind = 'consent.confirmed'
WHERE c.order_id = ANY ($1::uuid[]) ORDER BY c.replied_at, c.order_id;

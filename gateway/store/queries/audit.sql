-- What `ledger verify` reads: all of it, in one order, a few rows at a time.

-- name: count_ledger
SELECT (SELECT count(*) FROM consent.events) AS events, (SELECT count(*) FROM consent.pending_leaves) AS pending,
    (SELECT count(*) FROM consent.leaves) AS leaves, (SELECT count(*) FROM consent.nodes) AS nodes;

-- name: all_events
SELECT order_id, seq, event_id, at, type, envelope, hash, wrapped
FROM consent.events LEFT JOIN consent.record_keys USING (order_id) ORDER BY order_id, seq;

-- name: all_leaves
SELECT leaf, order_id, seq, envelope FROM consent.leaves LEFT JOIN consent.events USING (order_id, seq) ORDER BY leaf;

-- name: all_nodes
-- In the order in which a growing tree makes them whole; such as could be in no tree are left out.
SELECT level, place, hash FROM consent.nodes WHERE level BETWEEN 0 AND 47 AND place >= 0 AND place < 1::bigint << (47 - level)
ORDER BY (place + 1) << level, level;

-- name: all_checkpoints
SELECT size, note, token, timestamps.at AS dated_at
FROM consent.checkpoints LEFT JOIN consent.timestamps USING (size) ORDER BY size;

-- name: empty_records
SELECT order_id FROM consent.orders WHERE NOT EXISTS (SELECT FROM consent.events WHERE events.order_id = orders.order_id);

-- name: lost_leaves
-- Events that neither are leaves nor wait to be.
SELECT order_id, seq FROM consent.events
WHERE NOT EXISTS (SELECT FROM consent.leaves WHERE (leaves.order_id, leaves.seq) = (events.order_id, events.seq))
    AND NOT EXISTS (
        SELECT FROM consent.pending_leaves AS p WHERE (p.order_id, p.seq, p.hash) = (events.order_id, events.seq, events.hash)
    )
LIMIT 100;

-- name: false_leaves
-- What waits to be a leaf and is no event, or is one already.
SELECT order_id, seq FROM consent.pending_leaves AS p
WHERE NOT EXISTS (
        SELECT FROM consent.events AS e WHERE (e.order_id, e.seq, e.hash) = (p.order_id, p.seq, p.hash)
    )
    OR EXISTS (SELECT FROM consent.leaves WHERE (leaves.order_id, leaves.seq) = (p.order_id, p.seq))
LIMIT 100;

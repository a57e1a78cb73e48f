-- name: lock_tree
SELECT pg_advisory_xact_lock(7226381121);

-- name: next_pending
-- In the order in which they were written; what another transaction has not committed yet comes later. They are pending until they
-- are leaves.
SELECT order_id, seq, hash FROM consent.pending_leaves ORDER BY position LIMIT $1;

-- name: tree_size
SELECT coalesce(max(leaf) + 1, 0) FROM consent.leaves;

-- name: insert_leaves
INSERT INTO consent.leaves (leaf, order_id, seq) SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::int[]);

-- name: insert_nodes
INSERT INTO consent.nodes (level, place, hash) SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[]);

-- name: select_nodes
SELECT level, place, hash FROM consent.nodes
JOIN unnest($1::smallint[], $2::bigint[]) AS wanted (level, place) USING (level, place);

-- name: leaves_of
SELECT seq, leaf FROM consent.leaves WHERE order_id = $1 ORDER BY seq;

-- name: insert_checkpoint
INSERT INTO consent.checkpoints (size, note, at) VALUES ($1, $2, $3) ON CONFLICT (size) DO NOTHING;

-- name: last_checkpoint
SELECT size, note, at FROM consent.checkpoints ORDER BY size DESC LIMIT 1;

-- name: first_checkpoint_covering
SELECT size, note, at FROM consent.checkpoints WHERE size > $1 ORDER BY size LIMIT 1;

-- name: insert_timestamp
INSERT INTO consent.timestamps (size, token, at) VALUES ($1, $2, $3) ON CONFLICT (size) DO NOTHING;

-- name: last_timestamp
SELECT size, token, at FROM consent.timestamps ORDER BY size DESC LIMIT 1;

-- name: first_dated_checkpoint_covering
-- The first checkpoint over a leaf that a time-stamping authority has dated, up to a size.
SELECT c.size, c.note, t.token FROM consent.timestamps t JOIN consent.checkpoints c USING (size)
WHERE t.size > $1 AND t.size <= $2 ORDER BY t.size LIMIT 1;

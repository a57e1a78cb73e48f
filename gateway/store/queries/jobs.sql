-- name: enqueue
WITH job AS (
    INSERT INTO consent.jobs (kind, key, payload, run_at) VALUES ($1, $2, $3::text::jsonb, coalesce($4, now()))
    ON CONFLICT (key) DO NOTHING RETURNING job_id
)
SELECT job_id FROM job, LATERAL (SELECT pg_notify('consent_jobs', '')) AS woken;

-- name: claim
-- A claim or an outcome that a crash of the server forgets makes the job run again, which it may: no wait for the disk.
WITH quick AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), due AS (
    SELECT job.job_id FROM unnest($1::text[], $2::int[]) AS free (kind, places), LATERAL (
        SELECT job_id FROM consent.jobs
        WHERE state = 'ready' AND run_at <= now() AND jobs.kind = free.kind
        ORDER BY run_at LIMIT free.places FOR UPDATE SKIP LOCKED
    ) AS job
)
UPDATE consent.jobs SET attempts = attempts + 1, token = gen_random_uuid(), run_at = now() + $3, gateway = $4
FROM due, quick WHERE jobs.job_id = due.job_id
RETURNING jobs.job_id, kind, payload::text, attempts, token;

-- name: take_over
UPDATE consent.jobs SET run_at = now(), token = NULL WHERE state = 'ready' AND token IS NOT NULL AND gateway = $1;

-- name: next_due
SELECT extract(epoch FROM min(run_at) - clock_timestamp())::float8 FROM consent.jobs
WHERE state = 'ready' AND kind = ANY ($1);

-- name: complete
WITH quick AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
)
UPDATE consent.jobs SET state = 'done', finished_at = now() FROM quick
WHERE job_id = $1 AND token = $2 AND state = 'ready' RETURNING 1;

-- name: retry_or_hold
UPDATE consent.jobs
SET state = CASE WHEN $3::interval IS NULL THEN 'held' ELSE 'ready' END,
    run_at = now() + coalesce($3, '0'), error = $4, token = NULL, attempts = attempts - $5::bool::int
WHERE job_id = $1 AND token = $2 AND state = 'ready';

-- The SQL of billing's jobs. Each capability has its own queries.sql.

-- name: lock_job
-- Takes the lock of a job for this transaction; false if another worker is at it.
SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0));

-- name: last_run
-- The time that the last recorded run of a job was due at, else when the first usage was rated: nothing is due before that.
SELECT coalesce((SELECT max(scheduled_for) FROM job_runs WHERE job = $1), (SELECT rated_at FROM rating_runs ORDER BY id LIMIT 1));

-- name: unfinished_runs
-- Runs that did not come to an end: they are made again.
SELECT scheduled_for FROM job_runs WHERE job = $1 AND finished_at IS NULL ORDER BY scheduled_for;

-- name: begin_job
-- Records a run. The key makes it one run, begun once, however often it has to be made.
INSERT INTO job_runs (job, scheduled_for, worker) VALUES ($1, $2, $3)
ON CONFLICT (job, scheduled_for) DO NOTHING;

-- name: end_job
-- Keeps what a run came to; finished ($4) or to be made again.
UPDATE job_runs SET finished_at = CASE WHEN $4 THEN clock_timestamp() END, result = $3 WHERE job = $1 AND scheduled_for = $2;

-- name: last_result
-- What the last run of a job that ended came to, and when.
SELECT finished_at, result FROM job_runs WHERE job = $1 AND finished_at IS NOT NULL ORDER BY scheduled_for DESC LIMIT 1;

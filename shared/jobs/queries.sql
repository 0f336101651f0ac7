-- The SQL of scheduled jobs.

-- name: lock_job
-- Takes the lock of a job for this transaction; free is false if another worker is at it. The lock, not the row, keeps two workers from
-- running the same time side by side: the row is written when the effect is done, so that a long run holds no transaction id.
SELECT pg_try_advisory_xact_lock(hashtextextended('tallystick.job.' || $1, 0)) AS free, clock_timestamp() AS at;

-- name: act_as
-- Says for the audit trail who asks for the run that this transaction makes.
SELECT set_config('tallystick.actor', $1, true);

-- name: last_scheduled
-- The latest time that a job was run for by its timer. A run by hand does not count: it must not hide an earlier time that is due.
SELECT max(scheduled_for) FROM job_runs WHERE job = $1 AND asked_by IS NULL;

-- name: unfinished_runs
-- Runs that did not come to an end: they are made again. Of a job that looks at the present ($2) only what no later run has made up for.
SELECT scheduled_for FROM job_runs
WHERE job = $1 AND finished_at IS NULL
  AND (NOT $2::boolean OR scheduled_for > coalesce((SELECT max(scheduled_for) FROM job_runs WHERE job = $1 AND finished_at IS NOT NULL), '-infinity'));

-- name: finished_among
-- Which of some times were run to the end already.
SELECT scheduled_for FROM job_runs WHERE job = $1 AND scheduled_for = ANY($2::timestamptz[]) AND finished_at IS NOT NULL;

-- name: record_run
-- Keeps what a run came to; finished ($4) or to be made again. The key makes it one run, however often it has to be made.
INSERT INTO job_runs AS r (job, scheduled_for, started_at, finished_at, worker, asked_by, result)
VALUES ($1, $2, $3, CASE WHEN $4 THEN clock_timestamp() END, $5, $6, $7)
ON CONFLICT (job, scheduled_for) DO UPDATE
SET started_at = excluded.started_at, finished_at = excluded.finished_at, worker = excluded.worker, result = excluded.result,
    attempts = r.attempts + 1
WHERE r.finished_at IS NULL;

-- name: forget_looks
-- Deletes what a job that looks at the present was run for before $2: its schedule needs the last run only.
DELETE FROM job_runs WHERE job = $1 AND scheduled_for < $2 AND asked_by IS NULL;

-- name: run_of
-- The record of one run.
SELECT finished_at, worker, asked_by FROM job_runs WHERE job = $1 AND scheduled_for = $2;

-- name: last_runs
-- The last run of each of some jobs, finished or not; without the details of what it came to.
SELECT r.job, r.scheduled_for, r.started_at, r.finished_at, r.worker, r.asked_by, r.attempts, r.result - 'details' AS result
FROM unnest($1::text[]) AS wanted (job)
CROSS JOIN LATERAL (SELECT * FROM job_runs WHERE job = wanted.job ORDER BY scheduled_for DESC LIMIT 1) r;

-- name: recent_runs
-- The last $2 runs of a job, finished or not, the newest first; without their details.
SELECT scheduled_for, started_at, finished_at, worker, asked_by, attempts, result - 'details' AS result
FROM job_runs WHERE job = $1 ORDER BY scheduled_for DESC LIMIT $2;

-- name: details_of_run
-- The details of what a run came to: of the one for $2, or without a time of the last one that ended.
SELECT scheduled_for, result->'details' AS details FROM job_runs
WHERE job = $1 AND finished_at IS NOT NULL AND ($2::timestamptz IS NULL OR scheduled_for = $2) ORDER BY scheduled_for DESC LIMIT 1;

-- name: being_run
-- Which of some jobs somebody is at right now: whose lock is held. A lock's key is in two halves.
SELECT wanted.job
FROM unnest($1::text[]) AS wanted (job)
WHERE EXISTS (SELECT FROM pg_locks l
              WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid <> pg_backend_pid()
                AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended('tallystick.job.' || wanted.job, 0));

-- name: last_result
-- What the last run of a job that ended came to, and when.
SELECT finished_at, result - 'details' AS result FROM job_runs WHERE job = $1 AND finished_at IS NOT NULL ORDER BY scheduled_for DESC LIMIT 1;

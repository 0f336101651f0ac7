-- The SQL of the fault harness: how it disturbs, and what it counts at the end.

-- name: terminate_sessions
-- Ends every session of the workers.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name IN ('tallystick-ingest', 'tallystick-aggregator', 'tallystick-billing');

-- name: hold_ingest_position
-- Holds the position of partition $1 until the transaction ends: whoever reads it waits.
SELECT next_offset FROM ingest_positions WHERE partition = $1 FOR UPDATE;

-- name: read_only
-- What a demoted server says to new sessions.
ALTER DATABASE tallystick SET default_transaction_read_only = on;

-- name: writable
-- Undoes it.
ALTER DATABASE tallystick RESET default_transaction_read_only;

-- name: make_next_month
-- The partition of next month, which is empty: no event may lie so far ahead.
SELECT ensure_usage_partition(now() + interval '1 month');

-- name: drop_next_month
-- Drops it again, in front of workers that may believe it is there.
DO $$ BEGIN EXECUTE format('DROP TABLE %I', ensure_usage_partition(now() + interval '1 month')); END $$;

-- name: rated
-- Requests that billing has rated, by subscription.
SELECT subscription_id::text AS subscription_id, sum(requests)::bigint AS requests FROM rated_usage GROUP BY subscription_id;

-- name: conflicts
-- Records that were refused because their event was stored with other content.
SELECT count(*) FROM quarantined_events WHERE reason = 'conflict';

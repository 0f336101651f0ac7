-- name: try_lock
-- Only one migrator at a time. Tried, not waited for: a waiting session would itself hold a snapshot that concurrent index builds wait for.
-- $1 key
SELECT pg_try_advisory_lock($1);

-- name: unlock
-- $1 key
SELECT pg_advisory_unlock($1);

-- name: limit_lock_waits
-- A migration that waits for a table makes everyone behind it wait too: give up soon, let them through, and try again.
SET lock_timeout = '2s';

-- name: wait_for_locks
-- For what makes nobody wait while it waits.
SET lock_timeout = 0;

-- name: oldest_transaction
-- Most likely who holds the lock.
SELECT format('process %s (%s, %s), for %s s: %s', pid, usename, coalesce(nullif(application_name, ''), 'unnamed'),
              extract(epoch FROM now() - xact_start)::integer, left(regexp_replace(query, '\s+', ' ', 'g'), 60))
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'
ORDER BY xact_start LIMIT 1;

-- name: create_history
-- What has been applied.
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    text PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: has_history
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: history
SELECT version, name, checksum FROM schema_migrations ORDER BY version;

-- name: record
-- $1 version, $2 name, $3 checksum
INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3);

-- name: has_role_rights
-- Whether the migrations have come to the roles of the services.
SELECT to_regprocedure('apply_role_rights()') IS NOT NULL;

-- name: roles_without_rights
-- Roles that are missing, or that this database does not know: they were made, or it was restored on another server, after migrating.
-- PUBLIC's rights do not count: it has none.
SELECT count(*) FROM unnest(ARRAY['tallystick_ingest', 'tallystick_aggregator', 'tallystick_billing', 'tallystick_readonly']) AS role
WHERE CASE WHEN to_regrole(role) IS NULL THEN true ELSE NOT has_any_column_privilege(role, 'subscriptions', 'SELECT') END;

-- name: apply_role_rights
SELECT apply_role_rights();

-- name: drop_everything
DROP SCHEMA IF EXISTS public CASCADE;

-- name: create_schema
CREATE SCHEMA public AUTHORIZATION pg_database_owner;

-- name: open_schema
-- As initdb leaves it.
GRANT USAGE ON SCHEMA public TO PUBLIC;

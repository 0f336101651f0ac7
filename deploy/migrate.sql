-- name: try_lock
-- Only one migrator at a time. Tried, not waited for: a waiting session would itself hold a snapshot that concurrent index builds wait for.
-- $1 key
SELECT pg_try_advisory_lock($1);

-- name: unlock
-- $1 key
SELECT pg_advisory_unlock($1);

-- name: limit_lock_waits
-- A migration that waits for a table makes everyone behind it wait too: give up soon and let a person choose a better moment.
SET lock_timeout = '10s';

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

-- name: drop_everything
DROP SCHEMA IF EXISTS public CASCADE;

-- name: create_schema
CREATE SCHEMA public AUTHORIZATION pg_database_owner;

-- name: open_schema
-- As initdb leaves it.
GRANT USAGE ON SCHEMA public TO PUBLIC;

-- name: server
-- What server this is, how large its database, whether it takes writes, and the age of its oldest transaction id.
SELECT current_setting('server_version') AS version, current_database() AS name, pg_database_size(current_database()) AS bytes,
       pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS read_only,
       (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS xid_age;

-- name: clock
-- What time the server has.
SELECT clock_timestamp();

-- name: settings
-- The settings named in $1.
SELECT name, setting FROM pg_settings WHERE name = ANY ($1::text[]);

-- name: connections
-- Sessions of clients on the whole server, which share its limit.
SELECT coalesce(nullif(application_name, ''), '(unnamed)') AS application, count(*) AS sessions
FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1;

-- name: be_brief
-- Who looks must not wait: measuring a table needs a lock on it.
SET lock_timeout = '1s';

-- name: tables
-- The size of each table with its indexes, its dead rows, and when it was last vacuumed.
SELECT c.oid::regclass::text AS name, pg_table_size(c.oid) AS table_bytes, pg_indexes_size(c.oid) AS index_bytes,
       coalesce(s.n_live_tup, 0) AS live, coalesce(s.n_dead_tup, 0) AS dead,
       greatest(s.last_vacuum, s.last_autovacuum) AS last_vacuum, greatest(s.last_analyze, s.last_autoanalyze) AS last_analyze
FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'm')
ORDER BY pg_total_relation_size(c.oid) DESC;

-- name: tables_by_statistics
-- The same without a lock: as large as they were when they were last vacuumed or analyzed.
SELECT c.oid::regclass::text AS name, c.relpages::bigint * current_setting('block_size')::bigint AS table_bytes,
       (SELECT coalesce(sum(x.relpages), 0) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid)::bigint
           * current_setting('block_size')::bigint AS index_bytes,
       coalesce(s.n_live_tup, 0) AS live, coalesce(s.n_dead_tup, 0) AS dead,
       greatest(s.last_vacuum, s.last_autovacuum) AS last_vacuum, greatest(s.last_analyze, s.last_autoanalyze) AS last_analyze
FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'm')
ORDER BY c.relpages DESC;

-- name: invalid_indexes
-- Left over from a concurrent build that failed: written, never read.
SELECT i.indexrelid::regclass::text AS name
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = current_schema()::regnamespace AND NOT i.indisvalid AND c.relkind = 'i' ORDER BY 1;

-- name: sessions
-- Transactions that have been open for longer than $1 seconds, or for which others wait.
SELECT pid, usename::text AS user, coalesce(nullif(application_name, ''), '(unnamed)') AS application, coalesce(state, '') AS state,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds, blocks
FROM pg_stat_activity a,
     LATERAL (SELECT count(*) FROM pg_stat_activity w WHERE w.wait_event_type = 'Lock' AND a.pid = ANY (pg_blocking_pids(w.pid))) AS waiting (blocks)
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
  AND (blocks > 0 OR clock_timestamp() - xact_start > make_interval(secs => $1))
ORDER BY xact_start;

-- name: missing_months
-- Which of the month of $1 (UTC) and the $2 after it have no partition.
SELECT to_char(month, 'YYYY-MM') AS month
FROM date_trunc('month', $1::timestamptz AT TIME ZONE 'UTC') first, generate_series(first, first + make_interval(months => $2), '1 month') month
WHERE NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                  WHERE i.inhparent = 'usage_logs'::regclass AND c.relname = 'usage_logs_' || to_char(month, 'YYYY_MM'))
ORDER BY 1;

-- name: roles
-- Every role of the services, and how many of its rights on tables and views it lacks.
SELECT s.role AS name, r.oid IS NOT NULL AS exists,
       (SELECT count(*) FROM role_rights g JOIN pg_class c ON c.relname = g.object AND c.relnamespace = current_schema()::regnamespace
        WHERE g.role = s.role AND NOT CASE WHEN r.oid IS NULL OR g.privilege = 'EXECUTE' THEN true
                                           WHEN g.columns IS NULL THEN has_table_privilege(r.oid, c.oid, g.privilege)
                                           ELSE has_any_column_privilege(r.oid, c.oid, g.privilege) END) AS missing_rights
FROM service_roles s LEFT JOIN pg_roles r ON r.rolname = s.role
ORDER BY 1;

-- name: slots
-- What each replication slot keeps.
SELECT slot_name AS name, active, coalesce(pg_wal_lsn_diff(now_at, restart_lsn), 0)::bigint AS kept_bytes
FROM pg_replication_slots, LATERAL (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END) AS here (now_at)
ORDER BY 1;

-- name: positions
-- The newest epoch of each partition of this cluster ($1).
SELECT DISTINCT ON (service, topic, partition) service, topic, partition, next_offset
FROM (SELECT 'ingest' AS service, topic, partition, epoch, next_offset FROM ingest_positions WHERE cluster = $1
      UNION ALL SELECT 'aggregator', topic, partition, epoch, next_offset FROM aggregator_positions WHERE cluster = $1
      UNION ALL SELECT 'billing', topic, partition, epoch, next_offset FROM billing_positions WHERE cluster = $1) positions
ORDER BY service, topic, partition, epoch DESC;

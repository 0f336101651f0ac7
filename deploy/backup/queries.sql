-- name: snapshot
-- The snapshot of this transaction, for pg_dump to work in.
SELECT pg_export_snapshot();

-- name: server
-- What is dumped, and whether row-level security is above us: then it must be left on, and the owner's policy shows us all.
SELECT current_database() AS database, current_setting('server_version') AS version, now() AS taken_at,
       NOT (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS under_row_security;

-- name: hidden_tables
-- Tables with row-level security of which a policy may hide rows from us: not ours, or without the owner's policy.
SELECT c.oid::regclass::text AS relation
FROM pg_class c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relrowsecurity
  AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'service_roles'
                  AND EXISTS (SELECT FROM unnest(p.polroles) role WHERE pg_has_role(current_user, role, 'USAGE')))
ORDER BY 1;

-- name: tables
-- Every table that holds rows itself: partitioned ones do not.
SELECT oid::regclass::text AS relation FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' ORDER BY 1;

-- name: positions
-- Where each service goes on in Kafka.
SELECT 'ingest' AS service, cluster, topic, partition, epoch, next_offset FROM ingest_positions
UNION ALL SELECT 'aggregator', cluster, topic, partition, epoch, next_offset FROM aggregator_positions
UNION ALL SELECT 'billing', cluster, topic, partition, epoch, next_offset FROM billing_positions
ORDER BY 1, 2, 3, 4, 5;

-- name: closed_functions
-- Functions that not everybody may call, but those with an owner's rights that apply_role_rights() closes by itself.
SELECT p.oid::regprocedure::text AS function
FROM pg_proc p
WHERE p.pronamespace = current_schema()::regnamespace AND NOT has_function_privilege('public', p.oid, 'EXECUTE')
ORDER BY 1;

-- name: has_schema
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: schema_version
SELECT max(version) FROM schema_migrations;

-- name: contents
-- How much is in the schema already, but for what extensions brought. Nothing may be, where a backup is to go.
SELECT count(*) FROM (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace
                      UNION ALL SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace) AS present
WHERE NOT EXISTS (SELECT FROM pg_depend WHERE objid = present.oid AND deptype = 'e');

-- name: secured_tables
-- Tables with row-level security of which their owner sees nothing yet.
SELECT c.oid::regclass::text AS relation, pg_get_userbyid(c.relowner) AS owner
FROM pg_class c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relrowsecurity
  AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'service_roles')
ORDER BY 1;

-- name: materialized_views
-- In the order in which they were made: one may read another.
SELECT oid::regclass::text AS relation FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'm' ORDER BY oid;

-- name: analyze
-- A restored database knows nothing of its tables' contents: without this the first plans are bad.
ANALYZE;

-- name: apply_role_rights
SELECT apply_role_rights();

-- name: may_create_databases
SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user;

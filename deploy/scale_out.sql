-- name: citus
-- The version of Citus that the server has loaded, or NULL; and whether this database has it.
SELECT (SELECT default_version FROM pg_available_extensions WHERE name = 'citus') AS available,
       EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS created,
       'citus' = ANY (string_to_array(replace(current_setting('shared_preload_libraries'), ' ', ''), ',')) AS loaded;

-- name: nodes
-- The nodes that the coordinator knows and that may hold shards.
SELECT nodename AS host, nodeport AS port FROM pg_dist_node WHERE isactive AND noderole = 'primary' AND groupid > 0 ORDER BY 1, 2;

-- name: is_distributed
SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass($1) AND partmethod = 'h');

-- name: views
-- The views that read a table ($1), also by others, those that others read first: Citus would want all that they read on every node.
WITH RECURSIVE readers (oid, depth) AS (
    SELECT to_regclass($1)::oid, 0
    UNION ALL
    SELECT r.ev_class, readers.depth + 1
    FROM readers
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = readers.oid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> readers.oid
)
SELECT c.oid::regclass::text AS name, c.relkind::text AS kind, coalesce(array_to_string(c.reloptions, ', '), '') AS options,
       pg_get_viewdef(c.oid) AS definition, obj_description(c.oid, 'pg_class') AS comment
FROM readers JOIN pg_class c USING (oid)
WHERE depth > 0
GROUP BY c.oid, c.relkind, c.reloptions ORDER BY max(depth);

-- name: shards
-- How the rows of a table ($1) lie: nodes, shards, bytes.
SELECT nodename || ':' || nodeport AS node, count(*) AS shards, sum(shard_size)::bigint AS bytes
FROM citus_shards WHERE table_name = to_regclass($1) OR table_name IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass($1))
GROUP BY 1 ORDER BY 1;

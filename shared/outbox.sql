-- name: enqueue
-- Writes messages in the transaction of their effect. Ids are UUIDv7: their order is the order of writing.
INSERT INTO {table} (id, topic, partition, key, value, headers)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[], $4::bytea[], $5::bytea[], $6::jsonb[]);

-- name: unpublished
-- The oldest messages that no broker has acknowledged. SKIP LOCKED: two publishers share the work instead of waiting.
-- Only messages older than $2 seconds: a younger one is still in the hands of the worker that wrote it.
SELECT id, topic, partition, key, value, headers
FROM {table}
WHERE created_at <= clock_timestamp() - make_interval(secs => $2)
ORDER BY id
LIMIT $1
FOR UPDATE SKIP LOCKED;

-- name: delete
-- Forgets messages that the broker has acknowledged. Its commit need not reach the disk at once: what a crash brings
-- back is published again, and consumers are idempotent. (The cross join makes sure that the setting is made.)
WITH lazily AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
DELETE FROM {table} USING lazily WHERE id = ANY($1::uuid[]);

-- name: waiting
-- How many messages wait, and for how many seconds the oldest has.
SELECT count(*) AS messages, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_seconds FROM {table};

-- The SQL of ingest, in the order of a batch's story: who used it, the rows, what was refused or held, the position.

-- name: known_subscriptions
-- Which of these subscription ids exist.
SELECT id FROM subscriptions WHERE id = ANY($1::uuid[]);

-- name: newest_subscriptions
-- The subscriptions that were made last, at most $1.
SELECT id FROM subscriptions ORDER BY id DESC LIMIT $1;

-- name: known_api_keys
-- The keys among these ids and hashes, with the subscription that each belongs to.
SELECT id, key_hash, subscription_id FROM api_keys WHERE id = ANY($1::uuid[]) OR key_hash = ANY($2::text[]);

-- name: ensure_partition
-- Makes the month of a time if it is missing; in a transaction of its own, so that its locks end at once.
SELECT ensure_usage_partition($1::timestamptz);

-- name: write_usage_ids
-- The generation of identities that stays open until the transaction ends; whether there are earlier ones to look into.
SELECT generation, earlier FROM write_usage_ids();

-- name: known_before
-- Which of these ids earlier generations guard.
SELECT id FROM usage_ids WHERE id = ANY($1::uuid[]) AND generation < $2;

-- name: stored_versions
-- What is stored under ids ($1), whenever it happened: the row that each left. $2 are the times of the events that came, for rows that
-- are in the log without being guarded. OFFSET 0 keeps this a look-up for each id, whatever the planner believes about the tables.
SELECT w.id AS wanted, i.created_at AS guarded_at, l.*
FROM unnest($1::uuid[], $2::timestamptz[]) AS w (id, created_at)
LEFT JOIN LATERAL (SELECT g.created_at, g.row_id FROM usage_ids g WHERE g.id = w.id OFFSET 0) i ON true
LEFT JOIN LATERAL (
    SELECT r.* FROM usage_logs r
    WHERE r.created_at = coalesce(i.created_at, w.created_at) AND r.id = coalesce(i.row_id, w.id) OFFSET 0) l ON true
WHERE i.created_at IS NOT NULL OR l.id IS NOT NULL;

-- name: stored_versions_distributed
-- The same where Citus has distributed the log: identities are looked up on the coordinator, then each shard looks up its rows.
WITH wanted AS MATERIALIZED (
    SELECT w.id AS wanted, i.created_at AS guarded_at, coalesce(i.created_at, w.created_at) AS at, coalesce(i.row_id, w.id) AS row_id
    FROM unnest($1::uuid[], $2::timestamptz[]) AS w (id, created_at)
    LEFT JOIN LATERAL (SELECT g.created_at, g.row_id FROM usage_ids g WHERE g.id = w.id OFFSET 0) i ON true
), stored AS MATERIALIZED (
    SELECT r.* FROM wanted w JOIN usage_logs r ON r.created_at = w.at AND r.id = w.row_id
)
SELECT w.wanted, w.guarded_at, l.* FROM wanted w LEFT JOIN stored l ON l.created_at = w.at AND l.id = w.row_id
WHERE w.guarded_at IS NOT NULL OR l.id IS NOT NULL;

-- name: quarantine
-- Keeps refused records whole. A record that was refused before (a replay of its offset) stays as it was.
INSERT INTO quarantined_events (
    id, reason, detail, cluster, topic, partition, epoch, record_offset, record_key, record_value, record_headers, published_at, batch_id)
SELECT q.id, q.reason, q.detail, $1, $2, $3, $4, q.record_offset, q.record_key, q.record_value, q.record_headers, q.published_at, $5
FROM unnest($6::uuid[], $7::text[], $8::text[], $9::bigint[], $10::bytea[], $11::bytea[], $12::jsonb[], $13::timestamptz[])
    AS q (id, reason, detail, record_offset, record_key, record_value, record_headers, published_at)
ON CONFLICT (cluster, topic, partition, epoch, record_offset) DO NOTHING;

-- name: hold
-- Keeps valid events whose subscription or key, or original, is not known yet.
INSERT INTO held_events (
    id, reason, subscription_id, api_key_id, api_key_hash, original_id, occurred_at,
    cluster, topic, partition, epoch, record_offset, record_key, record_value, record_headers, batch_id)
SELECT h.id, h.reason, h.subscription_id, h.api_key_id, h.api_key_hash, h.original_id, h.occurred_at,
       $1, $2, $3, $4, h.record_offset, h.record_key, h.record_value, h.record_headers, $5
FROM unnest($6::uuid[], $7::text[], $8::uuid[], $9::uuid[], $10::text[], $11::uuid[], $12::timestamptz[], $13::bigint[], $14::bytea[], $15::bytea[],
            $16::jsonb[])
    AS h (id, reason, subscription_id, api_key_id, api_key_hash, original_id, occurred_at, record_offset, record_key, record_value, record_headers);

-- name: record_batch
-- The batch's own row: where it came from and what became of each of its offsets.
INSERT INTO usage_batches (
    batch_id, kind, cluster, topic, partition, epoch, first_offset, next_offset,
    inserted, duplicates, quarantined, held, gaps, message_count, amended)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: advance_position
-- Moves the position past the batch, with the account of its offsets: the table's CHECK refuses a sum that is off.
-- The old position is compared once more: nobody can have moved it, since its row is locked.
UPDATE ingest_positions
SET next_offset = $6, inserted = inserted + $7, duplicates = duplicates + $8, quarantined = quarantined + $9,
    held = held + $10, gaps = gaps + $11, updated_at = now()
WHERE cluster = $1 AND topic = $2 AND partition = $3 AND epoch = $4 AND next_offset = $5;

-- name: attributable
-- Held events whose subscription and key, or original, exist by now, oldest first. SKIP LOCKED: another worker has the rest.
SELECT h.id, h.topic, h.partition, h.epoch, h.record_offset, h.record_key, h.record_value, h.record_headers, h.held_at
FROM held_events h
WHERE h.attributed_at IS NULL AND h.expired_at IS NULL AND h.cluster = $2
  AND (h.subscription_id IS NULL OR EXISTS (SELECT FROM subscriptions s WHERE s.id = h.subscription_id))
  AND (h.api_key_id IS NULL OR EXISTS (SELECT FROM api_keys k WHERE k.id = h.api_key_id))
  AND (h.api_key_hash IS NULL OR EXISTS (SELECT FROM api_keys k WHERE k.key_hash = h.api_key_hash))
  AND (h.original_id IS NULL OR EXISTS (SELECT FROM usage_ids i WHERE i.id = h.original_id))
ORDER BY h.topic, h.partition, h.epoch, h.record_offset
LIMIT $1
FOR UPDATE OF h SKIP LOCKED;

-- name: attributed
-- Marks held events as attributed by a batch; they stay as the record of what came in.
UPDATE held_events SET attributed_at = now(), attributed_batch_id = $2 WHERE id = ANY($1::uuid[]);

-- name: still_held
-- How many events wait for their subscription, key or original, and for how many seconds the oldest does.
SELECT count(*) AS events, coalesce(extract(epoch FROM now() - min(held_at)), 0)::float8 AS oldest_seconds
FROM held_events WHERE attributed_at IS NULL AND expired_at IS NULL;

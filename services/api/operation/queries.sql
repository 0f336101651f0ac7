-- The SQL of how the pipeline stands. Positions are a small table.

-- name: ingest
-- What became of every record that ingest has read, and when it last went on.
SELECT coalesce(sum(next_offset - start_offset), 0)::bigint AS records, coalesce(sum(inserted), 0)::bigint AS inserted,
       coalesce(sum(duplicates), 0)::bigint AS duplicates, coalesce(sum(quarantined), 0)::bigint AS quarantined,
       coalesce(sum(held), 0)::bigint AS held, coalesce(sum(gaps), 0)::bigint AS gaps
FROM ingest_positions;

-- name: services
-- How many partitions each service has a position in, and when it last went on.
SELECT 'ingest' AS service, count(*) AS partitions, max(updated_at) AS went_on_at FROM ingest_positions
UNION ALL SELECT 'aggregator', count(*), max(updated_at) FROM aggregator_positions
UNION ALL SELECT 'billing', count(*), max(updated_at) FROM billing_positions;

-- name: positions
-- Where each service is in each partition, in the topic's present life.
SELECT DISTINCT ON (service, topic, partition) service, topic, partition, next_offset
FROM (SELECT 'ingest' AS service, topic, partition, epoch, next_offset FROM ingest_positions
      UNION ALL SELECT 'aggregator', topic, partition, epoch, next_offset FROM aggregator_positions
      UNION ALL SELECT 'billing', topic, partition, epoch, next_offset FROM billing_positions) p
ORDER BY service, topic, partition, epoch DESC;

-- name: freshness
-- For how long what ingest stored in the last five minutes was on its way to the other services: of the last 500 batches, in seconds.
WITH recent AS MATERIALIZED (
    SELECT batch_id, recorded_at FROM usage_batches WHERE recorded_at > now() - interval '5 minutes' AND message_count > 0
    ORDER BY recorded_at DESC LIMIT 500
), applied AS (
    SELECT 'aggregator' AS service, extract(epoch FROM max(i.received_at) - b.recorded_at)::float8 AS seconds
    FROM recent b JOIN aggregator_inbox i USING (batch_id) GROUP BY b.batch_id, b.recorded_at
    UNION ALL
    SELECT 'billing', extract(epoch FROM max(i.received_at) - b.recorded_at)::float8
    FROM recent b JOIN billing_inbox i USING (batch_id) GROUP BY b.batch_id, b.recorded_at
)
SELECT service, count(*) AS batches, percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS median,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY seconds) AS p99, avg((seconds <= 3)::integer)::float8 AS in_time
FROM applied GROUP BY service ORDER BY service;

-- name: waiting
-- What waits for a person, or for another event.
SELECT (SELECT count(*) FROM quarantined_events WHERE resolution IS NULL) AS quarantined,
       (SELECT min(quarantined_at) FROM quarantined_events WHERE resolution IS NULL) AS quarantined_since,
       (SELECT count(*) FROM held_events WHERE attributed_at IS NULL AND expired_at IS NULL) AS held,
       (SELECT min(held_at) FROM held_events WHERE attributed_at IS NULL AND expired_at IS NULL) AS held_since,
       (SELECT count(*) FROM subscriptions WHERE status = 'suspended') AS suspended;

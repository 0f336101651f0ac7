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

-- name: waiting
-- What waits for a person, or for another event.
SELECT (SELECT count(*) FROM quarantined_events WHERE resolution IS NULL) AS quarantined,
       (SELECT min(quarantined_at) FROM quarantined_events WHERE resolution IS NULL) AS quarantined_since,
       (SELECT count(*) FROM held_events WHERE attributed_at IS NULL AND expired_at IS NULL) AS held,
       (SELECT min(held_at) FROM held_events WHERE attributed_at IS NULL AND expired_at IS NULL) AS held_since,
       (SELECT count(*) FROM subscriptions WHERE status = 'suspended') AS suspended;

-- What is done to the partition of one month, {partition}. The loader checks that this is a plain table name.

-- name: close
-- Lets no row in any more: a late event breaks this CHECK and is quarantined. NOT VALID: the rows that are there are not read.
ALTER TABLE {partition} ADD CONSTRAINT closed_for_archive CHECK (false) NOT VALID;

-- name: open
-- Lets rows in again.
ALTER TABLE {partition} DROP CONSTRAINT IF EXISTS closed_for_archive;

-- name: sums
-- What the rows sum to, and a digest of their content that does not depend on their order, nor on later columns.
SELECT count(*) AS rows, coalesce(sum(request_tokens), 0) AS request_tokens, coalesce(sum(response_tokens), 0) AS response_tokens,
       coalesce(sum(cached_tokens), 0) AS cached_tokens, min(created_at) AS first_event_at, max(created_at) AS last_event_at,
       coalesce(sum(('x' || left(md5(ROW(
           created_at, id, subscription_id, api_key_id, batch_id, model_id, tool_name, provider, request_tokens, response_tokens,
           cached_tokens, tokens_returned, latency_ms, status_code, error_message, power_level, byok, feature_type, library_id,
           reservation_id, app_id, session_id, end_user, source, request_id, metadata, ingested_at,
           quantity, corrects, corrected_at)::text), 16))::bit(64)::bigint::numeric),
           0)::text AS digest
FROM {partition};

-- name: sums_of_format_1
-- The same of an archive from before there were corrections, without their columns.
SELECT count(*) AS rows, coalesce(sum(request_tokens), 0) AS request_tokens, coalesce(sum(response_tokens), 0) AS response_tokens,
       coalesce(sum(cached_tokens), 0) AS cached_tokens, min(created_at) AS first_event_at, max(created_at) AS last_event_at,
       coalesce(sum(('x' || left(md5(ROW(
           created_at, id, subscription_id, api_key_id, batch_id, model_id, tool_name, provider, request_tokens, response_tokens,
           cached_tokens, tokens_returned, latency_ms, status_code, error_message, power_level, byok, feature_type, library_id,
           reservation_id, app_id, session_id, end_user, source, request_id, metadata, ingested_at)::text), 16))::bit(64)::bigint::numeric),
           0)::text AS digest
FROM {partition};

-- name: rows
-- All rows, as they are archived.
SELECT created_at, id::text, subscription_id::text, api_key_id::text, batch_id::text, model_id, tool_name, provider, request_tokens,
       response_tokens, cached_tokens, tokens_returned, latency_ms, status_code, error_message, power_level, byok, feature_type,
       library_id, reservation_id, app_id, session_id, end_user, source, request_id, metadata::text, ingested_at,
       quantity, corrects::text, corrected_at
FROM {partition}
ORDER BY created_at, id;

-- name: record_sums
-- Keeps what the rows sum to, by everything that a proof compares.
INSERT INTO usage_archive_sums
SELECT $1::timestamptz, subscription_id, date_trunc('hour', created_at, 'UTC') AS hour, coalesce(model_id, '') AS model,
       coalesce(tool_name, '') AS tool, coalesce(feature_type, '') AS feature, power_level, byok,
       CASE WHEN status_code < 400 THEN 2 ELSE status_code / 100 END AS status_class,
       sum(quantity), coalesce(sum(quantity) FILTER (WHERE status_code >= 400), 0), sum(request_tokens), sum(response_tokens), sum(cached_tokens)
FROM {partition}
GROUP BY subscription_id, hour, model, tool, feature, power_level, byok, status_class;

-- name: record_batches
-- Keeps how many rows came with which batch.
INSERT INTO usage_archive_batches SELECT $1::timestamptz, batch_id, count(*) FROM {partition} GROUP BY batch_id;

-- name: unheard
-- Batches with rows here that the aggregator or billing has not applied whole: how many.
SELECT count(*)
FROM usage_batches b
WHERE b.batch_id IN (SELECT batch_id FROM {partition})
  AND least(CASE WHEN b.recorded_at < (SELECT pruned_before FROM aggregator_inbox_watermark) THEN b.message_count
                 ELSE (SELECT count(*) FROM aggregator_inbox i WHERE i.batch_id = b.batch_id) END,
            (SELECT count(*) FROM billing_inbox i WHERE i.batch_id = b.batch_id)) < b.message_count;

-- name: detach
-- Takes the month out of usage_logs. Waits for statements that read it; nobody waits for it. In no transaction.
ALTER TABLE usage_logs DETACH PARTITION {partition} CONCURRENTLY;

-- name: finish_detaching
-- Ends a detachment that was interrupted.
ALTER TABLE usage_logs DETACH PARTITION {partition} FINALIZE;

-- name: drop
-- Deletes the rows, of a table that is no partition any more.
DROP TABLE IF EXISTS {partition};

-- name: create
-- Makes an empty table that can become the partition, with its indexes.
CREATE TABLE {partition} (LIKE usage_logs INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING INDEXES);

-- The SQL of announcing again: which batches were not heard of, and their rows.

-- name: unheard
-- Batches, at most $2, recorded before $1, of which the aggregator or billing has not applied every message. Messages that still wait in
-- the outbox are nobody's fault: their batches are left out by the time that they are given.
SELECT b.batch_id, b.cluster, b.topic, b.partition, b.epoch, b.first_offset, b.next_offset, b.message_count, b.recorded_at,
       b.inserted + b.amended AS rows,
       CASE WHEN b.recorded_at < w.pruned_before THEN b.message_count ELSE a.parts END AS aggregated, r.parts AS rated
FROM usage_batches b
CROSS JOIN aggregator_inbox_watermark w
CROSS JOIN LATERAL (SELECT count(*)::int AS parts FROM aggregator_inbox i WHERE i.batch_id = b.batch_id) a
CROSS JOIN LATERAL (SELECT count(*)::int AS parts FROM billing_inbox i WHERE i.batch_id = b.batch_id) r
WHERE b.recorded_at < $1
  AND b.message_count > least(CASE WHEN b.recorded_at < w.pruned_before THEN b.message_count ELSE a.parts END, r.parts)
ORDER BY b.recorded_at, b.batch_id
LIMIT $2;

-- name: rows
-- The rows of batches, in the order of their columns. Of a row that takes one back: the row that it takes back.
SELECT created_at, id, subscription_id, api_key_id, batch_id, model_id, tool_name, provider,
       request_tokens * quantity AS request_tokens, response_tokens * quantity AS response_tokens, cached_tokens * quantity AS cached_tokens,
       tokens_returned * quantity AS tokens_returned, latency_ms, status_code, error_message, power_level, byok, feature_type, library_id,
       reservation_id, app_id, session_id, end_user, source, request_id, metadata, quantity, corrects
FROM usage_logs
WHERE batch_id = ANY($1::uuid[])
ORDER BY created_at, id, quantity DESC;

-- name: note_announced
-- Notes in the audit trail that $1 announced batches again.
INSERT INTO audit_logs (actor, action, resource_type, resource_id)
SELECT $1, 'usage_batch.announced_again', 'usage_batch', batch_id::text FROM unnest($2::uuid[]) AS batch_id;

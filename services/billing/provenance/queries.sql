-- The SQL of provenance: from a line or a debit to its rated usage, its batches and its events.

-- name: line
-- An invoice line, and the line that its rated usage points to.
SELECT l.id, l.usage_line_id, l.component, l.description, l.currency, l.exact_amount, l.amount, l.event_count, l.checksum, i.number
FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
WHERE l.id = $1;

-- name: debit
-- A settlement of prepaid usage.
SELECT id, currency, rated_amount, amount, debited, owed, credits_per_unit, window_start, window_end, transaction_id
FROM credit_settlements WHERE id = $1;

-- name: scope
-- Where the rated usage behind a line ($1) or a settlement ($2) lies: subscriptions and hours; its sum, its events and its digest now.
SELECT array_agg(DISTINCT subscription_id) AS subscriptions, min(hour) AS first_hour, max(hour) + interval '1 hour' AS end_hour,
       coalesce(sum(amount), 0) AS amount, coalesce(sum(requests), 0) AS events, coalesce(sum(rated_usage_digest(r)), 0)::text AS checksum,
       count(*) AS rows
FROM rated_usage r
WHERE ($1::uuid IS NOT NULL AND invoice_line_id = $1) OR ($2::uuid IS NOT NULL AND settlement_id = $2);

-- name: prices
-- The price versions and factors behind it, with what each came to.
SELECT p.id AS price_id, coalesce(p.model_id, p.tool_name, p.feature_type) AS subject, p.currency, p.valid_from, p.valid_to,
       p.price_per_request, p.input_price_per_1k, p.cached_input_price_per_1k, p.output_price_per_1k, p.bill_errors,
       trim_scale(r.multiplier) AS multiplier, sum(r.amount) AS amount, sum(r.requests) AS events
FROM rated_usage r JOIN model_prices p ON p.id = r.price_id
WHERE ($1::uuid IS NOT NULL AND r.invoice_line_id = $1) OR ($2::uuid IS NOT NULL AND r.settlement_id = $2)
GROUP BY p.id, trim_scale(r.multiplier)
ORDER BY p.valid_from, p.id, trim_scale(r.multiplier);

-- name: recomputed
-- The same from the events themselves ($3 subscriptions, [$4, $5) hours), rated anew by the frozen prices: sums by component.
WITH behind AS MATERIALIZED (
    SELECT DISTINCT i.batch_id, r.subscription_id, r.hour, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class,
           r.price_id, r.multiplier
    FROM rated_usage r JOIN billing_inbox i USING (rating_run_id)
    WHERE ($1::uuid IS NOT NULL AND r.invoice_line_id = $1) OR ($2::uuid IS NOT NULL AND r.settlement_id = $2)
)
SELECT count(*) AS events, min(l.created_at) AS first_event_at, max(l.created_at) AS last_event_at,
       coalesce(sum(p.price_per_request * b.multiplier) FILTER (WHERE b.status_class = 2 OR p.bill_errors), 0) AS requests,
       coalesce(sum((l.request_tokens - l.cached_tokens) * p.input_price_per_1k * 0.001 * b.multiplier)
           FILTER (WHERE b.status_class = 2 OR p.bill_errors), 0) AS input,
       coalesce(sum(l.cached_tokens * p.cached_input_price_per_1k * 0.001 * b.multiplier)
           FILTER (WHERE b.status_class = 2 OR p.bill_errors), 0) AS cached_input,
       coalesce(sum(l.response_tokens * p.output_price_per_1k * 0.001 * b.multiplier)
           FILTER (WHERE b.status_class = 2 OR p.bill_errors), 0) AS output
FROM usage_logs l
JOIN behind b ON b.batch_id = l.batch_id AND b.subscription_id = l.subscription_id AND b.hour = date_trunc('hour', l.created_at, 'UTC')
 AND b.model_id = coalesce(l.model_id, '') AND b.tool_name = coalesce(l.tool_name, '') AND b.feature_type = coalesce(l.feature_type, '')
 AND b.power_level = l.power_level AND b.byok = l.byok AND b.status_class = CASE WHEN l.status_code < 400 THEN 2 ELSE l.status_code / 100 END
JOIN model_prices p ON p.id = b.price_id
WHERE l.subscription_id = ANY($3::uuid[]) AND l.created_at >= $4 AND l.created_at < $5;

-- name: events
-- The events themselves, at most $6, in the order in which they happened.
WITH behind AS MATERIALIZED (
    SELECT DISTINCT i.batch_id, r.subscription_id, r.hour, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class
    FROM rated_usage r JOIN billing_inbox i USING (rating_run_id)
    WHERE ($1::uuid IS NOT NULL AND r.invoice_line_id = $1) OR ($2::uuid IS NOT NULL AND r.settlement_id = $2)
)
SELECT l.created_at, l.id, l.source, l.request_id, l.subscription_id, l.api_key_id, l.model_id, l.tool_name, l.feature_type, l.power_level,
       l.byok, l.status_code, l.request_tokens, l.cached_tokens, l.response_tokens, l.batch_id
FROM usage_logs l
JOIN behind b ON b.batch_id = l.batch_id AND b.subscription_id = l.subscription_id AND b.hour = date_trunc('hour', l.created_at, 'UTC')
 AND b.model_id = coalesce(l.model_id, '') AND b.tool_name = coalesce(l.tool_name, '') AND b.feature_type = coalesce(l.feature_type, '')
 AND b.power_level = l.power_level AND b.byok = l.byok AND b.status_class = CASE WHEN l.status_code < 400 THEN 2 ELSE l.status_code / 100 END
WHERE l.subscription_id = ANY($3::uuid[]) AND l.created_at >= $4 AND l.created_at < $5
ORDER BY l.created_at, l.id
LIMIT $6;

-- name: origins
-- The ranges of broker offsets that its batches came from.
SELECT b.cluster, b.topic, b.partition, b.epoch, min(b.first_offset) AS first_offset, max(b.next_offset) AS next_offset, count(*) AS batches
FROM usage_batches b
WHERE b.batch_id IN (
    SELECT i.batch_id FROM rated_usage r JOIN billing_inbox i USING (rating_run_id)
    WHERE ($1::uuid IS NOT NULL AND r.invoice_line_id = $1) OR ($2::uuid IS NOT NULL AND r.settlement_id = $2))
GROUP BY b.cluster, b.topic, b.partition, b.epoch
ORDER BY b.topic, b.partition, b.epoch;

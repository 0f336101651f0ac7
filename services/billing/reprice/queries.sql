-- The SQL of a reprice: what was rated, and the rows that correct it.

-- name: rated_by_stretch
-- What was rated in hours from $1 up to $2 of models $3, and of calls of tools $4 or for features $5; summed by whatever a price
-- distinguishes and by the stretch of time in which it lies: $6 are the times at which stretches begin, ascending, $1 the first.
SELECT r.subscription_id, ($6::timestamptz[])[width_bucket(r.hour, $6::timestamptz[])] AS hour, r.model_id, r.tool_name, r.feature_type,
       r.power_level, r.byok, r.status_class, r.user_id, r.billing_mode, r.currency, r.price_id, r.multiplier,
       sum(r.requests)::bigint AS requests, sum(r.errors)::bigint AS errors, sum(r.request_tokens)::bigint AS request_tokens,
       sum(r.response_tokens)::bigint AS response_tokens, sum(r.cached_tokens)::bigint AS cached_tokens,
       sum(r.tokens_returned)::bigint AS tokens_returned, sum(r.latency_ms)::bigint AS latency_ms,
       min(r.first_event_at) AS first_event_at, max(r.last_event_at) AS last_event_at,
       sum(r.amount) AS amount, sum(r.cost_amount) AS cost, count(*) AS rows
FROM rated_usage r
WHERE r.hour >= $1 AND r.hour < $2 AND r.amount IS NOT NULL
  AND CASE WHEN r.model_id <> '' THEN r.model_id = ANY($3::text[]) ELSE r.tool_name = ANY($4::text[]) OR r.feature_type = ANY($5::text[]) END
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
HAVING (sum(r.requests), sum(r.request_tokens), sum(r.response_tokens), sum(r.cached_tokens), sum(r.tokens_returned), sum(r.latency_ms))
       IS DISTINCT FROM (0, 0, 0, 0, 0, 0) OR sum(r.amount) <> 0;

-- name: rated_by_hour
-- The same of subscriptions $6 only, hour by hour: what corrections are made from.
SELECT r.subscription_id, r.hour, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class, r.user_id,
       r.billing_mode, r.currency, r.price_id, r.multiplier,
       sum(r.requests)::bigint AS requests, sum(r.errors)::bigint AS errors, sum(r.request_tokens)::bigint AS request_tokens,
       sum(r.response_tokens)::bigint AS response_tokens, sum(r.cached_tokens)::bigint AS cached_tokens,
       sum(r.tokens_returned)::bigint AS tokens_returned, sum(r.latency_ms)::bigint AS latency_ms,
       min(r.first_event_at) AS first_event_at, max(r.last_event_at) AS last_event_at,
       sum(r.amount) AS amount, sum(r.cost_amount) AS cost
FROM rated_usage r
WHERE r.subscription_id = ANY($6::uuid[]) AND r.hour >= $1 AND r.hour < $2 AND r.amount IS NOT NULL
  AND CASE WHEN r.model_id <> '' THEN r.model_id = ANY($3::text[]) ELSE r.tool_name = ANY($4::text[]) OR r.feature_type = ANY($5::text[]) END
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
HAVING (sum(r.requests), sum(r.request_tokens), sum(r.response_tokens), sum(r.cached_tokens), sum(r.tokens_returned), sum(r.latency_ms))
       IS DISTINCT FROM (0, 0, 0, 0, 0, 0) OR sum(r.amount) <> 0
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 12, 13;

-- name: waiting
-- Events in hours from $1 up to $2 of models $3, tools $4, features $5 that wait for a price.
SELECT coalesce(sum(requests), 0)::bigint FROM rated_usage r
WHERE r.hour >= $1 AND r.hour < $2 AND r.amount IS NULL
  AND CASE WHEN r.model_id <> '' THEN r.model_id = ANY($3::text[]) ELSE r.tool_name = ANY($4::text[]) OR r.feature_type = ANY($5::text[]) END;

-- name: lock_reprices
-- One reprice at a time: two would correct the same usage twice. A lock of the session: a reprice is many transactions.
SELECT pg_try_advisory_lock(hashtextextended('tallystick.reprice', 0));

-- name: unlock_reprices
-- The next one may begin.
SELECT pg_advisory_unlock(hashtextextended('tallystick.reprice', 0));

-- name: begin_reprice
-- Which prices ($4) a reprice of [$2, $3) put in force, why ($5) and by whom ($6).
INSERT INTO reprices (id, period_start, period_end, prices, why, applied_by) VALUES ($1, $2, $3, $4, $5, $6);

-- name: begin_runs
-- Rating runs $1 that hold corrections of reprice $3; $2 says which of them take back.
INSERT INTO rating_runs (id, kind, takes_back, reprice_id) SELECT id, 'reprice', takes_back, $3 FROM unnest($1::uuid[], $2::bool[]) AS r (id, takes_back);

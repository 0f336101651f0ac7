-- The SQL of rating: reference data, the inbox, rated usage.

-- name: prices
-- Every price version, or those of kind $1, subject $2, currency $3. Rating keeps them in memory.
SELECT id, model_id, tool_name, feature_type, currency, valid_from, valid_to,
       input_price_per_1k, output_price_per_1k, cached_input_price_per_1k, price_per_request, bill_errors,
       cost_input_price_per_1k, cost_output_price_per_1k, cost_cached_input_price_per_1k, cost_price_per_request, revision,
       unit, price_per_unit, cost_price_per_unit
FROM model_prices
WHERE ($1::text IS NULL OR CASE $1 WHEN 'model' THEN model_id WHEN 'tool' THEN tool_name ELSE feature_type END IS NOT NULL)
  AND ($2::text IS NULL OR $2 IN (model_id, tool_name, feature_type)) AND ($3::text IS NULL OR currency = $3)
ORDER BY model_id, tool_name, feature_type, currency, valid_from, revision;

-- name: price_book_version
-- The version of all prices. FOR SHARE: a change of prices waits for the transaction that rates by these, so that a reprice which
-- looks for what the old ones rated after its change misses nothing.
SELECT version FROM price_book FOR SHARE;

-- name: power_levels
-- By what each power level multiplies a price.
SELECT power_level, cost_multiplier FROM power_level_configs;

-- name: payers
-- Who pays for the usage of subscriptions ($1), how, in which currency; and the credits of those who prepay.
SELECT s.id, s.user_id, s.billing_mode, s.currency, coalesce(c.balance, 0) AS balance
FROM subscriptions s LEFT JOIN user_credits c ON c.user_id = s.user_id
WHERE s.id = ANY($1::uuid[]);

-- name: begin_run
-- A transaction that rates messages [$6, $7) of one partition of usage.recorded.
INSERT INTO rating_runs (id, kind, cluster, topic, partition, epoch, first_offset, next_offset)
VALUES ($1, 'live', $2, $3, $4, $5, $6, $7);

-- name: receive
-- Notes messages (batch $2, part $3, events $4) as rated by run $1; returns those that were never rated before, of batches that are there.
INSERT INTO billing_inbox (batch_id, part, rating_run_id, event_count)
SELECT m.batch_id, m.part, $1, m.event_count
FROM unnest($2::uuid[], $3::int[], $4::bigint[]) AS m (batch_id, part, event_count)
JOIN usage_batches b ON b.batch_id = m.batch_id
ORDER BY m.batch_id, m.part
ON CONFLICT (batch_id, part) DO NOTHING
RETURNING batch_id, part;

-- name: lock_ratable
-- Held usage, at most $1 rows, that has a price and a power level by now. SKIP LOCKED: two workers share the work.
SELECT r.subscription_id, r.hour, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class,
       r.rating_run_id, s.currency, r.requests, r.errors, r.request_tokens, r.response_tokens, r.cached_tokens, r.tokens_returned,
       r.latency_ms
FROM rated_usage r
JOIN subscriptions s ON s.id = r.subscription_id
WHERE r.amount IS NULL
  AND EXISTS (SELECT FROM power_level_configs l WHERE l.power_level = r.power_level)
  AND EXISTS (SELECT FROM model_prices p
              WHERE p.currency = s.currency AND p.valid_from <= r.hour AND (p.valid_to IS NULL OR r.hour < p.valid_to)
                AND CASE WHEN r.model_id <> '' THEN p.model_id = r.model_id
                         ELSE p.tool_name = r.tool_name OR p.feature_type = r.feature_type END)
ORDER BY r.subscription_id, r.hour
LIMIT $1
FOR UPDATE OF r SKIP LOCKED;

-- name: rate_held
-- Gives held rows, each named by its whole key, what they are worth.
UPDATE rated_usage r
SET price_id = v.price_id, multiplier = v.multiplier, currency = v.currency, amount = v.amount, cost_amount = v.cost_amount,
    rated_at = now()
FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::smallint[], $9::uuid[],
            $10::uuid[], $11::numeric[], $12::text[], $13::numeric[], $14::numeric[])
     AS v (subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class, rating_run_id,
           price_id, multiplier, currency, amount, cost_amount)
WHERE (r.subscription_id, r.hour, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class, r.rating_run_id)
    = (v.subscription_id, v.hour, v.model_id, v.tool_name, v.feature_type, v.power_level, v.byok, v.status_class, v.rating_run_id);

-- name: held
-- How much usage waits for a price, and since which hour of usage.
SELECT count(*) AS rows, coalesce(sum(requests), 0)::bigint AS events, min(hour) AS since FROM rated_usage WHERE amount IS NULL;

-- name: log_against_rated
-- The keys, at most $4, whose rated usage does not sum to what the log has for event times from $1 up to $2, of subscription $3
-- or of all; `total` says how many there are. Only batches that billing has rated whole; whose usage is in one that it has
-- rated in part is left out, and so are archived months. Rows that adjust after a change of price sum to nothing here.
WITH heard AS MATERIALIZED (
    SELECT b.batch_id, i.messages >= b.message_count AS whole
    FROM usage_batches b JOIN (SELECT batch_id, count(*) AS messages FROM billing_inbox GROUP BY batch_id) i USING (batch_id)
), logged AS (
    SELECT l.*, h.whole
    FROM usage_logs l JOIN heard h USING (batch_id)
    WHERE l.created_at >= $1 AND l.created_at < $2 AND ($3::uuid IS NULL OR l.subscription_id = $3)
), log AS (
    SELECT subscription_id, date_trunc('hour', created_at, 'UTC') AS hour, coalesce(model_id, '') AS model_id,
           coalesce(tool_name, '') AS tool_name, coalesce(feature_type, '') AS feature_type, power_level, byok,
           CASE WHEN status_code < 400 THEN 2 ELSE status_code / 100 END AS status_class, bool_and(whole) AS whole,
           sum(quantity) AS requests, coalesce(sum(quantity) FILTER (WHERE status_code >= 400), 0) AS errors, sum(request_tokens) AS request_tokens,
           sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens,
           coalesce(sum(tokens_returned), 0) AS tokens_returned
    FROM logged GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), rated AS (
    SELECT subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class::integer AS status_class,
           sum(requests) AS requests, sum(errors) AS errors, sum(request_tokens) AS request_tokens,
           sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens, sum(tokens_returned) AS tokens_returned
    FROM rated_usage
    WHERE hour >= $1 AND hour < $2 AND ($3::uuid IS NULL OR subscription_id = $3)
      AND date_trunc('month', hour, 'UTC') NOT IN (SELECT month FROM archived_months)
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), sides AS (
    SELECT subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class,
           ARRAY[coalesce(l.requests, 0), coalesce(l.errors, 0), coalesce(l.request_tokens, 0), coalesce(l.response_tokens, 0),
                 coalesce(l.cached_tokens, 0), coalesce(l.tokens_returned, 0)]::bigint[] AS logged,
           ARRAY[coalesce(r.requests, 0), coalesce(r.errors, 0), coalesce(r.request_tokens, 0), coalesce(r.response_tokens, 0),
                 coalesce(r.cached_tokens, 0), coalesce(r.tokens_returned, 0)]::bigint[] AS rated
    FROM log l FULL JOIN rated r USING (subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class)
    WHERE subscription_id NOT IN (SELECT subscription_id FROM log WHERE NOT whole)
)
SELECT *, count(*) OVER () AS total FROM sides WHERE logged <> rated
ORDER BY subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class
LIMIT $4;

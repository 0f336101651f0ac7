-- The SQL of catalogues. They are the same for everybody.

-- name: models
-- Models of provider $1 (NULL: any), those out of use too if $2: after name $3, skipping $4, at most $5.
SELECT id, name, provider, description, capabilities, context_length, input_price_per_1k, output_price_per_1k, is_active
FROM models
WHERE ($1::text IS NULL OR provider = $1) AND (is_active OR $2::boolean) AND ($3::text IS NULL OR id > $3)
ORDER BY id OFFSET $4 LIMIT $5;

-- name: count_models
-- How many there are.
SELECT count(*) FROM models WHERE ($1::text IS NULL OR provider = $1) AND (is_active OR $2::boolean);

-- name: prices
-- Prices in force at $1, of model $2, in currency $3: of the versions that cover a time the highest revision counts. After ($4, $5, $6), at most $7.
SELECT * FROM (
    SELECT DISTINCT ON (what, currency, kind)
           id, model_id, tool_name, feature_type, currency, valid_from, valid_to, input_price_per_1k, output_price_per_1k,
           cached_input_price_per_1k, price_per_request, unit, price_per_unit, bill_errors, revision, what, kind
    FROM model_prices
    CROSS JOIN LATERAL (SELECT coalesce(model_id, tool_name, feature_type) AS what,
                               CASE WHEN model_id IS NOT NULL THEN 'model' WHEN tool_name IS NOT NULL THEN 'tool' ELSE 'feature' END AS kind) w
    WHERE valid_from <= $1 AND (valid_to IS NULL OR valid_to > $1)
      AND ($2::text IS NULL OR model_id = $2) AND ($3::text IS NULL OR currency = $3)
    ORDER BY what, currency, kind, revision DESC
) p
WHERE $4::text IS NULL OR (what, currency, kind) > ($4, $5::text, $6::text)
ORDER BY what, currency, kind LIMIT $7;

-- name: plans
-- The plans that can be subscribed to.
SELECT id, name, description, amount, currency, interval, interval_count, features, limits FROM plans WHERE is_active ORDER BY amount, id;

-- name: power_levels
-- The power levels.
SELECT power_level, name, description, preferred_providers, fallback_strategy, cost_multiplier, max_latency_ms, min_quality_score
FROM power_level_configs WHERE is_active ORDER BY cost_multiplier, power_level;

-- name: health
-- How each provider does, from its last minutes of traffic.
SELECT provider, status, request_count, error_count, rate_limited_count, success_rate, avg_latency_ms, p95_latency_ms, consecutive_failures,
       rate_limited, last_success_at, last_failure_at, window_start, window_end, updated_at
FROM provider_health ORDER BY provider;

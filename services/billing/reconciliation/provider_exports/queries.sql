-- The SQL of comparing with a provider's export.

-- name: recorded_days
-- Usage on our own keys from day $1 to day $2 of models $3 and of those whose provider is $4. What corrects a price has quantities that
-- sum to nothing; its cost is that of the new price.
SELECT (r.hour AT TIME ZONE 'UTC')::date AS day, r.model_id,
       coalesce(sum(r.requests) FILTER (WHERE r.status_class = 2), 0)::bigint AS requests, sum(r.request_tokens)::bigint AS input_tokens,
       sum(r.cached_tokens)::bigint AS cached_tokens, sum(r.response_tokens)::bigint AS output_tokens, sum(r.cost_amount) AS cost
FROM rated_usage r
WHERE r.hour >= ($1::date)::timestamp AT TIME ZONE 'UTC' AND r.hour < ($2::date + 1)::timestamp AT TIME ZONE 'UTC' AND NOT r.byok
  AND (r.model_id = ANY($3::text[]) OR r.model_id IN (SELECT id FROM models WHERE provider = $4))
GROUP BY 1, 2;

-- name: models
-- Our names of models.
SELECT id FROM models;

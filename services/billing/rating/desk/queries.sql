-- The SQL of operators who set and end prices: with the rights of the owner.

-- name: currencies
-- In which currencies subscriptions and plans are billed.
SELECT currency FROM subscriptions UNION SELECT currency FROM plan_versions;

-- name: insert_price
-- A price version of revision $21. Prices and costs in the order: input, output, cached input, request, unit.
INSERT INTO model_prices (
    id, model_id, tool_name, feature_type, valid_from, valid_to, currency, input_price_per_1k, output_price_per_1k, cached_input_price_per_1k,
    price_per_request, unit, price_per_unit, bill_errors, cost_input_price_per_1k, cost_output_price_per_1k, cost_cached_input_price_per_1k,
    cost_price_per_request, cost_price_per_unit, note, revision)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21);

-- name: lock_price
-- A price version, kept from others until the transaction ends.
SELECT valid_from, valid_to FROM model_prices WHERE id = $1 FOR UPDATE;

-- name: overlapping_longer
-- The version that would overlap price $1 if that ended at $2.
SELECT o.id FROM model_prices p JOIN model_prices o
  ON o.id <> p.id AND o.revision = p.revision AND o.currency = p.currency
 AND (o.model_id, o.tool_name, o.feature_type) IS NOT DISTINCT FROM (p.model_id, p.tool_name, p.feature_type)
WHERE p.id = $1 AND o.valid_from < $2 AND o.valid_from > p.valid_from
ORDER BY o.valid_from LIMIT 1;

-- name: end_price
-- Ends a price version.
UPDATE model_prices SET valid_to = $2 WHERE id = $1;

-- name: audit_set
-- Notes who set a price: the version $1, in words $2.
INSERT INTO audit_logs (action, resource_type, resource_id, after, details)
SELECT 'price.set', 'price', p.id::text, jsonb_strip_nulls(to_jsonb(p) - 'created_at'), jsonb_build_object('what', $2::text)
FROM model_prices p WHERE p.id = $1;

-- name: audit_end
-- Notes who ended a price: the version $1 at $2, which would have ended at $3 (NULL: never).
INSERT INTO audit_logs (action, resource_type, resource_id, before, after)
VALUES ('price.ended', 'price', $1::uuid::text, jsonb_build_object('valid_to', $3::timestamptz), jsonb_build_object('valid_to', $2::timestamptz));

-- name: known_models
-- The ids of all models.
SELECT id FROM models;

-- name: add_model
-- A model that an import brings: id and name $1, provider $2, capabilities $3, context $4, list prices of input $5 and output $6.
INSERT INTO models (id, name, provider, capabilities, context_length, input_price_per_1k, output_price_per_1k)
VALUES ($1, $1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING;

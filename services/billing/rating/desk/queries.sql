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

-- name: audit_price
-- Notes who changed a price: $1 what was done, $2 the version, $3 how.
INSERT INTO audit_logs (action, resource_type, resource_id, details) VALUES ($1, 'price', $2, jsonb_build_object('what', $3::text));

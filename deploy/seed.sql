-- The SQL of `tallystick seed`. Every statement leaves what is there as it is, so that seeding again changes nothing; each
-- returns how many rows it made. Arrays come column by column, all of one length.

-- name: act_as_seed
-- Says in the audit trail who made these rows.
SELECT set_config('tallystick.actor', 'seed', true);

-- name: reference_data
-- Plans, power levels and credit packages, where they are missing.
SELECT seed_reference_data();

-- name: models
WITH made AS (
    INSERT INTO models (id, name, provider, description, capabilities, context_length, input_price_per_1k, output_price_per_1k)
    SELECT id, name, provider, description, string_to_array(capabilities, ','), context_length, input_price, output_price
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::numeric[], $8::numeric[])
        AS m (id, name, provider, description, capabilities, context_length, input_price, output_price)
    ON CONFLICT DO NOTHING RETURNING 1)
SELECT count(*) FROM made;

-- name: model_prices
-- ON CONFLICT without a target: a version that overlaps one that an operator has set is left out as well.
WITH made AS (
    INSERT INTO model_prices (id, model_id, tool_name, currency, valid_from, valid_to, input_price_per_1k, output_price_per_1k,
                              cached_input_price_per_1k, price_per_request, cost_input_price_per_1k, cost_output_price_per_1k,
                              cost_cached_input_price_per_1k, cost_price_per_request)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::numeric[], $8::numeric[],
                         $9::numeric[], $10::numeric[], $11::numeric[], $12::numeric[], $13::numeric[], $14::numeric[])
    ON CONFLICT DO NOTHING RETURNING 1)
SELECT count(*) FROM made;

-- name: libraries
WITH made AS (
    INSERT INTO libraries (id, name, vendor, docs_url, default_version)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    ON CONFLICT DO NOTHING RETURNING 1)
SELECT count(*) FROM made;

-- name: users
WITH made AS (
    INSERT INTO users (id, username, email, full_name, oauth_id, roles, subscription_tier, email_verified, created_at)
    SELECT id, username, email, full_name, oauth_id, string_to_array(roles, ','), tier, true, created_at
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[])
        AS u (id, username, email, full_name, oauth_id, roles, tier, created_at)
    ON CONFLICT DO NOTHING RETURNING 1)
SELECT count(*) FROM made;

-- name: subscriptions
-- A subscription to a plan takes its fee and its currency from the plan, and its quotas from the plan's limits.
WITH made AS (
    INSERT INTO subscriptions (id, user_id, model_id, plan_id, status, billing_mode, currency, amount, quota_requests, quota_tokens,
                               quota_period_start, reset_at, current_period_start, current_period_end, trial_start, trial_end, created_at)
    SELECT s.id, s.user_id, s.model_id, s.plan_id, s.status::subscription_status, s.billing_mode,
           coalesce(p.currency, s.currency), coalesce(p.amount, 0),
           CASE WHEN p.id IS NULL THEN s.quota_requests ELSE (p.limits ->> 'requestsPerMonth')::bigint END,
           CASE WHEN p.id IS NULL THEN s.quota_tokens ELSE (p.limits ->> 'tokensPerMonth')::bigint END,
           $11::timestamptz, $12::timestamptz, $11::timestamptz, $12::timestamptz,
           CASE WHEN s.status = 'trialing' THEN $11::timestamptz END, CASE WHEN s.status = 'trialing' THEN $12::timestamptz END, s.created_at
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[], $10::timestamptz[])
        AS s (id, user_id, model_id, plan_id, status, billing_mode, currency, quota_requests, quota_tokens, created_at)
    LEFT JOIN plans p ON p.id = s.plan_id
    ON CONFLICT DO NOTHING RETURNING 1)
SELECT count(*) FROM made;

-- name: api_keys
WITH made AS (
    INSERT INTO api_keys (id, subscription_id, user_id, name, key_hash, key_prefix, created_at)
    SELECT k.id, s.id, s.user_id, k.name, k.key_hash, k.key_prefix, s.created_at
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[]) AS k (id, subscription_id, name, key_hash, key_prefix)
    JOIN subscriptions s ON s.id = k.subscription_id
    ON CONFLICT DO NOTHING RETURNING 1)
SELECT count(*) FROM made;

-- name: credit_accounts
-- Accounts of prepaid customers: what they pay for each month, and below which balance they want to be told.
WITH made AS (
    INSERT INTO user_credits (user_id, tier, monthly_allowance, low_balance_threshold)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::numeric[], $4::numeric[])
    ON CONFLICT DO NOTHING RETURNING 1)
SELECT count(*) FROM made;

-- name: add_credits
-- First credits, as an entry in the ledger like any other; the key makes a second seeding return the first result.
SELECT count(c.transaction_id)
FROM unnest($1::uuid[], $2::numeric[]) AS a (user_id, amount)
CROSS JOIN LATERAL add_user_credits(a.user_id, a.amount, 'bonus', description => 'Test credits', idempotency_key => 'seed') c;

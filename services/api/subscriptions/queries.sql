-- The SQL of subscriptions and quotas: as a tenant under row-level security, or as who reads all.

-- name: subscriptions
-- Subscriptions of user $1 (NULL: anybody's) in status $2, the newest first: after ($3, $4), skipping $5, at most $6.
SELECT s.id, s.user_id, s.model_id, s.plan_id, s.status::text AS status, s.suspended_reasons, s.billing_mode, s.amount, s.currency, s.interval,
       s.interval_count, s.current_period_start, s.current_period_end, s.trial_start, s.trial_end, s.cancel_at_period_end, s.expires_at, s.created_at,
       s.quota_requests, s.quota_tokens, s.used_requests, s.used_tokens, s.quota_period_start, s.reset_at
FROM subscriptions s
WHERE ($1::uuid IS NULL OR s.user_id = $1) AND ($2::text IS NULL OR s.status::text = $2)
  AND ($3::timestamptz IS NULL OR (s.created_at, s.id) < ($3, $4::uuid))
ORDER BY s.created_at DESC, s.id DESC OFFSET $5 LIMIT $6;

-- name: count_subscriptions
-- How many there are of user $1 in status $2.
SELECT count(*) FROM subscriptions WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR status::text = $2);

-- name: subscription
-- One subscription.
SELECT s.id, s.user_id, s.model_id, s.plan_id, s.status::text AS status, s.suspended_reasons, s.billing_mode, s.amount, s.currency, s.interval,
       s.interval_count, s.current_period_start, s.current_period_end, s.trial_start, s.trial_end, s.cancel_at_period_end, s.expires_at, s.created_at,
       s.quota_requests, s.quota_tokens, s.used_requests, s.used_tokens, s.quota_period_start, s.reset_at
FROM subscriptions s WHERE s.id = $1;

-- name: quotas
-- What the live subscriptions of user $1, or one ($2) of them, may use and have used in their periods. Oldest first.
SELECT id AS subscription_id, model_id, plan_id, status::text AS status, suspended_reasons, quota_requests, quota_tokens, used_requests, used_tokens,
       quota_period_start, reset_at
FROM subscriptions
WHERE user_id = $1 AND ($2::uuid IS NULL OR id = $2) AND status NOT IN ('cancelled', 'expired')
ORDER BY created_at, id;

-- name: key_quotas
-- What the keys of subscriptions $1 may do by minute and day, with what they have done on UTC day $2.
SELECT k.subscription_id, k.id AS api_key_id, k.name, k.key_prefix, k.quota_requests_per_minute, k.quota_requests_per_day,
       greatest(coalesce(d.requests, 0), 0) AS used_requests_today
FROM api_keys k LEFT JOIN api_key_days d ON d.subscription_id = k.subscription_id AND d.api_key_id = k.id AND d.day = $2
WHERE k.subscription_id = ANY($1::uuid[]) AND k.is_active
ORDER BY k.created_at, k.id;

-- The SQL of operators who begin and change subscriptions: with the rights of the owner.

-- name: user
-- Who is meant by an id or an e-mail address.
SELECT id FROM users WHERE id::text = $1 OR lower(email) = lower($1);

-- name: live_of_user
-- A live subscription of a user to the same plan or model.
SELECT id FROM subscriptions
WHERE user_id = $1 AND status NOT IN ('cancelled', 'expired') AND (plan_id = $2 OR model_id = $3)
ORDER BY created_at LIMIT 1;

-- name: known_subscription
-- Whether an id is taken.
SELECT EXISTS (SELECT FROM subscriptions WHERE id = $1);

-- name: insert
-- A new subscription. Its quota period is the UTC month that it begins in.
INSERT INTO subscriptions (
    id, user_id, model_id, plan_id, status, billing_mode, amount, currency, interval, interval_count, quota_requests, quota_tokens,
    quota_period_start, reset_at, current_period_start, current_period_end, trial_start, trial_end, expires_at, created_at)
VALUES ($1, $2, $3, $4, $5::text::subscription_status, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20);

-- name: audit_created
-- Notes who began a subscription.
INSERT INTO audit_logs (user_id, action, resource_type, resource_id, after, details)
SELECT s.user_id, 'subscription.created', 'subscription', s.id::text, to_jsonb(s), $2::jsonb FROM subscriptions s WHERE s.id = $1;

-- name: known_model
-- Whether a model can be subscribed to.
SELECT EXISTS (SELECT FROM models WHERE id = $1 AND is_active);

-- name: suspend
-- Suspends a subscription ($1) for a reason ($2): the one rule of the database.
SELECT suspend_subscription($1, $2);

-- name: clear
-- Takes a reason ($2) away from a subscription ($1).
SELECT clear_suspension($1, $2);

-- name: schedule
-- Asks for a change ahead of its time.
INSERT INTO subscription_changes (id, subscription_id, kind, effective_at, to_plan_id, requested_by, why)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: withdraw
-- Takes back what was asked for and is not due yet: of one kind ($2), or all.
UPDATE subscription_changes SET withdrawn_at = now()
WHERE subscription_id = $1 AND ($2::text IS NULL OR kind = $2) AND num_nonnulls(applied_at, withdrawn_at, refused_at) = 0
RETURNING id;

-- name: open_changes
-- What is asked for and not due yet.
SELECT id, kind, effective_at, to_plan_id, requested_by, why FROM subscription_changes
WHERE subscription_id = $1 AND num_nonnulls(applied_at, withdrawn_at, refused_at) = 0 ORDER BY effective_at;

-- name: history
-- What was done with a subscription, the last $2 first.
SELECT created_at, actor, action, before, after, details FROM audit_logs
WHERE resource_type = 'subscription' AND resource_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2;

-- name: coupons_of
-- The coupons that a subscription has redeemed.
SELECT code, redeemed_at FROM coupon_redemptions WHERE subscription_id = $1 ORDER BY redeemed_at;

-- name: list
-- Subscriptions, at most $4, the latest first: of a user ($1: id or e-mail address), on a plan or model ($2), in a status ($3); each NULL: any.
SELECT s.id, u.email, coalesce(s.plan_id, s.model_id) AS what, s.status::text AS status, s.suspended_reasons, s.billing_mode, s.currency,
       s.current_period_end, s.cancel_at_period_end, count(*) OVER () AS total
FROM subscriptions s JOIN users u ON u.id = s.user_id
WHERE ($1::text IS NULL OR u.id::text = $1 OR lower(u.email) = lower($1)) AND ($2::text IS NULL OR $2 IN (s.plan_id, s.model_id))
  AND ($3::text IS NULL OR s.status::text = $3)
ORDER BY s.created_at DESC, s.id
LIMIT $4;

-- The SQL of subscriptions' life.

-- name: locked
-- A subscription ($1), kept from others until the transaction ends.
SELECT s.id, s.user_id, s.model_id, s.plan_id, s.status::text AS status, s.status_before_suspension::text AS status_before_suspension,
       s.suspended_reasons, s.billing_mode, s.amount, s.currency, s.interval, s.interval_count, s.quota_requests, s.quota_tokens,
       s.billing_anchor, coalesce(s.billing_anchor, t.anchor, s.current_period_start, s.created_at) AS anchor,
       s.current_period_start, s.current_period_end, s.trial_start, s.trial_end, s.cancel_at_period_end, s.expires_at, s.created_at
FROM subscriptions s
LEFT JOIN LATERAL (SELECT anchor FROM subscription_terms t WHERE t.subscription_id = s.id ORDER BY t.valid_from DESC LIMIT 1) t ON true
WHERE s.id = $1 FOR UPDATE OF s;

-- name: effective_at
-- Says since when what this transaction changes is in force.
SELECT set_config('tallystick.effective_at', $1::timestamptz::text, true);

-- name: act
-- Says for the audit trail who acts in this transaction, and why.
SELECT set_config('tallystick.actor', $1, true), set_config('tallystick.why', $2, true);

-- name: save
-- Stores a subscription as a step left it. What the step did not change stays: quota rule and suspension are judged by the triggers.
UPDATE subscriptions SET status = $2::text::subscription_status, status_before_suspension = $3::text::subscription_status, plan_id = $4, amount = $5,
       currency = $6, interval = $7, interval_count = $8, quota_requests = $9, quota_tokens = $10, billing_anchor = $11,
       current_period_start = $12, current_period_end = $13, cancel_at_period_end = $14, expires_at = $15
WHERE id = $1
RETURNING status::text, suspended_reasons;

-- name: user
-- Who is meant by an id or an e-mail address.
SELECT id FROM users WHERE id::text = $1 OR lower(email) = lower($1);

-- name: live_of_user
-- A live subscription of a user to the same plan or model.
SELECT id FROM subscriptions
WHERE user_id = $1 AND status NOT IN ('cancelled', 'expired') AND (plan_id = $2 OR model_id = $3)
ORDER BY created_at LIMIT 1;

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
SELECT EXISTS (SELECT FROM models WHERE id = $1 AND is_active);

-- name: open_plan
-- Whether a plan is there, and can be subscribed to.
SELECT is_active FROM plans WHERE id = $1;

-- name: suspend
SELECT suspend_subscription($1, $2);

-- name: clear
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

-- name: due
-- What is due by $1, at most $2, the earliest first; of one time a cancellation comes first, so that who cancels in a trial never pays.
-- Not of subscriptions $3, which failed in this run.
SELECT subscription_id, kind, due_at, change_id, to_plan_id
FROM (
    SELECT id AS subscription_id, 'trial_end' AS kind, 1 AS rank, trial_end AS due_at, NULL::uuid AS change_id, NULL AS to_plan_id
    FROM subscriptions WHERE trial_end <= $1 AND 'trialing' IN (status, status_before_suspension)
    UNION ALL
    SELECT id, 'cancel', 0, current_period_end, NULL, NULL
    FROM subscriptions WHERE current_period_end <= $1 AND cancel_at_period_end AND status NOT IN ('cancelled', 'expired')
    UNION ALL
    SELECT id, 'expire', 2, expires_at, NULL, NULL
    FROM subscriptions WHERE expires_at <= $1 AND status NOT IN ('cancelled', 'expired')
    UNION ALL
    SELECT subscription_id, kind, 3, effective_at, id, to_plan_id
    FROM subscription_changes WHERE effective_at <= $1 AND num_nonnulls(applied_at, withdrawn_at, refused_at) = 0
    UNION ALL
    SELECT id, 'roll', 4, current_period_end, NULL, NULL
    FROM subscriptions WHERE current_period_end <= $1 AND status IN ('trialing', 'active', 'paused', 'suspended')
) AS found
WHERE subscription_id <> ALL ($3::uuid[])
ORDER BY due_at, rank, subscription_id, kind
LIMIT $2;

-- name: change_is_open
-- Whether a change is still to be made; kept from others until the transaction ends.
SELECT num_nonnulls(applied_at, withdrawn_at, refused_at) = 0 FROM subscription_changes WHERE id = $1 FOR UPDATE;

-- name: applied
UPDATE subscription_changes SET applied_at = $2 WHERE id = $1;

-- name: refused
UPDATE subscription_changes SET refused_at = $2, refusal = $3 WHERE id = $1;

-- name: refuse_all
-- What was asked of a subscription that has ended cannot be made any more.
UPDATE subscription_changes SET refused_at = $2, refusal = $3
WHERE subscription_id = $1 AND num_nonnulls(applied_at, withdrawn_at, refused_at) = 0;

-- name: mirror_plans
-- Lets the rows of plans show the version that is in force since.
UPDATE plans p SET amount = v.amount, limits = v.limits
FROM (SELECT DISTINCT ON (plan_id) * FROM plan_versions WHERE valid_from <= now() ORDER BY plan_id, valid_from DESC) v
WHERE v.plan_id = p.id AND (p.amount, p.limits) IS DISTINCT FROM (v.amount, v.limits);

-- name: history
-- What was done with a subscription, the last $2 first.
SELECT created_at, actor, action, before, after, details FROM audit_logs
WHERE resource_type = 'subscription' AND resource_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2;

-- name: coupons_of
-- The coupons that a subscription has redeemed.
SELECT code, redeemed_at FROM coupon_redemptions WHERE subscription_id = $1 ORDER BY redeemed_at;

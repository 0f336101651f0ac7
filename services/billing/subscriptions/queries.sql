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

-- name: act
-- Says for the audit trail who acts in this transaction, and why.
SELECT set_config('tallystick.actor', $1, true), set_config('tallystick.why', $2, true);

-- name: save
-- Stores a subscription as a step left it, in force since $16. Quota rule and suspension are judged by the triggers.
SELECT save_subscription($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);

-- name: open_plan
-- Whether a plan is there, and can be subscribed to.
SELECT is_active FROM plans WHERE id = $1;

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
-- A change ($1) was made as of $2.
UPDATE subscription_changes SET applied_at = $2 WHERE id = $1;

-- name: refused
-- A change ($1) could not be made at $2, because of $3.
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

-- The SQL of operators who make plans: with the rights of the owner.

-- name: plan_version_is_given
-- Lets a new row of plans be without a version of its own making: the next statement makes it.
SELECT set_config('tallystick.plan_version', 'given', true);

-- name: insert_plan
-- A plan, unless it is there; true if it is new. Its version says what it asks for.
INSERT INTO plans (id, name, description, amount, currency, interval, interval_count, features, limits)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9::jsonb)
ON CONFLICT (id) DO NOTHING
RETURNING true;

-- name: insert_version
-- A version of a plan, from $2 on or from now.
INSERT INTO plan_versions (plan_id, valid_from, amount, currency, interval, interval_count, billing_periods, fee_timing, trial_days, limits,
                           hard_limits, usage, meters, minimum, note)
VALUES ($1, coalesce($2, now()), $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11, $12, $13::jsonb, $14, $15)
RETURNING valid_from;

-- name: mirror_plan
-- Lets the row of a plan show the version that is in force.
UPDATE plans p SET amount = v.amount, limits = v.limits
FROM (SELECT * FROM plan_versions WHERE plan_id = $1 AND valid_from <= now() ORDER BY valid_from DESC LIMIT 1) v
WHERE p.id = $1 AND (p.amount, p.limits) IS DISTINCT FROM (v.amount, v.limits);

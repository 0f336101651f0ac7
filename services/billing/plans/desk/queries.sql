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

-- name: charge_line
-- A line that bills a charge, with the period of its invoice.
SELECT l.id, l.kind, l.description, l.charge_key, l.exact_amount, l.currency, l.subscription_id, l.period_start, l.period_end,
       l.dimensions, i.id AS invoice_id, i.number, i.user_id, i.period_start AS from_, i.period_end AS upto
FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
WHERE l.id = $1;

-- name: claimed_usage
-- The lines that bill the usage behind a charge: of subscription $1, hours in [$2, $3), claimed by invoice $4 or earlier ones; of models $5,
-- tools $6, features $7 (all of them empty: of all). With what of it each line holds.
WITH claims AS MATERIALIZED (
    SELECT DISTINCT ON (l.id) l.id, i.number, l.position, l.description
    FROM invoices t JOIN invoices i ON i.user_id = t.user_id AND i.issue_date <= t.issue_date JOIN invoice_lines l ON l.invoice_id = i.id
    WHERE t.id = $4
    UNION ALL
    SELECT l.id, n.number, l.position, l.description
    FROM invoices t JOIN credit_notes n ON n.user_id = t.user_id AND n.issued_at <= t.issue_date
    JOIN credit_note_lines l ON l.credit_note_id = n.id
    WHERE t.id = $4
)
SELECT c.id, c.number, c.position, c.description, sum(r.requests)::bigint AS events,
       coalesce(sum(r.requests) FILTER (WHERE r.status_class = 2), 0)::bigint AS requests,
       coalesce(sum(r.request_tokens) FILTER (WHERE r.status_class = 2), 0)::bigint AS request_tokens,
       coalesce(sum(r.response_tokens) FILTER (WHERE r.status_class = 2), 0)::bigint AS response_tokens,
       sum(r.amount) AS amount
FROM rated_usage r JOIN claims c ON c.id = r.invoice_line_id
WHERE r.subscription_id = $1 AND r.hour >= $2 AND r.hour < $3 AND r.billing_mode = 'postpaid' AND r.amount IS NOT NULL
  AND (cardinality($5::text[]) + cardinality($6::text[]) + cardinality($7::text[]) = 0
       OR r.model_id = ANY($5) OR r.tool_name = ANY($6) OR r.feature_type = ANY($7))
GROUP BY c.id, c.number, c.position, c.description
ORDER BY c.number, c.position;

-- The SQL of plans: what subscriptions are charged besides their usage.

-- name: fee_terms
-- What postpaid subscriptions that are alive cost flat: their own amount, else their plan's; of all users, or of user $2.
SELECT s.id AS subscription_id, s.user_id, coalesce(p.name, s.model_id) AS name,
       CASE WHEN s.amount > 0 THEN s.currency ELSE p.currency END AS currency,
       CASE WHEN s.amount > 0 THEN s.amount ELSE p.amount END AS amount,
       CASE WHEN s.amount > 0 THEN s.interval_count * CASE s.interval WHEN 'year' THEN 12 ELSE 1 END
            ELSE p.interval_count * CASE p.interval WHEN 'year' THEN 12 ELSE 1 END END AS months,
       coalesce(s.current_period_start, s.created_at) AS anchor,
       least(s.current_period_start, s.created_at) AS started
FROM subscriptions s LEFT JOIN plans p ON p.id = s.plan_id
WHERE s.billing_mode = 'postpaid' AND s.status IN ('active', 'suspended') AND (s.amount > 0 OR p.amount > 0)
  AND least(s.current_period_start, s.created_at) < $1
  AND ($2::uuid IS NULL OR s.user_id = $2)
ORDER BY s.user_id, s.id;

-- name: charged_fees
-- Which of the fees (subscription $1, start of the interval $2) were charged already.
SELECT l.subscription_id, l.period_start
FROM unnest($1::uuid[], $2::timestamptz[]) AS f (subscription_id, period_start)
JOIN invoice_lines l ON l.subscription_id = f.subscription_id AND l.period_start = f.period_start AND l.kind = 'fee';

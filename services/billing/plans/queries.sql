-- The SQL of plans: what subscriptions are charged besides the price of their usage.

-- name: versions
-- Every version of every plan.
SELECT v.id, v.plan_id, p.name, v.valid_from = '-infinity' AS always, v.valid_from, v.amount, v.currency,
       v.interval_count * CASE v.interval WHEN 'year' THEN 12 ELSE 1 END AS months, v.billing_periods, v.fee_timing, v.trial_days,
       v.usage, v.meters, v.minimum, v.limits, v.hard_limits
FROM plan_versions v JOIN plans p ON p.id = v.plan_id
ORDER BY v.plan_id, v.valid_from;

-- name: charged_subscriptions
-- Postpaid ($5; or prepaid) subscriptions, of all users or of users $3, that a plan, a fee of their own or a coupon may charge for in a
-- period that begins at $1 and ends at $2: not those that ended before it, unless they are among $4, with usage that came late.
SELECT s.id, s.user_id, coalesce(p.name, s.model_id) AS name, s.currency
FROM subscriptions s LEFT JOIN plans p ON p.id = s.plan_id
WHERE ($3::uuid[] IS NULL OR s.user_id = ANY($3))
  AND EXISTS (
      SELECT FROM subscription_terms t
      WHERE t.subscription_id = s.id AND t.billing_mode = $5 AND t.valid_from < $2
        AND (t.amount > 0
             OR t.plan_id IN (SELECT v.plan_id FROM plan_versions v
                              WHERE v.amount > 0 OR v.usage = 'included' OR v.meters <> '[]' OR v.minimum IS NOT NULL)
             OR EXISTS (SELECT FROM coupon_redemptions r WHERE r.subscription_id = s.id)))
  AND (s.id = ANY($4::uuid[])
       OR (SELECT t.phase <> 'ended' OR t.valid_from > $1 FROM subscription_terms t
           WHERE t.subscription_id = s.id AND t.valid_from < $2 ORDER BY t.valid_from DESC LIMIT 1))
ORDER BY s.user_id, s.id;

-- name: terms
-- The history of subscriptions ($1) up to $2.
SELECT t.subscription_id, t.valid_from, t.phase, t.plan_id, t.amount, t.currency,
       t.interval_count * CASE t.interval WHEN 'year' THEN 12 ELSE 1 END AS months, t.billing_mode, t.anchor
FROM subscription_terms t
WHERE t.subscription_id = ANY($1::uuid[]) AND t.valid_from < $2
ORDER BY t.subscription_id, t.valid_from;

-- name: redemptions
-- The coupons that subscriptions ($1) redeemed before $2.
SELECT r.subscription_id, c.code, c.name, r.redeemed_at, c.percent, c.amount_off, c.currency, c.applies_to = 'fee' AS fee_only, c.periods
FROM coupon_redemptions r JOIN coupons c USING (code)
WHERE r.subscription_id = ANY($1::uuid[]) AND r.redeemed_at < $2
ORDER BY r.subscription_id, r.redeemed_at, c.code;

-- name: unclaimed_since
-- Since when subscriptions, of all users or of users $2, have usage from before $1 that no invoice has.
SELECT subscription_id, min(hour) AS since
FROM rated_usage
WHERE billing_mode = 'postpaid' AND invoice_line_id IS NULL AND amount IS NOT NULL AND hour < $1 AND ($2::uuid[] IS NULL OR user_id = ANY($2))
GROUP BY subscription_id;

-- name: usage_of_windows
-- What was used in windows ($1 number, $2 subscription, [$3, $4)): of it only what an invoice has claimed, or what will be by an
-- invoice for usage before $5. Failed requests are not counted; what they were rated at is.
SELECT w.number, r.model_id, r.tool_name, r.feature_type,
       coalesce(sum(r.requests) FILTER (WHERE r.status_class = 2), 0)::bigint AS requests,
       coalesce(sum(r.request_tokens) FILTER (WHERE r.status_class = 2), 0)::bigint AS request_tokens,
       coalesce(sum(r.response_tokens) FILTER (WHERE r.status_class = 2), 0)::bigint AS response_tokens,
       coalesce(sum(r.tokens_returned) FILTER (WHERE r.status_class = 2), 0)::bigint AS returned_tokens,
       coalesce(sum(r.latency_ms) FILTER (WHERE r.status_class = 2), 0)::bigint AS latency_ms,
       sum(r.amount) AS amount, sum(r.requests)::bigint AS events
FROM unnest($1::integer[], $2::uuid[], $3::timestamptz[], $4::timestamptz[]) AS w (number, subscription_id, start, ends)
JOIN rated_usage r ON r.subscription_id = w.subscription_id AND r.hour >= w.start AND r.hour < w.ends
WHERE r.billing_mode = 'postpaid' AND r.amount IS NOT NULL AND (r.invoice_line_id IS NOT NULL OR r.hour < $5)
GROUP BY w.number, r.model_id, r.tool_name, r.feature_type
ORDER BY w.number, r.model_id, r.tool_name, r.feature_type;

-- name: usage_as_of
-- The same when invoice $5 had been issued: only what it or earlier invoices and credit notes of the customer had claimed.
WITH claims AS MATERIALIZED (
    SELECT l.id FROM invoices t JOIN invoices i ON i.user_id = t.user_id AND i.issue_date <= t.issue_date JOIN invoice_lines l ON l.invoice_id = i.id
    WHERE t.id = $5
    UNION ALL
    SELECT l.id FROM invoices t JOIN credit_notes n ON n.user_id = t.user_id AND n.issued_at <= t.issue_date
    JOIN credit_note_lines l ON l.credit_note_id = n.id
    WHERE t.id = $5
)
SELECT w.number, r.model_id, r.tool_name, r.feature_type,
       coalesce(sum(r.requests) FILTER (WHERE r.status_class = 2), 0)::bigint AS requests,
       coalesce(sum(r.request_tokens) FILTER (WHERE r.status_class = 2), 0)::bigint AS request_tokens,
       coalesce(sum(r.response_tokens) FILTER (WHERE r.status_class = 2), 0)::bigint AS response_tokens,
       coalesce(sum(r.tokens_returned) FILTER (WHERE r.status_class = 2), 0)::bigint AS returned_tokens,
       coalesce(sum(r.latency_ms) FILTER (WHERE r.status_class = 2), 0)::bigint AS latency_ms,
       sum(r.amount) AS amount, sum(r.requests)::bigint AS events
FROM unnest($1::integer[], $2::uuid[], $3::timestamptz[], $4::timestamptz[]) AS w (number, subscription_id, start, ends)
JOIN rated_usage r ON r.subscription_id = w.subscription_id AND r.hour >= w.start AND r.hour < w.ends
WHERE r.billing_mode = 'postpaid' AND r.amount IS NOT NULL AND r.invoice_line_id IN (SELECT id FROM claims)
GROUP BY w.number, r.model_id, r.tool_name, r.feature_type
ORDER BY w.number, r.model_id, r.tool_name, r.feature_type;

-- name: billed
-- What subscriptions ($1) were charged by key, in periods that end after $2; with $3 by invoices that were issued before that one only.
SELECT l.charge_key, l.exact_amount FROM invoice_lines l
WHERE l.subscription_id = ANY($1::uuid[]) AND l.charge_key IS NOT NULL AND l.period_end > $2
  AND ($3::uuid IS NULL OR l.invoice_id IN (SELECT i.id FROM invoices t JOIN invoices i ON i.user_id = t.user_id AND i.issue_date < t.issue_date
                                            WHERE t.id = $3));

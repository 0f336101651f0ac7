-- The SQL of alerts.

-- name: raise_alerts
-- Tells users something, once for each cause; what a user does not want is left out by the trigger respect_alert_settings. Returns
-- what is new.
INSERT INTO billing_alerts (id, user_id, subscription_id, type, cause, threshold, current_value, message, metadata)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::numeric[], $7::numeric[], $8::text[], $9::jsonb[])
ON CONFLICT (user_id, type, cause) DO NOTHING
RETURNING id;

-- name: alerts
-- The newest alerts: of a user ($1), of a type ($2), those not read yet ($3); at most $4.
SELECT id, user_id, subscription_id, type, cause, threshold, current_value, message, is_read, created_at
FROM billing_alerts
WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR type = $2) AND NOT ($3::boolean AND is_read)
ORDER BY created_at DESC, id DESC LIMIT $4;

-- name: mark_read
-- Alert $1 of user $2 was read, at $3 unless it was before; no row if they have no such alert.
UPDATE billing_alerts SET is_read = true, read_at = coalesce(read_at, $3)
WHERE id = $1 AND user_id = $2
RETURNING id, user_id, subscription_id, type, cause, threshold, current_value, message, is_read, read_at, created_at;

-- name: mark_all_read
-- What user $1 was told up to $2 was read, at $3; a row for each that was not before.
UPDATE billing_alerts SET is_read = true, read_at = $3
WHERE user_id = $1 AND NOT is_read AND created_at <= $2
RETURNING id;

-- name: choices
-- What a user has chosen to be told.
SELECT kind, enabled, thresholds FROM alert_settings WHERE user_id = $1 ORDER BY kind;

-- name: choose
-- Keeps what a user has chosen for one kind.
INSERT INTO alert_settings (user_id, kind, enabled, thresholds) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, kind) DO UPDATE SET enabled = excluded.enabled, thresholds = excluded.thresholds, updated_at = now();

-- name: spend_reached
-- Thresholds in money that users have reached in the month from $1 up to $2, in each of their currencies: what their rated usage of it
-- is worth. Only who has chosen thresholds is looked at; the usage of a subscription and month is read through its key.
SELECT a.user_id, t.threshold, r.currency, r.amount, c.cause
FROM alert_settings a
CROSS JOIN LATERAL (
    SELECT u.currency, sum(u.amount) AS amount
    FROM subscriptions s JOIN rated_usage u ON u.subscription_id = s.id
    WHERE s.user_id = a.user_id AND u.hour >= $1 AND u.hour < $2 AND u.amount IS NOT NULL
    GROUP BY u.currency) r
CROSS JOIN LATERAL unnest(a.thresholds) AS t (threshold)
CROSS JOIN LATERAL (SELECT format('spend %s, %s %s', to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM'), t.threshold, r.currency) AS cause) c
WHERE a.kind = 'spend' AND a.enabled AND r.amount >= t.threshold
  AND NOT EXISTS (SELECT FROM billing_alerts b WHERE b.user_id = a.user_id AND b.type = 'usage_threshold' AND b.cause = c.cause)
ORDER BY a.user_id, r.currency, t.threshold;

-- name: quota_reached
-- Percentages of quotas that users have chosen themselves and reached. The aggregator raises those of the installation; the cause is
-- spelled as it spells it, so that neither repeats the other.
SELECT s.user_id, s.id AS subscription_id, q.dimension, t.threshold, q.used, q.quota, q.cause
FROM alert_settings a
JOIN subscriptions s ON s.user_id = a.user_id AND s.status IN ('active', 'trialing', 'suspended')
CROSS JOIN LATERAL unnest(a.thresholds) AS t (threshold)
CROSS JOIN LATERAL (
    SELECT d.*, format('%s, %s %% of %s, period from %s', s.id, t.threshold, d.dimension,
                       to_char(s.quota_period_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24"Z"')) AS cause
    FROM (VALUES ('requests', s.used_requests, s.quota_requests), ('tokens', s.used_tokens, s.quota_tokens)) AS d (dimension, used, quota)) q
WHERE a.kind = 'usage_threshold' AND a.enabled AND q.quota IS NOT NULL AND q.used * 100 >= q.quota * t.threshold
  AND NOT EXISTS (SELECT FROM billing_alerts b WHERE b.user_id = a.user_id AND b.type = 'usage_threshold' AND b.cause = q.cause)
ORDER BY s.id, q.dimension, t.threshold;

-- name: expiring
-- Subscriptions that end by themselves within as many days as their users want to know it before ($2 where they have not chosen):
-- by their expiry, or at the end of the period where they were cancelled for it. The fewest days that hold.
SELECT s.user_id, s.id AS subscription_id, e.ends_at, t.days, c.cause
FROM subscriptions s
LEFT JOIN alert_settings a ON a.user_id = s.user_id AND a.kind = 'subscription_expiring'
CROSS JOIN LATERAL (SELECT least(s.expires_at, CASE WHEN s.cancel_at_period_end THEN s.current_period_end END) AS ends_at) e
CROSS JOIN LATERAL (
    SELECT min(days) AS days FROM unnest(coalesce(a.thresholds, ARRAY[$2::numeric])) AS days
    WHERE e.ends_at <= $1::timestamptz + days * interval '1 day') t
CROSS JOIN LATERAL (
    SELECT format('subscription %s ends %s, %s days ahead', s.id, to_char(e.ends_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'), t.days) AS cause) c
WHERE s.status IN ('active', 'trialing', 'suspended', 'paused') AND e.ends_at > $1 AND t.days IS NOT NULL AND coalesce(a.enabled, true)
  AND NOT EXISTS (SELECT FROM billing_alerts b WHERE b.user_id = s.user_id AND b.type = 'subscription_expiring' AND b.cause = c.cause)
ORDER BY s.id;

-- name: unrated
-- Usage that has waited for a price since before $1, by subscription, month and what was used: its customer's invoice lacks it.
SELECT s.user_id, w.*, c.cause
FROM (SELECT subscription_id, model_id, tool_name, date_trunc('month', hour, 'UTC') AS month, sum(requests)::bigint AS events, min(hour) AS since
      FROM rated_usage WHERE amount IS NULL AND rated_at < $1
      GROUP BY 1, 2, 3, 4 HAVING sum(requests) > 0) w
JOIN subscriptions s ON s.id = w.subscription_id
CROSS JOIN LATERAL (
    SELECT format('subscription %s, %s, %s', s.id, coalesce(nullif(w.model_id, ''), w.tool_name), to_char(w.month AT TIME ZONE 'UTC', 'YYYY-MM')) AS cause) c
WHERE NOT EXISTS (SELECT FROM billing_alerts b WHERE b.user_id = s.user_id AND b.type = 'unrated_usage' AND b.cause = c.cause)
ORDER BY w.subscription_id, w.month, w.model_id, w.tool_name;

-- name: provider_keys_due
-- Keys at providers that their owners wanted to be reminded to replace by $1, once for each time that they are replaced.
UPDATE user_provider_keys SET rotation_reminded_at = $1
WHERE is_active AND rotation_due_at <= $1 AND rotation_reminded_at IS NULL
RETURNING id, user_id, provider, key_name, key_hint, rotation_due_at;

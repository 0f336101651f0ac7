-- The SQL of entitlements: how subscriptions and keys stand.

-- name: standings
-- How subscriptions ($1) stand at a time ($2). Credits are without what has expired and is not posted yet.
SELECT s.id, s.user_id, s.status::text, s.suspended_reasons, s.status_version, s.currency, s.quota_requests, s.quota_tokens, s.used_requests, s.used_tokens,
       concurrent_limit(s.plan_id, coalesce(s.current_period_start, $2)) AS concurrent,
       CASE WHEN s.billing_mode = 'prepaid' THEN coalesce(c.balance, 0)
           - coalesce((SELECT sum(g.remaining) FROM credit_grants g WHERE g.user_id = s.user_id AND g.open AND g.expires_at <= $2), 0) END AS credits,
       s.reset_at, coalesce(h.open, 0) AS held_open, coalesce(h.requests, 0) AS held_requests, coalesce(h.tokens, 0) AS held_tokens,
       coalesce(ch.credits, 0) AS held_credits
FROM subscriptions s
LEFT JOIN reservation_holds h ON h.subscription_id = s.id
LEFT JOIN user_credits c ON c.user_id = s.user_id
LEFT JOIN credit_holds ch ON ch.user_id = s.user_id
WHERE s.id = ANY ($1::uuid[]);

-- name: keys
-- API keys by id ($1) or hash ($2), whether they may be used at a time ($3), and what they used of a UTC day ($4).
SELECT k.id, k.key_hash, k.subscription_id,
       k.is_active AND u.is_active AND u.anonymised_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $3) AS active,
       k.quota_requests_per_minute, k.quota_requests_per_day, greatest(coalesce(d.requests, 0), 0) AS used_today
FROM api_keys k
JOIN users u ON u.id = k.user_id
LEFT JOIN api_key_days d ON (d.subscription_id, d.api_key_id, d.day) = (k.subscription_id, k.id, $4::date)
WHERE k.id = ANY ($1::uuid[]) OR k.key_hash = ANY ($2::text[]);

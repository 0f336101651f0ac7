-- What was used with own keys at providers.

-- name: oldest_month
-- The oldest month that a key counts, before month $1.
SELECT min(usage_month) FROM user_provider_keys WHERE usage_month < $1;

-- name: count_month
-- Counts month [$1, $2) for the default keys that are in it, from rated usage. An event does not name its key: it is the default one's, less what
-- was counted for other keys of the user at the provider while they were the default. The total moves by as much as the month does, so that
-- counting again changes nothing.
WITH used AS (
    SELECT k.id, sum(r.requests) AS requests, sum(r.request_tokens + r.response_tokens) AS tokens, max(r.last_event_at) AS last_event_at
    FROM user_provider_keys k
    JOIN subscriptions s ON s.user_id = k.user_id
    JOIN rated_usage r ON r.subscription_id = s.id AND r.byok AND r.hour >= $1 AND r.hour < $2
    JOIN models m ON m.id = r.model_id AND m.provider = k.provider
    WHERE k.is_default AND k.usage_month = $1
    GROUP BY k.id
), counted AS (
    SELECT u.id, u.last_event_at, greatest(u.requests - coalesce(sum(o.monthly_requests), 0), 0)::bigint AS requests,
           greatest(u.tokens - coalesce(sum(o.monthly_tokens), 0), 0)::bigint AS tokens
    FROM used u JOIN user_provider_keys k ON k.id = u.id
    LEFT JOIN user_provider_keys o ON o.user_id = k.user_id AND o.provider = k.provider AND o.id <> k.id AND o.usage_month = $1
    GROUP BY u.id, u.last_event_at, u.requests, u.tokens
)
UPDATE user_provider_keys k
SET monthly_requests = c.requests, monthly_tokens = c.tokens, total_requests = greatest(k.total_requests + c.requests - k.monthly_requests, 0),
    last_used_at = CASE WHEN c.requests > k.monthly_requests THEN greatest(k.last_used_at, c.last_event_at) ELSE k.last_used_at END
FROM counted c
WHERE k.id = c.id AND (k.monthly_requests, k.monthly_tokens) IS DISTINCT FROM (c.requests, c.tokens);

-- name: next_month
-- Keys that count month $1 begin to count month $2.
UPDATE user_provider_keys SET usage_month = $2, monthly_requests = 0, monthly_tokens = 0 WHERE usage_month = $1;

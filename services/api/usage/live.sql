-- The SQL of live counters: with the rights of the API itself, for all who are watching.

-- name: counters
-- What the subscriptions of users $1 have used in their quota periods, with their standing.
SELECT id, user_id, status::text AS status, suspended_reasons, used_requests, used_tokens, quota_requests, quota_tokens, quota_period_start, reset_at
FROM subscriptions WHERE user_id = ANY($1::uuid[]) ORDER BY id;

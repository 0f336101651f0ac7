-- The SQL of what the API itself does for users: with its own rights.

-- name: counters
-- What the subscriptions of users $1 have used in their quota periods, with their standing.
SELECT id, user_id, status::text AS status, suspended_reasons, used_requests, used_tokens, quota_requests, quota_tokens, quota_period_start, reset_at
FROM subscriptions WHERE user_id = ANY($1::uuid[]) ORDER BY id;

-- name: set_time_zone
-- Sets the time zone of a user.
UPDATE users SET time_zone = $2 WHERE id = $1;

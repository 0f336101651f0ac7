-- API keys: what is done to them. The audit trail is written by a trigger.

-- name: subscription_of_key
-- Whose subscription $1 is, and how it stands.
SELECT user_id, status::text FROM subscriptions WHERE id = $1;

-- name: make_key
-- Makes a key ($1) of subscription $2, called $3, with hash $4 and prefix $5; limits by minute $6 and day $7, expiry $8, made at $9, in place of $10.
INSERT INTO api_keys (id, subscription_id, name, key_hash, key_prefix, quota_requests_per_minute, quota_requests_per_day, expires_at, created_at, replaces)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
RETURNING id, subscription_id, user_id, name, key_prefix, quota_requests_per_minute, quota_requests_per_day, expires_at, last_used_at, created_at,
    revoked_at, is_active, replaces;

-- name: lock_key
-- A key, taken so that it is replaced or revoked once; of user $2 alone, if one is given.
SELECT id, subscription_id, user_id, name, key_prefix, quota_requests_per_minute, quota_requests_per_day, expires_at, last_used_at, created_at,
    revoked_at, is_active, replaces
FROM api_keys WHERE id = $1 AND ($2::uuid IS NULL OR user_id = $2) FOR UPDATE;

-- name: replacement_of
-- The key that was made in the place of key $1.
SELECT id FROM api_keys WHERE replaces = $1;

-- name: expire_key
-- Key $1 ends at $2, unless it does earlier.
UPDATE api_keys SET expires_at = least(expires_at, $2) WHERE id = $1;

-- name: revoke_key
-- Key $1 is not valid any more, as of $2.
UPDATE api_keys SET is_active = false, revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL;

-- name: list_keys
-- Keys, the latest first: of user $1 and subscription $2, if they are given; without those that were revoked or have expired by $4 unless $3;
-- $5 at most after $6 of them, made before ($7, $8) if that is given.
SELECT id, subscription_id, user_id, name, key_prefix, quota_requests_per_minute, quota_requests_per_day, expires_at, last_used_at, created_at,
    revoked_at, is_active, replaces
FROM api_keys
WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::uuid IS NULL OR subscription_id = $2)
  AND ($3 OR is_active AND (expires_at IS NULL OR expires_at > $4))
  AND ($7::timestamptz IS NULL OR (created_at, id) < ($7, $8::uuid))
ORDER BY created_at DESC, id DESC LIMIT $5 OFFSET $6;

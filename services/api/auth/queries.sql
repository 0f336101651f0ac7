-- Who stands behind a credential.

-- name: keys_by_prefix
-- The API keys that begin with $1 and may be used at $2, with whom they belong to.
SELECT k.id, k.key_hash, k.subscription_id, k.user_id, k.name, u.username, u.roles
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.key_prefix = $1 AND k.is_active AND u.is_active AND u.anonymised_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $2);

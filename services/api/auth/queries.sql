-- Who stands behind a credential.

-- name: keys_by_prefix
-- The API keys that begin with $1 and may be used at $2, with whom they belong to.
SELECT k.id, k.key_hash, k.subscription_id, k.user_id, k.name, u.username, u.roles
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.key_prefix = $1 AND k.is_active AND u.is_active AND u.anonymised_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $2);

-- name: user_of_provider
-- Who identity provider $1 calls $2.
SELECT id, username, roles, is_active AND anonymised_at IS NULL AS is_active, permissions_updated_at, last_login_at
FROM users WHERE oauth_provider = $1 AND oauth_id = $2;

-- name: make_user_of_provider
-- Makes the user whom provider $2 calls $3, with address $4, name $5 and full name $6, at the first login, with a token of $7. Where the
-- address is somebody's already, nobody is made; where the name is, the address is the name.
INSERT INTO users (id, username, email, full_name, oauth_provider, oauth_id, email_verified, permissions_updated_at, last_login_at)
SELECT $1, CASE WHEN EXISTS (SELECT FROM users WHERE username = $5) THEN $4 ELSE coalesce($5, $4) END, $4, $6, $2, $3, true, $7, $7
ON CONFLICT DO NOTHING;

-- name: seen_at
-- User $1 has a token of $2.
UPDATE users SET last_login_at = $2 WHERE id = $1 AND (last_login_at IS NULL OR last_login_at < $2);

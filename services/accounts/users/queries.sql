-- Users, as an administrator keeps them.

-- name: make_user
-- Makes user $1: address $2, called $3, with roles $4, password hash $5, and subject $7 at identity provider $6; of tier $8.
INSERT INTO users (id, email, full_name, roles, password_hash, oauth_provider, oauth_id, email_verified, subscription_tier)
VALUES ($1, $2, $3, $4, $5, $6, $7, true, $8);

-- name: user_taken
-- Whether somebody has this address, in whatever case, or this subject at this provider.
SELECT EXISTS (SELECT FROM users WHERE lower(email) = lower($1)) AS email,
       EXISTS (SELECT FROM users WHERE oauth_provider = $2 AND oauth_id = $3) AS subject;

-- name: set_password
-- User $1 has a new password.
UPDATE users SET password_hash = $2 WHERE id = $1 AND anonymised_at IS NULL RETURNING id;

-- name: lock_roles
-- The roles of a user, taken so that two changes are both kept.
SELECT roles FROM users WHERE id = $1 FOR UPDATE;

-- name: set_roles
-- User $1 has these roles.
UPDATE users SET roles = $2 WHERE id = $1;

-- name: set_active
-- User $1 may use the API, or may not.
UPDATE users SET is_active = $2 WHERE id = $1 AND is_active <> $2 RETURNING id;

-- name: is_last_administrator
-- Whether user $1 is the only active administrator. Two who take each other's role go one after the other: the lock is the transaction's.
SELECT u.is_active AND 'admin' = ANY (u.roles)
   AND NOT EXISTS (SELECT FROM users o WHERE o.id <> u.id AND o.is_active AND 'admin' = ANY (o.roles))
FROM users u, pg_advisory_xact_lock(hashtextextended('tallystick.administrators', 0)) WHERE u.id = $1;

-- name: lock_account
-- What of a user can be changed, taken so that two changes are both kept.
SELECT email, full_name, email_verified, subscription_tier FROM users WHERE id = $1 AND anonymised_at IS NULL FOR UPDATE;

-- name: change_account
-- User $1 has this address, name, whether that address is known to be theirs, and tier.
UPDATE users SET email = $2, full_name = $3, email_verified = $4, subscription_tier = $5 WHERE id = $1;

-- name: anonymise
-- Erases who user $1 was.
SELECT anonymise_user($1);

-- name: link_user
-- User $1 is who identity provider $2 calls $3.
UPDATE users SET oauth_provider = $2, oauth_id = $3 WHERE id = $1;

-- name: end_sessions
-- User $1 is logged out everywhere.
DELETE FROM sessions WHERE user_id = $1;

-- name: list_users
-- Users by address: those with role $1, if one is given; $2 at most.
SELECT id, email, full_name, roles, is_active, password_hash IS NOT NULL AS has_password, oauth_provider, oauth_id, last_login_at
FROM users WHERE ($1::text IS NULL OR $1 = ANY (roles)) AND anonymised_at IS NULL
ORDER BY lower(email) LIMIT $2;

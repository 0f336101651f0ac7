-- Logins.

-- name: count_attempt
-- Counts an attempt at $2 (an account or an address, $1) at $3, in a window of $4; returns how many it were in it, and since when.
INSERT INTO failed_logins AS f (kind, subject, attempts, window_start) VALUES ($1, $2, 1, $3)
ON CONFLICT (kind, subject) DO UPDATE SET
    attempts = CASE WHEN f.window_start <= $3 - $4::interval THEN 1 ELSE f.attempts + 1 END,
    window_start = CASE WHEN f.window_start <= $3 - $4::interval THEN $3 ELSE f.window_start END
RETURNING attempts, window_start;

-- name: forget_attempts
-- One attempt succeeded: those at account $1 are forgotten, and it does not count against address $2.
WITH forgotten AS (DELETE FROM failed_logins WHERE kind = 'account' AND subject = $1)
UPDATE failed_logins SET attempts = greatest(attempts - 1, 1) WHERE kind = 'address' AND subject = $2;

-- name: forget_old_attempts
-- Windows that began before $1 are over.
DELETE FROM failed_logins WHERE window_start < $1;

-- name: user_by_email
-- Who may log in with this address, in whatever case.
SELECT id, username, password_hash FROM users
WHERE lower(email) = lower($1) AND is_active AND anonymised_at IS NULL;

-- name: act_as
-- The rest of this transaction is done by user $1, called $2.
SELECT set_config('app.current_user_id', $1, true), set_config('tallystick.actor', $2, true);

-- name: logged_in
-- User $1 logged in at $2.
UPDATE users SET last_login_at = $2 WHERE id = $1;

-- name: renew_password_hash
-- The same password of user $1, hashed anew; unless it was changed from $3 meanwhile.
UPDATE users SET password_hash = $2 WHERE id = $1 AND password_hash = $3;

-- name: note_activity
-- User $1 did $2 at $4, with details.
INSERT INTO user_activity (user_id, action, data, created_at) VALUES ($1, $2, $3, $4);

-- name: begin_session
-- A pair of tokens, by their hashes ($4, $5), in family $3 of user $2.
INSERT INTO sessions (id, user_id, family, access_token, refresh_token, access_expires_at, expires_at, created_at, logged_in_at, ip_address, user_agent)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: forget_expired
-- Sessions of user $1 that are over at $2.
DELETE FROM sessions WHERE user_id = $1 AND expires_at <= $2;

-- name: lock_session
-- The session of a refresh token, taken so that it is exchanged once.
SELECT s.id, s.user_id, s.family, s.expires_at, s.used_at, s.logged_in_at, u.username, u.is_active AND u.anonymised_at IS NULL AS is_active
FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.refresh_token = $1 FOR UPDATE OF s;

-- name: use_session
-- Its refresh token is exchanged.
UPDATE sessions SET used_at = $2 WHERE id = $1;

-- name: end_family
-- A login is over, with all that was refreshed from it.
DELETE FROM sessions WHERE family = $1;

-- name: end_all
-- All logins of a user are over.
DELETE FROM sessions WHERE user_id = $1;

-- name: session_by_access_token
-- Who is behind an access token at $2.
SELECT s.family, s.user_id, u.username, u.roles
FROM sessions s JOIN users u ON u.id = s.user_id
WHERE s.access_token = $1 AND s.access_expires_at > $2 AND u.is_active AND u.anonymised_at IS NULL;

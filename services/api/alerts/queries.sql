-- The SQL of alerts: as a tenant under row-level security, or as who reads all.

-- name: alerts
-- Alerts of user $1 (NULL: of anybody) and type $2, those not read yet if $3, the newest first: after ($4, $5), skipping $6, at most $7.
SELECT id, user_id, subscription_id, type, cause, threshold, current_value, message, is_read, read_at, created_at
FROM billing_alerts
WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR type = $2) AND NOT ($3::boolean AND is_read)
  AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5::uuid))
ORDER BY created_at DESC, id DESC OFFSET $6 LIMIT $7;

-- name: count_alerts
-- How many there are.
SELECT count(*) FROM billing_alerts
WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR type = $2) AND NOT ($3::boolean AND is_read);

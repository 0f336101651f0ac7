-- The SQL of what befalls credits by the calendar: they expire, and allowances are renewed.

-- name: expiring
-- Users who have grants that have expired at $1 and are not posted yet.
SELECT DISTINCT user_id FROM credit_grants WHERE open AND expires_at <= $1 ORDER BY user_id;

-- name: expire
-- Posts what has expired of users ($1) at $2: locking an account does it.
SELECT count(*) FROM lock_credit_accounts($1::uuid[], $2);

-- name: renewable
-- Users whose billing cycle at $1 has an allowance that was not granted yet.
SELECT user_id FROM user_credits
WHERE auto_renew AND monthly_allowance > 0
  AND (allowance_granted_for IS NULL OR allowance_granted_for < billing_cycle_start OR billing_cycle_end <= $1)
ORDER BY user_id;

-- name: renew
-- Grants the allowances of users ($1), in the order of their ids, that are due at $2; returns how many.
SELECT coalesce(sum(renew_credit_allowance(u.id, $2)), 0) FROM (SELECT id FROM unnest($1::uuid[]) AS id ORDER BY id) u;

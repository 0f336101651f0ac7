-- The SQL that commands of operators share.

-- name: act_as
-- Lets the audit trail name who acts in this transaction ($1), and why ($2).
SELECT set_config('tallystick.actor', $1, true), set_config('tallystick.why', $2, true);

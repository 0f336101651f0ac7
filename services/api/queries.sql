-- The SQL of the API itself; its capabilities have their own.

-- name: read_as
-- The rest of this transaction has the rights of role $1, and row-level security shows it what user $2 owns.
SELECT set_config('role', $1, true), set_config('app.current_user_id', $2, true);

-- name: write_as
-- The rest of this transaction has the rights of role $1; the audit trail names who acts ($2), why ($3), and as which user ($4).
SELECT set_config('role', $1, true), set_config('tallystick.actor', $2, true), set_config('tallystick.why', $3, true),
       set_config('app.current_user_id', $4, true);

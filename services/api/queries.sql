-- The SQL of the API itself; its capabilities have their own.

-- name: read_as
-- The rest of this transaction has the rights of role $1, and row-level security shows it what user $2 owns; a statement may take $3 milliseconds.
-- Plans are made for the parameters at hand: most of them are filters that are given or not.
SELECT set_config('role', $1, true), set_config('app.current_user_id', $2, true), set_config('statement_timeout', $3, true),
       set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: see_all
-- The rest of this transaction has the rights of role $1.
SELECT set_config('role', $1, true);

-- name: see_in_order
-- The rest of this transaction has the rights of role $1, and the planner sorts ('on') or does not where an index gives the order ($2).
SELECT set_config('role', $1, true), set_config('enable_sort', $2, true);

-- name: write_as
-- The rest of this transaction has the rights of role $1; the audit trail names who acts ($2), why ($3), and as which user ($4), from which
-- address ($5) by what program ($6), and in which request ($7).
SELECT set_config('role', $1, true), set_config('tallystick.actor', $2, true), set_config('tallystick.why', $3, true),
       set_config('app.current_user_id', $4, true), set_config('tallystick.address', $5, true), set_config('tallystick.user_agent', $6, true),
       set_config('tallystick.request_id', $7, true);

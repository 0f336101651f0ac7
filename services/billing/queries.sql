-- The SQL of what billing's capabilities share. Each of them has its own queries.sql.

-- name: first_rated
-- When the first usage was rated: nothing was to be billed before that.
SELECT rated_at FROM rating_runs ORDER BY id LIMIT 1;

-- The SQL of reservations. What decides is in functions of the database (deploy/migrations/0030_reservations.sql): whoever calls them.

-- name: reserve_many
-- Reserves for many requests at once: ids $1, subscriptions $2, requests $3, tokens $4, credits $5, seconds $6, keys $7, digests $8, at $9.
SELECT outcome, reasons, id, subscription_id, state, requests, tokens, credits, created_at, expires_at,
       remaining_requests, remaining_tokens, remaining_credits, remaining_concurrent, reset_at
FROM reserve_many($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::numeric[], $6::integer[], $7::text[], $8::bytea[], $9)
ORDER BY place;

-- name: cancel
-- Cancels a reservation ($1) at a time ($2) if it is open; the reservation as it is then.
SELECT id, subscription_id, state, requests, tokens, credits, created_at, expires_at FROM cancel_reservation($1, $2);

-- name: find
-- A reservation, and whose it is.
SELECT id, subscription_id, user_id, state, requests, tokens, credits, created_at, expires_at FROM reservations WHERE id = $1;

-- name: credit_rates
-- What a unit of each currency is worth in credits at a time ($1).
SELECT currency, credits_per_unit FROM credit_rate_periods WHERE valid_from <= $1 AND $1 < valid_to;

-- The SQL of buying credits: packages, their payments and refunds, automatic top-ups.

-- name: packages
-- The packages that are on sale, or all of them ($1).
SELECT id, name, description, credits, price, currency, valid_days, min_tier, is_active
FROM credit_packages WHERE is_active OR $1 ORDER BY sort_order, price;

-- name: offer
-- A package by id or name ($1), the rank of the tier that it asks for and that of a user ($2; who has no account yet is free).
SELECT p.id, p.name, p.description, p.credits, p.price, p.currency, p.valid_days, p.min_tier, p.is_active,
       coalesce((SELECT rank FROM credit_tiers WHERE tier = p.min_tier), 0) AS needs,
       coalesce((SELECT t.rank FROM user_credits c JOIN credit_tiers t USING (tier) WHERE c.user_id = $2), 0) AS has
FROM credit_packages p WHERE p.id::text = $1 OR lower(p.name) = lower($1);

-- name: purchase
-- Adds the credits of a package ($2) that a payment ($3) of a user ($1) bought, with a key ($4).
SELECT new_balance FROM purchase_credit_package($1, $2, $3, $4);

-- name: take_back
-- Takes back the credits of a payment ($1) as far as it was refunded, with a key ($2); used ones are owed if $3.
SELECT taken, owed_added, transaction_id, new_balance FROM take_back_refunded_credits($1, $2, $3);

-- name: request_topups
-- Asks for the packages of accounts ($1, or all) whose balance is below the threshold at $2.
SELECT id, user_id, package_id, credits, price, currency FROM request_credit_topups($1::uuid[], $2);

-- name: claim_topups
-- Open requests, at most $1.
SELECT id, user_id, package_id, credits, price, currency FROM topup_requests
WHERE status = 'requested' ORDER BY requested_at, id LIMIT $1 FOR UPDATE SKIP LOCKED;

-- name: topup
-- One request ($1), locked.
SELECT id, user_id, package_id, credits, price, currency FROM topup_requests WHERE id = $1 FOR UPDATE;

-- name: complete_topup
-- Closes a request ($1) that a payment ($2) executed at $3.
UPDATE topup_requests SET status = 'completed', payment_id = $2, failure = NULL, finished_at = $3 WHERE id = $1 AND status <> 'completed';

-- name: fail_topup
-- Closes a request ($1) that failed for a reason ($2) at $3.
UPDATE topup_requests SET status = 'failed', failure = $2, finished_at = $3 WHERE id = $1 AND status = 'requested';

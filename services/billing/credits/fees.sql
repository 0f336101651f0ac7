-- The SQL of prepaid fees: flat fees of prepaid subscriptions become ledger entries.

-- name: watermark
-- Up to when fees were charged; taken, so that one worker at a time charges them.
SELECT since, charged_until FROM credit_charges_made FOR UPDATE;

-- name: move_watermark
-- What fell due before $1 has been charged.
UPDATE credit_charges_made SET charged_until = greatest(charged_until, $1);

-- name: charged
-- Which of these charges ($1) were made.
SELECT charge_key FROM credit_charges WHERE charge_key = ANY($1::text[]);

-- name: rate
-- What a unit of a currency ($1) is worth in credits at a time ($2).
SELECT credits_per_unit FROM credit_rate_periods WHERE currency = $1 AND valid_from <= $2 AND $2 < valid_to;

-- name: post
-- Debits $2 credits of a user ($1), or gives them back where negative, for a charge ($3), in words ($4), with metadata ($5).
SELECT debited, owed_added, transaction_id, new_balance, total_owed FROM settle_user_credits($1, $2, 'charge:' || $3, $4, $5::jsonb);

-- name: record
-- Writes what a charge ($1) came to.
INSERT INTO credit_charges (charge_key, user_id, subscription_id, kind, description, amount, currency, credits_per_unit, credits, debited, owed,
                            transaction_id, due_at, period_start, period_end, metadata)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16::jsonb);

-- name: charge
-- A charge, by its ledger entry.
SELECT * FROM credit_charges WHERE transaction_id = $1;

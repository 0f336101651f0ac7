-- The SQL of reading credits: as a tenant under row-level security, or as who reads all.

-- name: balance
-- The account of user $1. What has expired by $2 and is still in it pays nothing any more. Who never had credits has an account of nothing.
SELECT u.id AS user_id, coalesce(c.balance, 0) AS balance, coalesce(c.owed, 0) AS owed, coalesce(c.tier, 'free') AS tier,
       coalesce(c.power_level, 'balanced') AS power_level, coalesce(c.monthly_allowance, 0) AS monthly_allowance,
       CASE WHEN c.billing_cycle_end <= $2 THEN 0 ELSE coalesce(c.credits_used_this_month, 0) END AS credits_used_this_month,
       c.billing_cycle_start, c.billing_cycle_end, coalesce(c.auto_renew, false) AS auto_renew, c.low_balance_threshold,
       c.auto_topup_threshold, c.auto_topup_package_id,
       coalesce((SELECT sum(g.remaining) FROM credit_grants g WHERE g.user_id = u.id AND g.open AND g.expires_at <= $2), 0) AS expired,
       (SELECT min(g.expires_at) FROM credit_grants g WHERE g.user_id = u.id AND g.open AND g.expires_at > $2) AS next_expiry,
       c.updated_at
FROM users u LEFT JOIN user_credits c ON c.user_id = u.id
WHERE u.id = $1;

-- name: money
-- What user $1 has in money for invoices, by currency, at time $2.
SELECT currency, sum(remaining) AS amount FROM credits
WHERE user_id = $1 AND remaining > 0 AND (expires_at IS NULL OR expires_at > $2)
GROUP BY currency ORDER BY currency;

-- name: transactions
-- The ledger of user $1, only entries of types $2, the newest first: before entry number $3, skipping $4, at most $5.
SELECT t.id, t.user_id, t.sequence, t.transaction_type, t.amount, t.balance_before, t.balance_after, t.owed_change, t.owed_after, t.description,
       t.provider, t.model, t.prompt_tokens, t.completion_tokens, t.power_level, t.request_id, t.payment_method, t.package_id, t.invoice_id,
       t.payment_id, (t.metadata ->> 'settlement_id')::uuid AS settlement_id, t.created_at
FROM credit_transactions t
WHERE t.user_id = $1 AND ($2::text[] IS NULL OR t.transaction_type = ANY($2)) AND ($3::bigint IS NULL OR t.sequence < $3)
ORDER BY t.sequence DESC OFFSET $4 LIMIT $5;

-- name: count_transactions
-- How many entries the ledger of user $1 has, of types $2.
SELECT count(*) FROM credit_transactions WHERE user_id = $1 AND ($2::text[] IS NULL OR transaction_type = ANY($2));

-- name: grants
-- The grants of prepaid credits of user $1; only those that still pay at $2 if $3. The newest first: before grant number $4, skipping $5, at most $6.
SELECT id, user_id, transaction_id, sequence, kind, name, amount, remaining, used, withdrawn, priority, expires_at, package_id, payment_id, created_at
FROM credit_grants
WHERE user_id = $1 AND (NOT $3::boolean OR (open AND (expires_at IS NULL OR expires_at > $2))) AND ($4::bigint IS NULL OR sequence < $4)
ORDER BY sequence DESC OFFSET $5 LIMIT $6;

-- name: count_grants
-- How many there are.
SELECT count(*) FROM credit_grants WHERE user_id = $1 AND (NOT $3::boolean OR (open AND (expires_at IS NULL OR expires_at > $2)));

-- name: packages
-- The packages that are for sale, in the order in which they are shown.
SELECT id, name, description, credits, price, currency, discount_percentage, min_tier, is_featured, badge_text, valid_days
FROM credit_packages WHERE is_active ORDER BY sort_order, name;

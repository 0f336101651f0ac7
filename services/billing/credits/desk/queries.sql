-- The SQL of what operators see and do of credits. It runs with the rights of an operator.

-- name: user
-- A user by id, e-mail address or user name ($1).
SELECT id, email FROM users WHERE id::text = lower($1) OR lower(email) = lower($1) OR username = $1 ORDER BY id LIMIT 2;

-- name: account
-- A user's account ($1); who has none yet has nothing.
SELECT u.id AS user_id, u.email, coalesce(c.balance, 0) AS balance, coalesce(c.owed, 0) AS owed, coalesce(c.tier, 'free') AS tier,
       coalesce(c.monthly_allowance, 0) AS monthly_allowance, coalesce(c.auto_renew, false) AS auto_renew,
       coalesce(c.credits_used_this_month, 0) AS used_this_cycle, c.billing_cycle_start AS cycle_start, c.billing_cycle_end AS cycle_end,
       c.low_balance_threshold, c.auto_topup_threshold AS topup_below, p.name AS topup_package,
       coalesce((SELECT sum(remaining) FROM credit_grants g WHERE g.user_id = u.id AND g.open AND g.expires_at <= $2), 0) AS expired,
       (SELECT min(expires_at) FROM credit_grants g WHERE g.user_id = u.id AND g.open AND g.expires_at > $2) AS next_expiry
FROM users u LEFT JOIN user_credits c ON c.user_id = u.id LEFT JOIN credit_packages p ON p.id = c.auto_topup_package_id
WHERE u.id = $1;

-- name: money
-- What a user ($1) has in money for invoices, by currency, at $2.
SELECT currency, sum(remaining) AS amount FROM credits
WHERE user_id = $1 AND remaining > 0 AND (expires_at IS NULL OR expires_at > $2) GROUP BY currency ORDER BY currency;

-- name: history
-- The last entries ($2) of a user's ledger ($1), the latest first, with the grants that each was spread over.
SELECT t.id, t.sequence, t.created_at, t.transaction_type AS type, t.amount, t.balance_after, t.owed_change, t.owed_after, t.description,
       t.payment_id, t.idempotency_key,
       (SELECT jsonb_agg(jsonb_build_object('grant', p.grant_id, 'kind', g.kind, 'amount', p.amount::text) ORDER BY g.priority, g.expires_at NULLS LAST, g.sequence)
        FROM credit_grant_postings p JOIN credit_grants g ON g.id = p.grant_id WHERE p.transaction_id = t.id)::text AS grants
FROM credit_transactions t WHERE t.user_id = $1 ORDER BY t.sequence DESC LIMIT $2;

-- name: grants
-- A user's grants ($1) in the order in which they are used; used up ones too if $2.
SELECT id, kind, name, amount, remaining, used, withdrawn, priority, expires_at, created_at, payment_id
FROM credit_grants WHERE user_id = $1 AND (open OR $2)
ORDER BY open DESC, priority, expires_at NULLS LAST, sequence;

-- name: add
-- Adds credits ($2) of a type ($3) to a user ($1), or takes them back: description $4, key $5, priority $6, end $7.
SELECT transaction_id, new_balance
FROM add_user_credits($1, $2, $3, description => $4, idempotency_key => $5, priority => $6, expires_at => $7);

-- name: debit
-- Takes credits ($2) from a user ($1): description $3, key $4; for which request ($5), at which provider ($6), of which model ($7), with how
-- many tokens in ($8) and out ($9), at which power level ($10).
SELECT transaction_id, new_balance
FROM debit_user_credits($1, $2, 'debit', description => $3, idempotency_key => $4, request_id => $5, provider => $6, model => $7,
                        prompt_tokens => $8, completion_tokens => $9, power_level => $10);

-- name: audit
-- Notes what an operator did to a user's ($1) credits: action $2, its record $3, what it came to $4. Who did it is the transaction's actor.
INSERT INTO audit_logs (user_id, action, resource_type, resource_id, after) VALUES ($1, $2, 'credits', $3, $4);

-- name: audit_once
-- The same for a ledger entry, with the balance before it: a repeated command makes no second one, and is not noted again.
INSERT INTO audit_logs (user_id, action, resource_type, resource_id, before, after)
SELECT $1, $2, 'credits', $3, jsonb_build_object('balance', trim_scale(t.balance_before)::text), $4
FROM credit_transactions t
WHERE t.id = $3::text::uuid AND NOT EXISTS (SELECT FROM audit_logs WHERE resource_type = 'credits' AND resource_id = $3 AND action = $2);

-- name: rates
-- All rates of credits.
SELECT currency, valid_from, credits_per_unit, created_by FROM credit_rates ORDER BY currency, valid_from;

-- name: set_rate
-- A unit of a currency ($1) is worth $3 credits from an hour ($2) on.
INSERT INTO credit_rates (currency, valid_from, credits_per_unit) VALUES ($1, $2, $3);

-- name: tiers
-- The tiers of accounts.
SELECT tier, rank, monthly_allowance, rollover_months FROM credit_tiers ORDER BY rank, tier;

-- name: change_tier
-- What a tier ($1) includes each month ($2), and for how many months longer ($3; NULL: for ever) what is unused lasts.
UPDATE credit_tiers SET monthly_allowance = $2, rollover_months = $3 WHERE tier = $1 RETURNING tier;

-- name: set_tier
-- Gives a user ($1) a tier ($2) with its allowance, renewed by itself if $3.
INSERT INTO user_credits (user_id, tier, monthly_allowance, auto_renew)
SELECT $1, tier, monthly_allowance, $3 FROM credit_tiers WHERE tier = $2
ON CONFLICT (user_id) DO UPDATE SET tier = excluded.tier, monthly_allowance = excluded.monthly_allowance, auto_renew = excluded.auto_renew
RETURNING monthly_allowance;

-- name: set_topup
-- Buys a package ($3) for a user ($1) whenever the balance is below $2, at most $4 times a cycle; NULL: not any more.
INSERT INTO user_credits (user_id, auto_topup_threshold, auto_topup_package_id, auto_topup_limit) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id) DO UPDATE SET auto_topup_threshold = excluded.auto_topup_threshold,
    auto_topup_package_id = excluded.auto_topup_package_id, auto_topup_limit = excluded.auto_topup_limit, auto_topup_set_at = now();

-- name: set_alert
-- Tells a user ($1) when the balance falls below $2; NULL: not any more.
INSERT INTO user_credits (user_id, low_balance_threshold) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET low_balance_threshold = excluded.low_balance_threshold;

-- name: lock_package
-- A package by its name or id ($1), for this transaction alone.
SELECT * FROM credit_packages WHERE lower(name) = lower($1) OR id::text = $1 FOR UPDATE;

-- name: known_tier
-- Whether there is such a tier.
SELECT EXISTS (SELECT FROM credit_tiers WHERE tier = $1);

-- name: put_package
-- Offers a package ($1 name), or changes what $2 (an object) says of it.
INSERT INTO credit_packages AS p (name, description, credits, price, currency, valid_days, min_tier, sort_order, is_active)
SELECT $1, w.description, coalesce(w.credits, o.credits, 1), coalesce(w.price, o.price, 0), coalesce(w.currency, o.currency, 'USD'), w.valid_days,
       w.min_tier, coalesce(w.sort_order, 0), w.is_active
FROM jsonb_populate_record(NULL::credit_packages, $2::jsonb) w LEFT JOIN credit_packages o ON o.name = $1
ON CONFLICT (name) DO UPDATE SET
    description = coalesce(excluded.description, p.description), credits = excluded.credits, price = excluded.price,
    valid_days = CASE WHEN $2::jsonb ? 'valid_days' THEN excluded.valid_days ELSE p.valid_days END,
    min_tier = CASE WHEN $2::jsonb ? 'min_tier' THEN excluded.min_tier ELSE p.min_tier END,
    sort_order = CASE WHEN $2::jsonb ? 'sort_order' THEN excluded.sort_order ELSE p.sort_order END, is_active = excluded.is_active
RETURNING p.id, p.name, p.description, p.credits, p.price, p.currency, p.valid_days, p.min_tier, p.sort_order, p.is_active;

-- name: audit_package
-- Notes what an operator did to a package ($2): action $1, what it was $3, what it became $4. Who did it is the transaction's actor.
INSERT INTO audit_logs (action, resource_type, resource_id, before, after) VALUES ($1, 'credit_package', $2, $3, $4);

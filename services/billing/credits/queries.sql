-- The SQL of settlement: prepaid usage becomes ledger entries.

-- name: act_as_billing
-- Says for the audit trail who changes subscriptions in this transaction.
SELECT set_config('tallystick.actor', 'billing', true);

-- name: unsettled
-- Who has prepaid usage that is rated and not settled, in which currency; of all users, or of those in $1.
SELECT DISTINCT user_id, currency
FROM rated_usage
WHERE billing_mode = 'prepaid' AND settlement_id IS NULL AND amount IS NOT NULL
  AND ($1::uuid[] IS NULL OR user_id = ANY($1))
ORDER BY user_id, currency;

-- name: lock_accounts
-- Takes the credit accounts of users ($1), in the order of their ids: two workers that settle the same users go one after the other,
-- and the second finds nothing left to claim.
SELECT a.user_id, a.balance, a.owed, a.low_balance_threshold
FROM (SELECT DISTINCT id FROM unnest($1::uuid[]) AS id ORDER BY id) u
CROSS JOIN LATERAL lock_credit_account(u.id) a;

-- name: claim
-- Ties unsettled usage to settlements ($1 id, $2 user, $3 currency) and says what each is worth. Usage that is rated meanwhile
-- is not seen by this statement: it is for the next window.
WITH claimed AS (
    UPDATE rated_usage r SET settlement_id = w.id
    FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS w (id, user_id, currency)
    WHERE r.user_id = w.user_id AND r.currency = w.currency
      AND r.billing_mode = 'prepaid' AND r.settlement_id IS NULL AND r.amount IS NOT NULL
    RETURNING w.id, r.user_id, r.currency, r.amount, r.requests, r.rated_at
)
SELECT id, user_id, currency, sum(amount) AS rated_amount, sum(requests)::bigint AS events,
       min(rated_at) AS window_start, greatest(clock_timestamp(), max(rated_at) + interval '1 microsecond') AS window_end
FROM claimed GROUP BY id, user_id, currency ORDER BY user_id, currency;

-- name: settle
-- Debits credits ($3) of users ($2) for settlements ($1), in the order of the users' ids.
SELECT t.id, s.debited, s.owed_added, s.transaction_id, s.new_balance, s.total_owed
FROM (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::numeric[]) AS t (id, user_id, credits) ORDER BY user_id, id) t
CROSS JOIN LATERAL settle_user_credits(t.user_id, t.credits, 'settlement:' || t.id, 'Usage', jsonb_build_object('settlement_id', t.id)) s;

-- name: record
-- Writes what settlements came to.
INSERT INTO credit_settlements (id, user_id, window_start, window_end, rated_amount, currency, credits_per_unit, amount, debited, owed, transaction_id)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::numeric[], $6::text[],
                     $7::numeric[], $8::numeric[], $9::numeric[], $10::numeric[], $11::uuid[]);

-- name: raise_alerts
-- Tells users about their balance, once for each cause.
INSERT INTO billing_alerts (id, user_id, type, cause, threshold, current_value, message)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::numeric[], $6::numeric[], $7::text[])
ON CONFLICT (user_id, type, cause) DO NOTHING;

-- name: owed
-- What all users owe together, in credits, and how many of them do.
SELECT coalesce(sum(owed), 0) AS credits, count(*) AS users FROM user_credits WHERE owed > 0;

-- The SQL of settlement: prepaid usage becomes ledger entries.

-- name: act_as_billing
-- Says for the audit trail who changes subscriptions in this transaction.
SELECT set_config('tallystick.actor', 'billing', true);

-- name: unsettled
-- Who has prepaid usage that is rated and not settled, in which currency, at which rate (NULL: there is none); of all users, or of those in $1.
SELECT DISTINCT r.user_id, r.currency, p.credits_per_unit
FROM rated_usage r
LEFT JOIN credit_rate_periods p ON p.currency = r.currency AND r.hour >= p.valid_from AND r.hour < p.valid_to
WHERE r.billing_mode = 'prepaid' AND r.settlement_id IS NULL AND r.amount IS NOT NULL
  AND ($1::uuid[] IS NULL OR r.user_id = ANY($1))
ORDER BY r.user_id, r.currency, p.credits_per_unit;

-- name: rates
-- What a unit of each currency is worth in credits at a time ($1).
SELECT currency, credits_per_unit FROM credit_rate_periods WHERE valid_from <= $1 AND $1 < valid_to;

-- name: raise_unconvertible
-- Tells users ($2) whose usage in a currency ($3) waits for a rate of credits, once for each currency. $1 are ids of the alerts.
INSERT INTO billing_alerts (id, user_id, type, cause, message)
SELECT id, user_id, 'unrated_usage', 'credit rate ' || currency,
       format('Usage in %s waits: there is no rate yet at which it is charged to prepaid credits.', currency)
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS a (id, user_id, currency)
ON CONFLICT (user_id, type, cause) DO NOTHING;

-- name: lock_accounts
-- Takes the credit accounts of users ($1), in the order of their ids: two workers that settle the same users go one after the other,
-- and the second finds nothing left to claim.
SELECT user_id, balance, owed, low_balance_threshold, CASE WHEN auto_topup_package_id IS NOT NULL THEN auto_topup_threshold END AS topup_threshold
FROM lock_credit_accounts($1);

-- name: claim
-- Ties unsettled usage to settlements ($1 id, $2 user, $3 currency, $4 rate of its hour) and says what each is worth. Usage that is
-- rated meanwhile is not seen by this statement: it is for the next window.
WITH claimed AS (
    UPDATE rated_usage r SET settlement_id = w.id
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::numeric[]) AS w (id, user_id, currency, credits_per_unit)
    JOIN credit_rate_periods p ON p.currency = w.currency AND p.credits_per_unit = w.credits_per_unit
    WHERE r.user_id = w.user_id AND r.currency = w.currency AND r.hour >= p.valid_from AND r.hour < p.valid_to
      AND r.billing_mode = 'prepaid' AND r.settlement_id IS NULL AND r.amount IS NOT NULL
    RETURNING w.id, r.user_id, r.currency, w.credits_per_unit, r.amount, r.requests, r.rated_at
)
SELECT id, user_id, currency, credits_per_unit, sum(amount) AS rated_amount, sum(requests)::bigint AS events,
       min(rated_at) AS window_start, greatest(clock_timestamp(), max(rated_at) + interval '1 microsecond') AS window_end
FROM claimed GROUP BY id, user_id, currency, credits_per_unit ORDER BY user_id, currency, credits_per_unit;

-- name: settle
-- Debits credits ($3), or gives them back where negative, of users ($2), each named once, for settlements ($1).
SELECT substr(s.key, 12)::uuid AS id, s.debited, s.owed_added, s.transaction_id, s.new_balance, s.total_owed
FROM settle_credit_windows($2::uuid[], $3::numeric[],
    ARRAY(SELECT 'settlement:' || id FROM unnest($1::uuid[]) AS id), 'Usage',
    ARRAY(SELECT jsonb_build_object('settlement_id', id) FROM unnest($1::uuid[]) AS id)) s;

-- name: record
-- Writes what settlements came to.
INSERT INTO credit_settlements (id, user_id, window_start, window_end, rated_amount, currency, credits_per_unit, amount, debited, owed, transaction_id)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::numeric[], $6::text[],
                     $7::numeric[], $8::numeric[], $9::numeric[], $10::numeric[], $11::uuid[]);

-- name: use_reserved
-- Ties what reservations ($3) of subscriptions ($2) hold of credits to the run ($1) that rated their usage: held until that is debited.
SELECT use_reserved_credits($1, $2::uuid[], $3::uuid[]);

-- name: release_reserved
-- Gives back what reservations of users ($1) hold of credits, whose usage is debited now.
SELECT release_debited_credits($1::uuid[]);

-- name: raise_alerts
-- Tells users about their balance, once for each cause.
INSERT INTO billing_alerts (id, user_id, type, cause, threshold, current_value, message)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::numeric[], $6::numeric[], $7::text[])
ON CONFLICT (user_id, type, cause) DO NOTHING;

-- name: owed
-- What all users owe together, in credits, and how many of them do.
SELECT coalesce(sum(owed), 0) AS credits, count(*) AS users FROM user_credits WHERE owed > 0;

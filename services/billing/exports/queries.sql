-- The SQL of exports: what falls into [$1, $2).

-- name: invoices_of_period
-- Invoices that were issued for periods that begin within it.
SELECT id FROM invoices WHERE number IS NOT NULL AND period_start >= $1 AND period_start < $2 ORDER BY number;

-- name: credit_notes_of_period
-- Credit notes of such invoices, with the invoices' periods.
SELECT n.id, i.period_start, i.period_end
FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id
WHERE i.period_start >= $1 AND i.period_start < $2 ORDER BY n.number;

-- name: issued_invoices
-- Invoices that were issued within it.
SELECT id FROM invoices WHERE number IS NOT NULL AND issue_date >= $1 AND issue_date < $2 ORDER BY number;

-- name: issued_credit_notes
-- Credit notes that were issued within it.
SELECT id FROM credit_notes WHERE issued_at >= $1 AND issued_at < $2 ORDER BY number;

-- name: publishers
-- Who makes each model.
SELECT id, provider FROM models WHERE provider IS NOT NULL;

-- name: money_in
-- Payments that were completed within it. What an overpayment was later put to an invoice with counts as of the payment.
SELECT p.id, p.processed_at AT TIME ZONE 'UTC' AS booked_at, p.amount, p.allocated_amount AS allocated, p.currency, p.user_id,
       coalesce(p.reference, p.provider) AS text
FROM payments p
WHERE p.status IN ('completed', 'refunded') AND p.processed_at >= $1 AND p.processed_at < $2
ORDER BY p.processed_at, p.id;

-- name: money_out
-- Refunds and chargebacks that were completed within it. What a chargeback took does not pay its invoice any more: payments say so.
SELECT r.id, r.completed_at AT TIME ZONE 'UTC' AS booked_at, -r.amount AS amount, r.currency, p.user_id, r.reason AS text,
       CASE WHEN p.invoice_id IS NOT NULL AND r.kind = 'refund' THEN -r.amount ELSE 0 END AS allocated
FROM payment_refunds r JOIN payments p ON p.id = r.payment_id
WHERE r.status = 'completed' AND r.completed_at >= $1 AND r.completed_at < $2
ORDER BY r.completed_at, r.id;

-- name: burned
-- Bought credits that were used within it, by grant and day; `before` and `used` sum from the grant's beginning.
WITH days AS (
    SELECT g.id, g.user_id, g.amount AS credits, p.amount AS price, p.currency, (t.created_at AT TIME ZONE 'UTC')::date AS day, -sum(b.amount) AS used
    FROM credit_grants g
    JOIN payments p ON p.id = g.payment_id
    JOIN credit_grant_postings b ON b.grant_id = g.id AND b.transaction_id <> g.transaction_id
    JOIN credit_transactions t ON t.id = b.transaction_id AND t.transaction_type IN ('usage', 'debit', 'owed_settlement', 'reversal', 'expiry')
    GROUP BY g.id, p.id, (t.created_at AT TIME ZONE 'UTC')::date
), running AS (
    SELECT *, sum(used) OVER (PARTITION BY id ORDER BY day) AS until FROM days
)
SELECT id, user_id, credits, price, currency, day, until - used AS before, until AS used
FROM running WHERE day >= ($1::timestamptz AT TIME ZONE 'UTC')::date AND day < ($2::timestamptz AT TIME ZONE 'UTC')::date
ORDER BY day, id;

-- The SQL of payments. Everything that moves a customer's money takes the lock of the customer first (lock_customer), then invoices, then
-- payments: two deliveries, two workers or a person and a webhook go one after the other, and never wait for each other in a circle.

-- name: act_as
-- Says for the audit trail who acts in this transaction; whoever was named before stays.
SELECT set_config('tallystick.actor', coalesce(nullif(current_setting('tallystick.actor', true), ''), $1), true);

-- name: lock_customer
-- Orders all that moves the money of a user ($1), until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('tallystick.payments.' || $1::uuid, 0));

-- name: customer
-- Whom a provider is told of.
SELECT u.id, u.email, c.stripe_customer_id FROM users u LEFT JOIN user_credits c ON c.user_id = u.id WHERE u.id = $1;

-- name: user_named
-- The user of an e-mail address ($1) or an id ($2).
SELECT id FROM users WHERE lower(email) = lower($1) OR id = $2 LIMIT 1;

-- name: lock_account
-- Takes the credit account of a user, making it where it is missing: it keeps what Stripe calls the customer.
SELECT (lock_credit_account($1)).id;

-- name: keep_customer
-- Keeps what Stripe calls a user ($1); the first that was kept stays.
UPDATE user_credits SET stripe_customer_id = $2 WHERE user_id = $1 AND stripe_customer_id IS NULL;

-- name: user_of_customer
-- Whose customer it is that Stripe calls so.
SELECT user_id FROM user_credits WHERE stripe_customer_id = $1;

-- Payments ------------------------------------------------------------------------------------------------------------

-- name: payment
-- One payment.
SELECT * FROM payments WHERE id = $1;

-- name: find_payment
-- The payment that a report of a provider ($1) is about: by our id ($2), by the provider's ($3), by that of the page ($4).
SELECT * FROM payments WHERE provider = $1 AND (id = $2 OR provider_transaction_id = $3 OR provider_checkout_id = $4)
ORDER BY id = $2 DESC NULLS LAST, provider_transaction_id = $3 DESC NULLS LAST LIMIT 1;

-- name: payment_of_key
-- The payment that a key has made already, if any.
SELECT * FROM payments WHERE idempotency_key = $1;

-- name: begin_payment
-- Stores a payment before anybody is asked for it, or one that has come already ($12).
INSERT INTO payments (id, user_id, invoice_id, package_id, amount, currency, provider, method_id, idempotency_key, reference, created_at, tried_at,
                      status, processed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, coalesce($11::timestamptz, now()), $11, CASE WHEN $12::timestamptz IS NULL THEN 'pending' ELSE 'completed' END, $12)
RETURNING *;

-- name: change_payment
-- Stores what is known of a payment now: $2 status, $3 the provider's id, $4 that of its page, $5 why it failed, $6 when it was completed.
UPDATE payments
SET status = $2, provider_transaction_id = coalesce(provider_transaction_id, $3), provider_checkout_id = coalesce(provider_checkout_id, $4),
    failure_reason = coalesce($5, failure_reason), processed_at = coalesce(processed_at, $6)
WHERE id = $1
RETURNING *;

-- name: note_page
-- Keeps the page on which a payment ($1) can be made: $2 its id, $3 its address, $4 the payment's id at the provider if that is known.
UPDATE payments SET provider_checkout_id = coalesce(provider_checkout_id, $2), metadata = metadata || jsonb_build_object('url', $3::text),
       provider_transaction_id = coalesce(provider_transaction_id, $4)
WHERE id = $1 RETURNING *;

-- name: open_payments
-- Payments that a provider was asked for before $1 and that have no end yet; taken, so that one worker at a time asks again. $2: most.
UPDATE payments p SET tried_at = $3
FROM (SELECT id FROM payments WHERE status IN ('pending', 'processing') AND provider <> 'manual' AND coalesce(tried_at, created_at) < $1
      ORDER BY coalesce(tried_at, created_at), id LIMIT $2 FOR UPDATE SKIP LOCKED) o
WHERE p.id = o.id
RETURNING p.*;

-- name: list_payments
-- Payments, the newest first: of a user ($1), of an invoice ($2), in a status ($3); at most $4.
SELECT p.*, i.number AS invoice_number, c.name AS package_name, u.email,
       greatest(0, p.amount - p.allocated_amount - p.refunded_amount) AS left_over
FROM payments p JOIN users u ON u.id = p.user_id LEFT JOIN invoices i ON i.id = p.invoice_id LEFT JOIN credit_packages c ON c.id = p.package_id
WHERE ($1::uuid IS NULL OR p.user_id = $1) AND ($3::text IS NULL OR p.status = $3)
  AND ($2::uuid IS NULL OR p.invoice_id = $2 OR EXISTS (SELECT FROM payment_allocations a WHERE a.payment_id = p.id AND a.invoice_id = $2))
ORDER BY p.created_at DESC, p.id DESC LIMIT $4;

-- Invoices ------------------------------------------------------------------------------------------------------------

-- name: invoice_owner
-- Whose invoice it is, by its number ($1) or id ($2), without a lock.
SELECT id, user_id FROM invoices WHERE number = $1 OR id = $2;

-- name: lock_invoice
-- Takes an invoice for this transaction.
SELECT i.id, i.user_id, i.number, i.status, i.total, i.amount_credited AS credited, i.amount_paid AS paid, i.currency, i.due_date, i.disputed_at
FROM invoices i WHERE i.id = $1 FOR UPDATE;

-- name: set_invoice_state
-- Stores what follows from the payments of an invoice: $2 paid, $3 status, $4 when it became paid.
UPDATE invoices SET amount_paid = $2, status = $3, paid_date = CASE WHEN $3 = 'paid' THEN coalesce(paid_date, $4) END WHERE id = $1;

-- name: allocations
-- What pays an invoice, the latest first.
SELECT a.payment_id, a.amount FROM payment_allocations a WHERE a.invoice_id = $1 AND a.amount > 0 ORDER BY a.allocated_at DESC, a.payment_id DESC;

-- name: allocate
-- Lets a payment ($1) pay $3 more of an invoice ($2); negative: takes it off again.
WITH changed AS (
    UPDATE payments SET allocated_amount = allocated_amount + $3 WHERE id = $1 RETURNING id
)
INSERT INTO payment_allocations AS a (payment_id, invoice_id, amount, allocated_at) SELECT id, $2, $3, $4 FROM changed
ON CONFLICT (payment_id, invoice_id) DO UPDATE SET amount = a.amount + excluded.amount, allocated_at = excluded.allocated_at;

-- name: take_off
-- Takes $3 of what a payment ($1) pays of an invoice ($2) off again: it is the customer's to use.
WITH changed AS (
    UPDATE payments SET allocated_amount = allocated_amount - $3 WHERE id = $1
)
UPDATE payment_allocations SET amount = amount - $3 WHERE payment_id = $1 AND invoice_id = $2;

-- name: leftovers
-- What payments of a user ($1) in a currency ($2) have left over, the oldest first, and what of all of it is still the customer's: what was
-- given back counts against the whole.
SELECT p.id, p.amount - p.allocated_amount - r.given AS amount,
       sum(p.amount - p.allocated_amount - r.given) OVER () AS available
FROM payments p
CROSS JOIN LATERAL (SELECT coalesce(sum(f.amount) FILTER (WHERE f.status <> 'failed'), 0) AS given FROM payment_refunds f WHERE f.payment_id = p.id) r
WHERE p.user_id = $1 AND p.currency = $2 AND p.package_id IS NULL AND p.status IN ('completed', 'refunded')
ORDER BY p.processed_at, p.id;

-- Money that came and that nothing asked for ---------------------------------------------------------------------------

-- name: overpaid
-- Payments of which something is left over, the oldest first.
SELECT p.id, p.user_id, u.email, p.currency, p.amount - p.allocated_amount - r.given AS left_over, p.reference, p.processed_at
FROM payments p JOIN users u ON u.id = p.user_id
CROSS JOIN LATERAL (SELECT coalesce(sum(f.amount) FILTER (WHERE f.status <> 'failed'), 0) AS given FROM payment_refunds f WHERE f.payment_id = p.id) r
WHERE p.package_id IS NULL AND p.status IN ('completed', 'refunded') AND p.amount > p.allocated_amount + p.refunded_amount
  AND p.amount > p.allocated_amount + r.given
ORDER BY p.processed_at, p.id LIMIT $1;

-- Refunds -------------------------------------------------------------------------------------------------------------

-- name: refund
-- One refund.
SELECT * FROM payment_refunds WHERE id = $1;

-- name: refunds_of
-- The refunds of a payment, the oldest first.
SELECT * FROM payment_refunds WHERE payment_id = $1 ORDER BY created_at, id;

-- name: refund_of_key
-- The refund that a key has made already, if any.
SELECT * FROM payment_refunds WHERE idempotency_key = $1;

-- name: find_refund
-- The refund that a report of a provider ($1) is about: by our id ($2), else by the provider's ($3).
SELECT * FROM payment_refunds WHERE provider = $1 AND (id = $2 OR provider_refund_id = $3) ORDER BY id = $2 DESC NULLS LAST LIMIT 1;

-- name: begin_refund
-- Stores a refund before anybody is asked for it.
INSERT INTO payment_refunds (id, payment_id, amount, currency, reason, provider, provider_refund_id, idempotency_key, created_at, tried_at, kind)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10)
RETURNING *;

-- name: change_refund
-- Stores what is known of a refund now.
UPDATE payment_refunds
SET status = $2, provider_refund_id = coalesce(provider_refund_id, $3), failure_reason = coalesce($4, failure_reason),
    completed_at = CASE WHEN $2 = 'completed' THEN coalesce(completed_at, $5) ELSE completed_at END
WHERE id = $1
RETURNING *;

-- name: sum_refunds
-- Lets a payment ($1) say what of it was given back.
UPDATE payments p
SET refunded_amount = r.given, status = CASE WHEN r.given = p.amount THEN 'refunded' ELSE 'completed' END
FROM (SELECT coalesce(sum(amount), 0) AS given FROM payment_refunds WHERE payment_id = $1 AND status = 'completed') r
WHERE p.id = $1 AND p.status IN ('completed', 'refunded')
RETURNING p.*;

-- name: post_credits
-- Takes back ($2 negative) or gives again ($2 positive) credits of a user ($1) for a refund: $3 its key, $4 the payment, $5 why.
SELECT transaction_id FROM add_user_credits($1, $2, 'refund', idempotency_key => $3, payment_id => $4, description => $5);

-- name: note_credits
-- Keeps with a refund the credits it had to take back, and those it took.
UPDATE payment_refunds SET credits_due = $2, credits_taken = $3 WHERE id = $1;

-- name: open_refunds
-- Refunds that a provider was asked for before $1 and that have no end yet; taken, so that one worker at a time asks again. $2: most.
UPDATE payment_refunds r SET tried_at = $3
FROM (SELECT id FROM payment_refunds WHERE status = 'pending' AND kind = 'refund' AND coalesce(tried_at, created_at) < $1
      ORDER BY created_at, id LIMIT $2 FOR UPDATE SKIP LOCKED) o
WHERE r.id = o.id
RETURNING r.*;

-- Disputes ------------------------------------------------------------------------------------------------------------

-- name: find_dispute
-- The dispute that a provider ($1) calls so ($2).
SELECT payment_id, amount, currency, status, funds FROM payment_disputes WHERE provider = $1 AND provider_dispute_id = $2;

-- name: note_dispute
-- Stores a dispute ($1 id) of a payment ($2), or how it stands now: $3 provider, $4 its id there, $5 amount, $6 currency, $7 reason, $8 status,
-- $9 funds, $10 until when evidence is taken, $11 when this was told.
INSERT INTO payment_disputes AS d (id, payment_id, provider, provider_dispute_id, amount, currency, reason, status, funds, evidence_due_at,
                                   opened_at, closed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, CASE WHEN $8 <> 'open' THEN $11::timestamptz END)
ON CONFLICT (provider, provider_dispute_id) DO UPDATE
SET status = excluded.status, funds = excluded.funds, evidence_due_at = coalesce(excluded.evidence_due_at, d.evidence_due_at),
    closed_at = coalesce(d.closed_at, excluded.closed_at);

-- name: disputes
-- Disputes of payments, the newest first: of a user ($1), or of all; open ones only ($2); at most $3.
SELECT d.*, u.email, i.number AS invoice_number
FROM payment_disputes d JOIN payments p ON p.id = d.payment_id JOIN users u ON u.id = p.user_id LEFT JOIN invoices i ON i.id = p.invoice_id
WHERE ($1::uuid IS NULL OR p.user_id = $1) AND (NOT $2::boolean OR d.status = 'open')
ORDER BY d.opened_at DESC, d.id LIMIT $3;

-- name: paid_by
-- What a payment ($1) pays or once paid, the latest first, and what of it.
SELECT a.invoice_id, a.amount FROM payment_allocations a WHERE a.payment_id = $1 ORDER BY a.allocated_at DESC, a.invoice_id;

-- name: dispute_invoices
-- Notes that invoices ($1) are disputed since $2, because of $3, unless they are already.
UPDATE invoices SET disputed_at = $2, dispute_reason = $3 WHERE id = ANY($1::uuid[]) AND number IS NOT NULL AND disputed_at IS NULL
RETURNING id, number, currency;

-- name: settle_disputes
-- Ends disputes of invoices ($1) that began because of $2.
UPDATE invoices SET disputed_at = NULL, dispute_reason = NULL WHERE id = ANY($1::uuid[]) AND dispute_reason = $2;

-- What the customer is told -------------------------------------------------------------------------------------------

-- name: tell_payment
-- Writes a payment ($1 id, $2 user) into the history of its customer, or what became of it: $3 amount, $4 currency, $5 status, $6 words, $7 invoice.
INSERT INTO billing_history AS h (id, user_id, amount, currency, status, description, invoice_id, payment_id)
VALUES ($8, $2, $3, $4, $5, $6, $7, $1)
ON CONFLICT (payment_id) WHERE refund_id IS NULL DO UPDATE SET status = excluded.status WHERE h.status <> excluded.status;

-- name: tell_refund
-- Writes a refund ($8 id) of a payment ($1 id, $2 user) into the history of its customer, or what became of it.
INSERT INTO billing_history AS h (id, user_id, amount, currency, status, description, invoice_id, payment_id, refund_id)
VALUES ($9, $2, $3, $4, $5, $6, $7, $1, $8)
ON CONFLICT (refund_id) WHERE refund_id IS NOT NULL DO UPDATE SET status = excluded.status WHERE h.status <> excluded.status;

-- name: raise_alert
-- Tells a user ($2) once about a cause ($4).
INSERT INTO billing_alerts (id, user_id, type, cause, current_value, message, metadata) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (user_id, type, cause) DO NOTHING;

-- What providers tell us ----------------------------------------------------------------------------------------------

-- name: receive_event
-- Stores an event of a provider; nothing comes back if it was delivered before.
INSERT INTO payment_events (provider, event_id, kind, occurred_at, received_at, outcome, body_sha256)
VALUES ($1, $2, $3, $4, $5, 'ignored', $6)
ON CONFLICT (provider, event_id) DO NOTHING
RETURNING event_id;

-- name: judge_event
-- Keeps what came of an event: $3 outcome, $4 words, $5 the payment it was about, $6 and $7 what waits, if it waits.
UPDATE payment_events SET outcome = $3, detail = $4, payment_id = coalesce($5, payment_id), transaction_id = coalesce($6, transaction_id), report = $7
WHERE provider = $1 AND event_id = $2;

-- name: lock_transaction
-- Orders what is told of a payment that is not known yet ($1 provider and its id) after what makes it known, until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('tallystick.payment.' || $1, 0));

-- name: waiting_events
-- Events that waited for a payment of the provider ($1) with this id ($2).
SELECT event_id, report FROM payment_events WHERE provider = $1 AND transaction_id = $2 AND outcome = 'waiting' ORDER BY occurred_at, event_id FOR UPDATE;

-- Payment methods -----------------------------------------------------------------------------------------------------

-- name: keep_method
-- Keeps how a user ($2) can pay; the first of a user becomes the default.
INSERT INTO payment_methods AS m (id, user_id, type, provider, provider_method_id, last_four, brand, expiry_month, expiry_year, is_default)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, NOT EXISTS (SELECT FROM payment_methods d WHERE d.user_id = $2 AND d.is_default)
ON CONFLICT (user_id, provider, provider_method_id) DO UPDATE
SET last_four = excluded.last_four, brand = excluded.brand, expiry_month = excluded.expiry_month, expiry_year = excluded.expiry_year, detached_at = NULL;

-- name: detach_method
-- The customer took a method away.
UPDATE payment_methods SET detached_at = coalesce(detached_at, $3), is_default = false WHERE provider = $1 AND provider_method_id = $2;

-- name: detach_missing
-- Of a user ($1), the provider ($2) has these methods ($3) only.
UPDATE payment_methods SET detached_at = $4, is_default = false
WHERE user_id = $1 AND provider = $2 AND detached_at IS NULL AND provider_method_id <> ALL ($3::text[]);

-- name: no_default_method
-- No method of a user ($1) is the default any more.
UPDATE payment_methods SET is_default = false WHERE user_id = $1 AND is_default;

-- name: default_method
-- A method ($2) of a user ($1) becomes the default.
UPDATE payment_methods SET is_default = true WHERE user_id = $1 AND id = $2 AND detached_at IS NULL RETURNING id;

-- name: methods
-- How a user can pay, the default first.
SELECT id, user_id, type, provider, provider_method_id, is_default, last_four, brand, expiry_month, expiry_year, detached_at
FROM payment_methods WHERE user_id = $1 AND detached_at IS NULL ORDER BY is_default DESC, created_at, id;

-- name: chargeable_method
-- The method by which a user ($1) can be charged, of the providers in $2.
SELECT m.id, m.provider, m.provider_method_id, c.stripe_customer_id AS customer_id
FROM payment_methods m JOIN user_credits c ON c.user_id = m.user_id
WHERE m.user_id = $1 AND m.is_default AND m.detached_at IS NULL AND m.provider = ANY ($2::text[]) AND c.stripe_customer_id IS NOT NULL;

-- name: method
-- A method, and what its provider calls its customer.
SELECT m.provider_method_id, c.stripe_customer_id AS customer_id
FROM payment_methods m JOIN user_credits c ON c.user_id = m.user_id WHERE m.id = $1;

-- Bank statements -----------------------------------------------------------------------------------------------------

-- name: keep_line
-- Stores a line of a statement; nothing comes back if it was imported before.
INSERT INTO bank_statement_lines (id, identity, booked_on, amount, currency, reference, counterparty, account, bank_id, file_name, line_number,
                                  status, reason, imported_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (identity) DO NOTHING
RETURNING id;

-- name: named_invoices
-- Issued invoices whose number, without punctuation, is among $1: the oldest first.
SELECT id AS invoice_id, user_id, number, currency, greatest(0, total - amount_credited - amount_paid) AS outstanding, status = 'cancelled' AS cancelled
FROM invoices WHERE upper(regexp_replace(number, '[^A-Za-z0-9]', '', 'g')) = ANY ($1::text[])
ORDER BY due_date, number;

-- name: named_orders
-- Payments for packages that wait for a bank transfer, whose reference, without punctuation, is among $1.
SELECT id, user_id, amount, currency, provider_checkout_id AS reference FROM payments
WHERE provider = 'manual' AND status = 'pending' AND upper(regexp_replace(provider_checkout_id, '[^A-Za-z0-9]', '', 'g')) = ANY ($1::text[]);

-- name: lock_imports
-- One import of a statement at a time: each takes many customers.
SELECT pg_advisory_xact_lock(hashtextextended('tallystick.statements', 0));

-- name: recorded_by_hand
-- A bank transfer of a user ($1) of the same amount ($2, $3), booked within five days of $4, that no line of a statement stands for.
SELECT p.id FROM payments p
WHERE p.user_id = $1 AND p.amount = $2 AND p.currency = $3 AND p.provider = 'manual' AND p.status IN ('completed', 'refunded')
  AND abs(extract(epoch FROM p.processed_at - $4::timestamptz)) <= 5 * 86400
  AND NOT EXISTS (SELECT FROM bank_statement_lines l WHERE l.payment_id = p.id)
ORDER BY p.processed_at LIMIT 1;

-- name: lock_line
-- Takes a line for this transaction.
SELECT id, booked_on, amount, currency, reference, counterparty, account, status, reason, payment_id FROM bank_statement_lines WHERE id = $1 FOR UPDATE;

-- name: match_line
-- A line ($1) is a payment ($2).
UPDATE bank_statement_lines SET status = 'matched', payment_id = $2, reason = NULL, matched_at = $3, matched_by = $4 WHERE id = $1;

-- name: leave_line
-- A line ($1) is not matched, because ($3).
UPDATE bank_statement_lines SET status = $2, reason = $3 WHERE id = $1;

-- name: unmatched_lines
-- Lines that nothing was found for, the oldest first.
SELECT id, booked_on, amount, currency, reference, counterparty, account, file_name, line_number, reason AS why, imported_at, imported_by
FROM bank_statement_lines WHERE status = 'unmatched' ORDER BY booked_on, imported_at, line_number LIMIT $1;

-- Dunning -------------------------------------------------------------------------------------------------------------

-- name: due_invoices
-- Invoices that are due before $1 and not paid, whose charge is not under way, and about which something may be left to do; after $2, at most $3.
SELECT i.id, i.user_id FROM invoices i
WHERE i.status IN ('sent', 'partially_paid', 'overdue') AND i.due_date <= $1 AND i.disputed_at IS NULL
  AND i.total - i.amount_credited - i.amount_paid > 0 AND ($2::uuid IS NULL OR i.id > $2)
  AND NOT EXISTS (SELECT FROM payments p WHERE p.invoice_id = i.id AND p.status IN ('pending', 'processing'))
  AND NOT EXISTS (SELECT FROM dunning_attempts d WHERE d.invoice_id = i.id AND d.action = 'suspend')
ORDER BY i.id LIMIT $3;

-- name: overdue_invoices
-- Invoices past their due date ($1) and not marked so; not those that are about to be charged for the first time ($4: by whom).
SELECT i.id, i.user_id FROM invoices i
WHERE i.status IN ('sent', 'partially_paid') AND i.due_date < $1 AND i.disputed_at IS NULL
  AND i.total - i.amount_credited - i.amount_paid > 0 AND ($2::uuid IS NULL OR i.id > $2)
  AND NOT EXISTS (SELECT FROM payments p WHERE p.invoice_id = i.id AND p.status IN ('pending', 'processing'))
  AND (EXISTS (SELECT FROM dunning_attempts d WHERE d.invoice_id = i.id)
       OR NOT EXISTS (SELECT FROM payment_methods m WHERE m.user_id = i.user_id AND m.is_default AND m.provider = ANY ($4::text[])))
ORDER BY i.id LIMIT $3;

-- name: open_charge
-- The payment of an invoice that is under way, if one is.
SELECT id FROM payments WHERE invoice_id = $1 AND status IN ('pending', 'processing');

-- name: last_attempt
-- The last step that was made about an invoice.
SELECT step, action, made_at FROM dunning_attempts WHERE invoice_id = $1 ORDER BY step DESC LIMIT 1;

-- name: make_attempt
-- Records a step. The key makes it one: whoever comes second gets nothing back, and does nothing.
INSERT INTO dunning_attempts (invoice_id, step, action, due_at, made_at, payment_id) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (invoice_id, step) DO NOTHING
RETURNING step;

-- name: suspend_postpaid
-- Suspends the postpaid subscriptions of a user for payment_overdue, in the order of their ids; returns those that changed.
-- MATERIALIZED: else the server may call the function before it has looked at the other conditions.
WITH chosen AS MATERIALIZED (
    SELECT id FROM subscriptions WHERE user_id = $1 AND billing_mode = 'postpaid' AND status IN ('active', 'trialing', 'suspended') ORDER BY id
)
SELECT id FROM chosen WHERE suspend_subscription(id, 'payment_overdue');

-- name: lift_suspension
-- The suspension that an invoice brought is over: everything of it is paid.
UPDATE dunning_attempts SET lifted_at = $2 WHERE invoice_id = $1 AND action = 'suspend' AND lifted_at IS NULL RETURNING step;

-- name: reactivate
-- Lifts payment_overdue from the subscriptions of users (all that are due, or $1) of whom no unpaid invoice asks for it any more.
WITH chosen AS MATERIALIZED (
    SELECT s.id FROM subscriptions s
    WHERE 'payment_overdue' = ANY (s.suspended_reasons) AND ($1::uuid IS NULL OR s.user_id = $1)
      AND EXISTS (SELECT FROM dunning_attempts d JOIN invoices i ON i.id = d.invoice_id WHERE i.user_id = s.user_id AND d.action = 'suspend')
      AND NOT EXISTS (SELECT FROM dunning_attempts d JOIN invoices i ON i.id = d.invoice_id
                      WHERE i.user_id = s.user_id AND d.action = 'suspend' AND d.lifted_at IS NULL)
    ORDER BY s.id
)
SELECT id FROM chosen WHERE clear_suspension(id, 'payment_overdue');

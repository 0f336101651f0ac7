-- The SQL of corrections: credit notes, voids and disputes.

-- name: lock_invoice
-- Keeps others from correcting the invoice ($1 id or $2 number) meanwhile; its id.
SELECT id FROM invoices WHERE id = $1::uuid OR number = $2::text FOR UPDATE;

-- name: credited_lines
-- What credit notes took back of each line of an invoice, and what of that for late usage.
SELECT l.invoice_line_id, sum(l.amount) AS amount, coalesce(sum(l.amount) FILTER (WHERE n.kind = 'late_usage'), 0) AS late
FROM credit_note_lines l JOIN credit_notes n ON n.id = l.credit_note_id
WHERE n.invoice_id = $1 GROUP BY l.invoice_line_id;

-- name: credited_taxes
-- And of each tax.
SELECT t.category, t.rate, sum(t.taxable) AS taxable, sum(t.tax) AS tax
FROM credit_notes n CROSS JOIN LATERAL jsonb_to_recordset(n.taxes) AS t (category text, rate numeric, taxable numeric, tax numeric)
WHERE n.invoice_id = $1 GROUP BY t.category, t.rate;

-- name: note_by_key
-- The credit note that was written under a key of its caller.
SELECT id, invoice_id FROM credit_notes WHERE idempotency_key = $1;

-- name: insert_note
-- Writes a credit note ($1 id) of an invoice ($2), with the parties of the invoice and the next number of the year of $3.
INSERT INTO credit_notes (id, invoice_id, user_id, entity, number, kind, reason, currency, exact_subtotal, subtotal, tax, total, taxes,
                          seller, buyer, language, issued_at, actor, idempotency_key)
SELECT $1, i.id, i.user_id, i.entity, take_invoice_number(i.entity, extract(year FROM $3::timestamptz AT TIME ZONE 'UTC')::integer, 'CN'),
       $4, $5, i.currency, $6, $7, $8, $9, $10::jsonb, $11::jsonb, $12::jsonb, i.language, $3,
       coalesce($13, nullif(current_setting('tallystick.actor', true), ''), session_user), $14
FROM invoices i WHERE i.id = $2
RETURNING number, user_id, currency;

-- name: insert_note_lines
-- Writes the lines of a credit note.
INSERT INTO credit_note_lines (
    credit_note_id, currency, id, position, invoice_line_id, description, quantity, unit, unit_price, exact_amount, amount, tax_category,
    tax_rate, subscription_id, price_id, component, period_start, period_end, dimensions, usage_line_id, event_count, first_event_at,
    last_event_at, checksum)
SELECT $1, $2, * FROM unnest(
    $3::uuid[], $4::int[], $5::uuid[], $6::text[], $7::numeric[], $8::text[], $9::numeric[], $10::numeric[], $11::numeric[], $12::text[],
    $13::numeric[], $14::uuid[], $15::uuid[], $16::text[], $17::timestamptz[], $18::timestamptz[], $19::jsonb[], $20::uuid[], $21::bigint[],
    $22::timestamptz[], $23::timestamptz[], $24::text[]);

-- name: cancel
-- Voids an issued invoice; $4: what it billed becomes billable again.
UPDATE invoices SET status = 'cancelled', paid_date = NULL, cancelled_at = $2, cancel_reason = $3, rebilled = $4 WHERE id = $1;

-- name: carried_on
-- A later invoice that took the credit that this one carried over, or that counted on what was given back of this one.
SELECT i.number FROM invoice_lines l
JOIN invoice_lines t ON t.charge_key = 'carried:' || l.id JOIN invoices i ON i.id = t.invoice_id
WHERE l.invoice_id = $1 AND l.kind = 'carried' AND l.exact_amount > 0
UNION ALL
SELECT i.number
FROM credit_notes n JOIN credit_note_lines l ON l.credit_note_id = n.id JOIN credit_set_offs s ON s.credit_note_line_id = l.id
JOIN invoice_lines t ON t.id = s.invoice_line_id JOIN invoices i ON i.id = t.invoice_id
WHERE n.invoice_id = $1 AND i.status <> 'cancelled'
LIMIT 1;

-- name: release_usage
-- Makes the usage behind a voided invoice, and behind its credit notes, billable again.
UPDATE rated_usage SET invoice_line_id = NULL
WHERE invoice_line_id IN (
    SELECT usage_line_id FROM invoice_lines WHERE invoice_id = $1 AND usage_line_id IS NOT NULL
    UNION
    SELECT l.usage_line_id FROM credit_note_lines l JOIN credit_notes n ON n.id = l.credit_note_id
    WHERE n.invoice_id = $1 AND l.usage_line_id IS NOT NULL);

-- name: release_charges
-- Makes what a voided invoice charged once chargeable again; without $2 only credit that was carried over to it.
UPDATE invoice_lines SET charge_key = NULL WHERE invoice_id = $1 AND charge_key IS NOT NULL AND ($2::boolean OR kind = 'carried');

-- name: dispute
-- Notes that an issued invoice is disputed since $2, because of $3; nothing if it is not issued.
UPDATE invoices SET disputed_at = coalesce(disputed_at, $2), dispute_reason = $3 WHERE id = $1 AND number IS NOT NULL RETURNING number;

-- name: settle_dispute
-- Ends a dispute; nothing if there is none.
UPDATE invoices SET disputed_at = NULL, dispute_reason = NULL WHERE id = $1 AND disputed_at IS NOT NULL RETURNING number;

-- name: billed_by
-- The issued invoices, the latest first, that are not void and bill usage of subscriptions ($1) by prices ($2).
SELECT DISTINCT i.id, i.issue_date
FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id
WHERE l.subscription_id = ANY($1::uuid[]) AND l.price_id = ANY($2::uuid[]) AND l.usage_line_id IS NOT NULL AND l.amount > 0
  AND i.number IS NOT NULL AND i.status <> 'cancelled'
ORDER BY i.issue_date DESC, i.id;

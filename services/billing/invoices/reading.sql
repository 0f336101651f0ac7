-- The SQL of reading: invoices and credit notes as documents. Parties are those of the issue; before it, and on invoices that are older
-- than that, those of today.

-- name: invoice
-- One invoice by id ($1) or number ($2).
SELECT i.id, i.number, i.kind, i.status, i.user_id, i.entity, i.currency, i.language, i.period_start, i.period_end, i.issue_date, i.due_date,
       i.paid_date, i.payment_terms_days, i.taxes, i.exact_subtotal, i.subtotal, i.tax_rate, i.tax, i.total, i.amount_paid, i.amount_credited,
       i.disputed_at, i.dispute_reason, i.cancelled_at, i.cancel_reason, i.rebilled, i.metadata,
       CASE WHEN i.seller <> '{}' THEN i.seller ELSE party_of_entity(e) END AS seller,
       CASE WHEN i.buyer <> '{}' THEN i.buyer ELSE party_of_customer(u.email, u.full_name, p) END AS buyer,
       ARRAY(SELECT number FROM credit_notes n WHERE n.invoice_id = i.id ORDER BY issued_at, number) AS credit_notes
FROM invoices i
JOIN users u ON u.id = i.user_id
LEFT JOIN legal_entities e ON e.id = i.entity
LEFT JOIN billing_profiles p ON p.user_id = i.user_id
WHERE i.id = $1::uuid OR i.number = $2::text;

-- name: invoices
-- Many invoices by id ($1), in its order.
SELECT i.id, i.number, i.kind, i.status, i.user_id, i.entity, i.currency, i.language, i.period_start, i.period_end, i.issue_date, i.due_date,
       i.paid_date, i.payment_terms_days, i.taxes, i.exact_subtotal, i.subtotal, i.tax_rate, i.tax, i.total, i.amount_paid, i.amount_credited,
       i.disputed_at, i.dispute_reason, i.cancelled_at, i.cancel_reason, i.rebilled, i.metadata,
       CASE WHEN i.seller <> '{}' THEN i.seller ELSE party_of_entity(e) END AS seller,
       CASE WHEN i.buyer <> '{}' THEN i.buyer ELSE party_of_customer(u.email, u.full_name, p) END AS buyer,
       ARRAY(SELECT number FROM credit_notes n WHERE n.invoice_id = i.id ORDER BY issued_at, number) AS credit_notes
FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, place)
JOIN invoices i USING (id)
JOIN users u ON u.id = i.user_id
LEFT JOIN legal_entities e ON e.id = i.entity
LEFT JOIN billing_profiles p ON p.user_id = i.user_id
ORDER BY wanted.place;

-- name: invoice_lines
-- The lines of invoices ($1), in their order.
SELECT invoice_id, id, position, kind, description, quantity, unit, unit_price, exact_amount, amount, tax_category, tax_rate, subscription_id,
       period_start, period_end, component, price_id, charge_key, usage_line_id, event_count, first_event_at, last_event_at, dimensions
FROM invoice_lines WHERE invoice_id = ANY($1::uuid[]) ORDER BY invoice_id, position;

-- name: credit_note
-- One credit note by id ($1) or number ($2).
SELECT n.id, n.number, n.kind, n.reason, n.invoice_id, i.number AS invoice_number, i.issue_date AS invoice_issue_date, n.user_id, n.entity,
       n.currency, n.language, n.issued_at, n.seller, n.buyer, n.taxes, n.exact_subtotal, n.subtotal, n.tax, n.total, n.actor, n.metadata
FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id
WHERE n.id = $1::uuid OR n.number = $2::text;

-- name: credit_note_lines
-- The lines of a credit note, in their order; their kind is that of the line that they take back.
SELECT l.id, l.position, i.kind, l.description, l.quantity, l.unit, l.unit_price, l.exact_amount, l.amount, l.tax_category, l.tax_rate,
       l.subscription_id, l.period_start, l.period_end, l.component, l.price_id, l.usage_line_id, l.event_count, l.first_event_at,
       l.last_event_at, l.dimensions, l.invoice_line_id, coalesce(s.amount, 0) AS reduced
FROM credit_note_lines l JOIN invoice_lines i ON i.id = l.invoice_line_id
LEFT JOIN credit_set_offs s ON s.credit_note_line_id = l.id AND s.invoice_line_id IS NULL
WHERE l.credit_note_id = $1 ORDER BY l.position;

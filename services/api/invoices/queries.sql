-- The SQL of invoices: as a tenant under row-level security, or as who reads all. Documents are read whole by the capability.

-- name: invoices
-- Invoices of user $1 (NULL: anybody's) in status $2, drafts too if $3, the newest first: after ($4, $5), skipping $6, at most $7.
SELECT id, number, user_id, kind, status, currency, period_start, period_end, issue_date, due_date, paid_date, subtotal, tax, total, amount_paid,
       amount_credited, total - amount_credited - amount_paid AS amount_due, disputed_at, created_at
FROM invoices
WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR status = $2) AND ($3::boolean OR number IS NOT NULL)
  AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5::uuid))
ORDER BY created_at DESC, id DESC OFFSET $6 LIMIT $7;

-- name: count_invoices
-- How many there are.
SELECT count(*) FROM invoices
WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR status = $2) AND ($3::boolean OR number IS NOT NULL);

-- name: invoice
-- The id of an invoice by its id ($1) or number ($2), drafts too if $3.
SELECT id FROM invoices WHERE (id = $1::uuid OR number = $2::text) AND ($3::boolean OR number IS NOT NULL);

-- name: credit_notes
-- Credit notes of user $1 (NULL: anybody's), of invoice $2, the newest first: after ($3, $4), skipping $5, at most $6.
SELECT n.id, n.number, n.user_id, n.kind, n.reason, n.invoice_id, i.number AS invoice_number, n.currency, n.subtotal, n.tax, n.total, n.issued_at
FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id
WHERE ($1::uuid IS NULL OR n.user_id = $1) AND ($2::uuid IS NULL OR n.invoice_id = $2)
  AND ($3::timestamptz IS NULL OR (n.issued_at, n.id) < ($3, $4::uuid))
ORDER BY n.issued_at DESC, n.id DESC OFFSET $5 LIMIT $6;

-- name: count_credit_notes
-- How many there are.
SELECT count(*) FROM credit_notes WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::uuid IS NULL OR invoice_id = $2);

-- name: credit_note
-- The id of a credit note by its id ($1) or number ($2).
SELECT id FROM credit_notes WHERE id = $1::uuid OR number = $2::text;

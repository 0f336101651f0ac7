-- The SQL of who may ask why: as a tenant under row-level security, or as who reads all. What is explained is read by the capability.

-- name: has_subscription
-- Whether a subscription is there for who asks.
SELECT EXISTS (SELECT FROM subscriptions WHERE id = $1);

-- name: has_invoice
-- Whether an invoice of this number is.
SELECT EXISTS (SELECT FROM invoices WHERE number = $1);

-- name: what_is
-- What an id is of, that who asks may see: a line of an invoice, a settlement (by its own id, or that of its ledger entry), whose id it
-- returns, or else an entry of the ledger.
SELECT 'line' AS kind, id, 1 AS place FROM invoice_lines WHERE id = $1
UNION ALL
SELECT 'debit', id, 2 FROM credit_settlements WHERE id = $1 OR transaction_id = $1
UNION ALL
SELECT 'entry', id, 3 FROM credit_transactions WHERE id = $1
ORDER BY place LIMIT 1;

-- name: line_of_number
-- The line at position $2 of the invoice with number $1.
SELECT l.id FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id WHERE i.number = $1 AND l.position = $2;

-- The SQL of documents: which are meant.

-- name: is_credit_note
-- Whether $1 is the number or the id of a credit note.
SELECT EXISTS (SELECT FROM credit_notes WHERE number = $1 OR id::text = lower($1));

-- name: numbers_of_month
-- The issued invoices whose period begins within [$1, $2).
SELECT number FROM invoices WHERE number IS NOT NULL AND period_start >= $1 AND period_start < $2 ORDER BY number;

-- The SQL of grants in money: what is given to a customer, and paid with on invoices.

-- name: open_grants
-- A user's ($1) grants in a currency ($2) with something left at $3 (now without one), in the order in which they are used, locked:
-- two invoices at once cannot use the same money.
SELECT id, remaining, reason AS name
FROM credits
WHERE user_id = $1 AND currency = $2 AND remaining > 0 AND (expires_at IS NULL OR expires_at > coalesce($3, now()))
ORDER BY priority, expires_at NULLS LAST, created_at, id
FOR UPDATE;

-- name: available
-- What a user ($1) has in a currency ($2) at $3, without locking anything.
SELECT coalesce(sum(remaining), 0)
FROM credits
WHERE user_id = $1 AND currency = $2 AND remaining > 0 AND (expires_at IS NULL OR expires_at > coalesce($3, now()));

-- name: applied
-- What was applied to an invoice ($1) and not restored, in the order in which it was used.
SELECT a.credit_id AS grant_id, a.amount, c.reason AS name
FROM credit_applications a JOIN credits c ON c.id = a.credit_id
WHERE a.invoice_id = $1 AND a.kind = 'applied'
  AND NOT EXISTS (SELECT FROM credit_applications r WHERE r.invoice_id = a.invoice_id AND r.credit_id = a.credit_id AND r.kind = 'restored')
ORDER BY c.priority, c.expires_at NULLS LAST, c.created_at, c.id;

-- name: apply
-- Uses amounts ($3) of grants ($2) for an invoice ($1).
WITH used AS (SELECT * FROM unnest($2::uuid[], $3::numeric[]) AS u (id, amount)),
noted AS (INSERT INTO credit_applications (invoice_id, credit_id, kind, amount) SELECT $1, id, 'applied', amount FROM used)
UPDATE credits c SET remaining = c.remaining - used.amount FROM used WHERE c.id = used.id;

-- name: restore
-- Gives back to its grants, or to $2 of them, what was applied to an invoice ($1).
WITH back AS (
    INSERT INTO credit_applications (invoice_id, credit_id, kind, amount)
    SELECT invoice_id, credit_id, 'restored', amount FROM credit_applications
    WHERE invoice_id = $1 AND kind = 'applied' AND ($2::uuid[] IS NULL OR credit_id = ANY($2))
    ON CONFLICT DO NOTHING
    RETURNING credit_id, amount
)
UPDATE credits c SET remaining = c.remaining + back.amount FROM back WHERE c.id = back.credit_id
RETURNING c.id AS grant_id, back.amount, c.reason AS name;

-- name: grant
-- Gives money to a user.
INSERT INTO credits (id, user_id, amount, currency, reason, type, priority, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

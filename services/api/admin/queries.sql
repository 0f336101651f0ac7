-- What administrators read over HTTP. Lists are newest first; the last parameters of each are the sort key of the row to go on after (NULL:
-- from the beginning), the limit and the offset.

-- name: payments
-- Payments, of a user ($1: id or e-mail address), in a status ($2); each NULL: any.
SELECT p.id, p.user_id, u.email, p.invoice_id, i.number AS invoice_number, p.package_id, c.name AS package, p.amount, p.currency,
       p.status, p.provider, p.reference, p.failure_reason, p.refunded_amount, p.allocated_amount, p.processed_at, p.created_at
FROM payments p JOIN users u ON u.id = p.user_id LEFT JOIN invoices i ON i.id = p.invoice_id LEFT JOIN credit_packages c ON c.id = p.package_id
WHERE ($1::text IS NULL OR u.id::text = lower($1) OR lower(u.email) = lower($1)) AND ($2::text IS NULL OR p.status = $2)
  AND ($3::timestamptz IS NULL OR (p.created_at, p.id) < ($3, $4::uuid))
ORDER BY p.created_at DESC, p.id DESC LIMIT $5 OFFSET $6;

-- name: subscriptions
-- Subscriptions of a user ($1: id or e-mail address), on a plan or to a model ($2), in a status ($3); each NULL: any.
SELECT s.id, s.user_id, u.email, s.plan_id, s.model_id, s.status::text AS status, s.suspended_reasons, s.billing_mode, s.currency, s.amount,
       s.quota_requests, s.quota_tokens, s.used_requests, s.used_tokens, s.reset_at, s.current_period_start, s.current_period_end, s.trial_end,
       s.cancel_at_period_end, s.expires_at, s.created_at
FROM subscriptions s JOIN users u ON u.id = s.user_id
WHERE ($1::text IS NULL OR u.id::text = lower($1) OR lower(u.email) = lower($1)) AND ($2::text IS NULL OR $2 IN (s.plan_id, s.model_id))
  AND ($3::text IS NULL OR s.status::text = $3)
  AND ($4::timestamptz IS NULL OR (s.created_at, s.id) < ($4, $5::uuid))
ORDER BY s.created_at DESC, s.id DESC LIMIT $6 OFFSET $7;

-- name: subscription
-- One subscription ($1), as the list shows it.
SELECT s.id, s.user_id, u.email, s.plan_id, s.model_id, s.status::text AS status, s.suspended_reasons, s.billing_mode, s.currency, s.amount,
       s.quota_requests, s.quota_tokens, s.used_requests, s.used_tokens, s.reset_at, s.current_period_start, s.current_period_end, s.trial_end,
       s.cancel_at_period_end, s.expires_at, s.created_at
FROM subscriptions s JOIN users u ON u.id = s.user_id WHERE s.id = $1;

-- The SQL of legal entities and billing profiles, as operators keep them.

-- name: find_user
-- The user of an id or of an e-mail address.
SELECT id, email, full_name FROM users WHERE id::text = $1 OR email = $1;

-- name: entity
-- A legal entity.
SELECT to_jsonb(e) - '{created_at,updated_at}'::text[] FROM legal_entities e WHERE id = $1;

-- name: entities
-- All of them.
SELECT to_jsonb(e) - '{created_at,updated_at}'::text[] FROM legal_entities e ORDER BY id;

-- name: profile
-- How a user is invoiced.
SELECT to_jsonb(p) - '{created_at,updated_at}'::text[] FROM billing_profiles p WHERE user_id = $1;

-- name: put_entity
-- Makes or changes a legal entity ($1, whole).
INSERT INTO legal_entities AS e
SELECT * FROM jsonb_populate_record(NULL::legal_entities, $1::jsonb || jsonb_build_object('created_at', now(), 'updated_at', now()))
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, line1 = excluded.line1, line2 = excluded.line2, postal_code = excluded.postal_code, city = excluded.city,
    region = excluded.region, country = excluded.country, vat_id = excluded.vat_id, tax_number = excluded.tax_number,
    registration = excluded.registration, email = excluded.email, phone = excluded.phone, website = excluded.website,
    account_holder = excluded.account_holder, bank_name = excluded.bank_name, iban = excluded.iban, bic = excluded.bic,
    invoice_prefix = excluded.invoice_prefix, tax_rate = excluded.tax_rate, payment_days = excluded.payment_days,
    late_usage = excluded.late_usage, issue_zero_invoices = excluded.issue_zero_invoices, language = excluded.language,
    footer = excluded.footer;

-- name: put_profile
-- Makes or changes a billing profile ($1, whole).
INSERT INTO billing_profiles AS p
SELECT * FROM jsonb_populate_record(NULL::billing_profiles, $1::jsonb || jsonb_build_object('created_at', now(), 'updated_at', now()))
ON CONFLICT (user_id) DO UPDATE SET
    entity = excluded.entity, name = excluded.name, contact = excluded.contact, line1 = excluded.line1, line2 = excluded.line2,
    postal_code = excluded.postal_code, city = excluded.city, region = excluded.region, country = excluded.country,
    vat_id = excluded.vat_id, email = excluded.email, phone = excluded.phone, buyer_reference = excluded.buyer_reference,
    tax_treatment = excluded.tax_treatment, tax_rate = excluded.tax_rate, exemption_reason = excluded.exemption_reason,
    currency = excluded.currency, language = excluded.language, payment_days = excluded.payment_days, late_usage = excluded.late_usage,
    issue_zero_invoices = excluded.issue_zero_invoices, metadata = excluded.metadata;

-- name: find_invoices
-- Invoices of user $1 (or all), with status $2 (or any), disputed ones only if $3, of the period that begins at $4 (or any); the newest $5.
SELECT i.id, i.number, i.status, i.disputed_at IS NOT NULL AS disputed, u.email, i.currency, i.period_start, i.period_end, i.issue_date,
       i.due_date, i.total, i.total - i.amount_credited - i.amount_paid AS amount_due
FROM invoices i JOIN users u ON u.id = i.user_id
WHERE ($1::uuid IS NULL OR i.user_id = $1) AND ($2::text IS NULL OR i.status = $2) AND (NOT $3::boolean OR i.disputed_at IS NOT NULL)
  AND ($4::timestamptz IS NULL OR i.period_start = $4)
ORDER BY i.created_at DESC, i.number DESC LIMIT $5;

-- migrate:up
-- Payments: what a provider or a bank tells us, what it pays, what was given back, and how unpaid invoices are dunned.

-- ---------------------------------------------------------------------------------------------------------------------
-- Invoices know what was paid
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE invoices
    ADD CONSTRAINT amount_paid_within_total CHECK (amount_paid <= greatest(total, 0)),
    ADD CONSTRAINT amount_paid_is_whole_minor_units CHECK (amount_paid = round(amount_paid, minor_units(currency)));

COMMENT ON COLUMN invoices.amount_paid IS 'Sum of its payment_allocations. Still to be paid: total - amount_credited - amount_paid. A refund alone does not lower it: giving money back by our own decision makes no new debt.';

-- Payers leave out what stands between the digits: a transfer is matched without it.
CREATE INDEX idx_invoices_plain_number ON invoices (upper(regexp_replace(number, '[^A-Za-z0-9]', '', 'g'))) WHERE number IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- Payments
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE payment_methods
    ADD COLUMN detached_at timestamptz,
    ADD CONSTRAINT default_is_attached CHECK (NOT is_default OR detached_at IS NULL);

COMMENT ON COLUMN payment_methods.detached_at IS 'When the customer took it away; payments made with it keep pointing here.';

ALTER TABLE payments
    ADD COLUMN provider_checkout_id text,
    ADD COLUMN reference text,
    ADD COLUMN allocated_amount numeric NOT NULL DEFAULT 0,
    ADD COLUMN tried_at timestamptz,
    ADD CONSTRAINT payments_provider_checkout_id_key UNIQUE (provider, provider_checkout_id),
    ADD CONSTRAINT pays_one_thing CHECK (num_nonnulls(invoice_id, package_id) < 2),
    ADD CONSTRAINT allocated_within_payment CHECK (allocated_amount BETWEEN 0 AND amount),
    ADD CONSTRAINT allocated_when_completed CHECK (allocated_amount = 0 OR status IN ('completed', 'refunded'));

-- Whatever asks for the money of an invoice (dunning, a person, two workers at once): one charge of it is under way at a time.
CREATE UNIQUE INDEX one_open_payment_per_invoice ON payments (invoice_id) WHERE status IN ('pending', 'processing');

CREATE INDEX idx_payments_left_over ON payments (processed_at, id)  -- what nobody has placed
    WHERE package_id IS NULL AND status IN ('completed', 'refunded') AND amount > allocated_amount + refunded_amount;

COMMENT ON COLUMN payments.status IS 'Only ever moves up: pending, processing, failed, completed, refunded; so deliveries in any order end alike. A failed payment may still complete.';
COMMENT ON COLUMN payments.provider_checkout_id IS 'What the provider calls the page on which the customer pays, where there is one.';
COMMENT ON COLUMN payments.reference IS 'What a person or a bank wrote with it.';
COMMENT ON COLUMN payments.allocated_amount IS 'Sum of its payment_allocations; what is left over is an overpayment, kept for the customer.';
COMMENT ON COLUMN payments.tried_at IS 'When the provider was last asked for it: an open payment without an answer is asked about again.';

CREATE TABLE payment_allocations (
    payment_id   uuid        NOT NULL REFERENCES payments (id) ON DELETE RESTRICT,
    invoice_id   uuid        NOT NULL REFERENCES invoices (id) ON DELETE RESTRICT,
    amount       numeric     NOT NULL CHECK (amount >= 0 AND amount < 'Infinity'),
    allocated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (payment_id, invoice_id)
);

CREATE INDEX idx_payment_allocations_invoice ON payment_allocations (invoice_id);  -- what paid an invoice

COMMENT ON TABLE payment_allocations IS 'Which payment paid how much of which invoice: one transfer may pay several, one invoice may be paid in parts. What a credit note or a cancellation leaves over is taken off again, and stays with the customer.';

CREATE TABLE payment_refunds (
    id                 uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    payment_id         uuid        NOT NULL REFERENCES payments (id) ON DELETE RESTRICT,
    amount             numeric     NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    currency           varchar(3)  NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    status             text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'completed', 'failed')),
    reason             text        NOT NULL CHECK (reason <> ''),
    failure_reason     text,
    provider           text        NOT NULL CHECK (provider IN ('stripe', 'paypal', 'wise', 'manual')),
    provider_refund_id text,
    idempotency_key    text        UNIQUE,
    credits_due        numeric     NOT NULL DEFAULT 0 CHECK (credits_due >= 0),
    credits_taken      numeric     NOT NULL DEFAULT 0,
    created_at         timestamptz NOT NULL DEFAULT now(),
    tried_at           timestamptz,
    completed_at       timestamptz,
    UNIQUE (provider, provider_refund_id),
    CONSTRAINT refund_is_whole_minor_units CHECK (amount = round(amount, minor_units(currency))),
    CONSTRAINT taken_within_due CHECK (credits_taken BETWEEN 0 AND credits_due),
    CONSTRAINT completed_refund_has_date CHECK (status <> 'completed' OR completed_at IS NOT NULL),
    CONSTRAINT failed_refund_has_reason CHECK (status <> 'failed' OR failure_reason IS NOT NULL)
);

CREATE INDEX idx_payment_refunds_payment ON payment_refunds (payment_id);
CREATE INDEX idx_payment_refunds_open ON payment_refunds (created_at) WHERE status = 'pending';

COMMENT ON TABLE  payment_refunds IS 'Money given back, in part or whole. Those that are not failed never sum to more than their payment: checked under the lock of the customer, and by refund_within_payment.';
COMMENT ON COLUMN payment_refunds.credits_due IS 'Of a package: the credits that this share of the price had bought.';
COMMENT ON COLUMN payment_refunds.credits_taken IS 'Of those, what was taken back: as far as the balance went.';

ALTER TABLE billing_history
    ADD COLUMN refund_id uuid REFERENCES payment_refunds (id) ON DELETE RESTRICT,
    ADD CONSTRAINT refunded_names_refund CHECK (refund_id IS NULL OR status IN ('refunded', 'pending', 'failed'));

CREATE UNIQUE INDEX one_history_per_payment ON billing_history (payment_id) WHERE refund_id IS NULL;
CREATE UNIQUE INDEX one_history_per_refund ON billing_history (refund_id) WHERE refund_id IS NOT NULL;

COMMENT ON COLUMN billing_history.status IS 'Follows its payment (pending, completed, failed) or its refund (pending, refunded, failed), in the same transaction.';

-- ---------------------------------------------------------------------------------------------------------------------
-- What providers and banks tell us
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE payment_events (
    provider       text        NOT NULL CHECK (provider IN ('stripe', 'paypal', 'wise', 'manual')),
    event_id       text        NOT NULL CHECK (event_id <> ''),
    kind           text        NOT NULL,
    occurred_at    timestamptz NOT NULL,
    received_at    timestamptz NOT NULL DEFAULT now(),
    outcome        text        NOT NULL CHECK (outcome IN ('applied', 'nothing', 'waiting', 'refused', 'ignored')),
    detail         text,
    payment_id     uuid        REFERENCES payments (id) ON DELETE RESTRICT,
    transaction_id text,
    report         jsonb,
    body_sha256    bytea       NOT NULL CHECK (length(body_sha256) = 32),
    PRIMARY KEY (provider, event_id),
    CONSTRAINT waiting_names_its_payment CHECK (outcome <> 'waiting' OR (transaction_id IS NOT NULL AND report IS NOT NULL))
);

CREATE INDEX idx_payment_events_waiting ON payment_events (provider, transaction_id) WHERE outcome = 'waiting';
CREATE INDEX idx_payment_events_payment ON payment_events (payment_id) WHERE payment_id IS NOT NULL;  -- the history of a payment

COMMENT ON TABLE  payment_events IS 'Webhooks, each stored once in the transaction of its effect: a delivery that comes twice does nothing the second time.';
COMMENT ON COLUMN payment_events.outcome IS 'applied; nothing: it said what was known; waiting: for a payment that is not known yet; refused: it contradicts the payment, see detail; ignored: of no concern.';
COMMENT ON COLUMN payment_events.report IS 'What was read from it, for one that waits. The body itself is not kept: it may name people.';

CREATE TABLE bank_statement_lines (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    identity    text        NOT NULL UNIQUE CHECK (identity <> ''),
    booked_on   date        NOT NULL,
    amount      numeric     NOT NULL CHECK (amount <> 0 AND abs(amount) < 'Infinity'),
    currency    varchar(3)  NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    reference   text        NOT NULL DEFAULT '',
    counterparty text       NOT NULL DEFAULT '',
    account     text        NOT NULL DEFAULT '',
    bank_id     text,
    file_name   text        NOT NULL,
    line_number integer     NOT NULL CHECK (line_number > 0),
    status      text        NOT NULL CHECK (status IN ('matched', 'unmatched', 'ignored')),
    reason      text,
    payment_id  uuid        UNIQUE REFERENCES payments (id) ON DELETE RESTRICT,
    imported_at timestamptz NOT NULL DEFAULT now(),
    imported_by text        NOT NULL DEFAULT coalesce(nullif(current_setting('tallystick.actor', true), ''), session_user),
    matched_at  timestamptz,
    matched_by  text,
    CONSTRAINT line_is_whole_minor_units CHECK (amount = round(amount, minor_units(currency))),
    CONSTRAINT matched_names_payment CHECK ((status = 'matched') = (payment_id IS NOT NULL) AND (status = 'matched') = (matched_at IS NOT NULL)),
    CONSTRAINT unmatched_has_reason CHECK (status = 'matched' OR reason IS NOT NULL),
    CONSTRAINT only_incoming_matches CHECK (status <> 'matched' OR amount > 0)
);

CREATE INDEX idx_bank_statement_lines_unmatched ON bank_statement_lines (booked_on) WHERE status = 'unmatched';

COMMENT ON TABLE  bank_statement_lines IS 'Lines of imported bank statements, each once; those that nothing could be found for are kept, and wait for a person.';
COMMENT ON COLUMN bank_statement_lines.identity IS 'The bank''s own id of the line, else what it says and its place among lines of one file that say the same.';
COMMENT ON COLUMN bank_statement_lines.reason IS 'Why it was not matched, or is ignored (money going out).';

-- ---------------------------------------------------------------------------------------------------------------------
-- Dunning
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE dunning_attempts (
    invoice_id uuid        NOT NULL REFERENCES invoices (id) ON DELETE RESTRICT,
    step       integer     NOT NULL CHECK (step >= 0),
    action     text        NOT NULL CHECK (action IN ('charge', 'remind', 'suspend')),
    due_at     timestamptz NOT NULL,
    made_at    timestamptz NOT NULL,
    payment_id uuid        UNIQUE REFERENCES payments (id) ON DELETE RESTRICT,
    lifted_at  timestamptz,
    PRIMARY KEY (invoice_id, step),
    CONSTRAINT charge_has_payment CHECK ((action = 'charge') = (payment_id IS NOT NULL)),
    CONSTRAINT only_suspension_is_lifted CHECK (lifted_at IS NULL OR action = 'suspend')
);

CREATE INDEX idx_dunning_suspensions ON dunning_attempts (invoice_id) WHERE action = 'suspend' AND lifted_at IS NULL;

COMMENT ON TABLE  dunning_attempts IS 'What was done about an unpaid invoice: each step once, whatever the number of workers.';
COMMENT ON COLUMN dunning_attempts.due_at IS 'When the schedule wanted it; made_at is when it was done.';
COMMENT ON COLUMN dunning_attempts.payment_id IS 'The charge that a step of action charge began; its status says how it ended.';
COMMENT ON COLUMN dunning_attempts.lifted_at IS 'When the suspension ended, because all was paid.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Who moved money is audited
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION audit_payment() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kind  text := CASE TG_TABLE_NAME WHEN 'payments' THEN 'payment' WHEN 'payment_refunds' THEN 'refund' ELSE 'statement_line' END;
    old_  jsonb := CASE TG_OP WHEN 'UPDATE' THEN to_jsonb(OLD) END;
    new_  jsonb := to_jsonb(NEW);
    owner uuid;
BEGIN
    SELECT user_id INTO owner FROM payments
    WHERE id = (CASE kind WHEN 'payment' THEN new_ ->> 'id' ELSE new_ ->> 'payment_id' END)::uuid;
    INSERT INTO audit_logs (user_id, action, resource_type, resource_id, before, after)
    VALUES (owner, kind || '.' || (new_ ->> 'status'), kind, new_ ->> 'id',
            CASE WHEN old_ IS NOT NULL THEN jsonb_build_object('status', old_ ->> 'status') END,
            jsonb_strip_nulls(jsonb_build_object(
                'status', new_ ->> 'status', 'amount', new_ ->> 'amount', 'currency', new_ ->> 'currency', 'invoice_id', new_ ->> 'invoice_id',
                'package_id', new_ ->> 'package_id', 'payment_id', new_ ->> 'payment_id', 'provider', new_ ->> 'provider', 'reason', new_ ->> 'reason')));
    RETURN NULL;
END $$;

COMMENT ON FUNCTION audit_payment IS 'Trigger: writes each new payment, refund or matched line, and each change of its status, to audit_logs.';

CREATE TRIGGER write_new_payment_audit AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION audit_payment();
CREATE TRIGGER write_payment_audit AFTER UPDATE ON payments
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION audit_payment();
CREATE TRIGGER write_new_refund_audit AFTER INSERT ON payment_refunds FOR EACH ROW EXECUTE FUNCTION audit_payment();
CREATE TRIGGER write_refund_audit AFTER UPDATE ON payment_refunds
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION audit_payment();
CREATE TRIGGER write_statement_line_audit AFTER UPDATE ON bank_statement_lines
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION audit_payment();

-- ---------------------------------------------------------------------------------------------------------------------
-- Rights. A row lock needs the right to update some column.
-- ---------------------------------------------------------------------------------------------------------------------

INSERT INTO role_rights (role, object, privilege, columns)
SELECT 'tallystick_billing', object, privilege, string_to_array(columns, ' ')
FROM (VALUES
    ('invoices', 'UPDATE', 'amount_paid'),
    ('payments payment_methods payment_allocations payment_refunds billing_history payment_events bank_statement_lines dunning_attempts', 'SELECT INSERT', NULL),
    ('payments', 'UPDATE', 'status method_id provider_transaction_id provider_checkout_id failure_reason refunded_amount allocated_amount processed_at tried_at metadata'),
    ('payment_methods', 'UPDATE', 'is_default last_four expiry_month expiry_year brand metadata detached_at updated_at'),
    ('payment_allocations', 'UPDATE', 'amount allocated_at'),
    ('payment_refunds', 'UPDATE', 'status failure_reason provider_refund_id credits_due credits_taken tried_at completed_at'),
    ('billing_history', 'UPDATE', 'status'),
    ('payment_events', 'UPDATE', 'outcome detail payment_id transaction_id report'),
    ('bank_statement_lines', 'UPDATE', 'status reason payment_id matched_at matched_by'),
    ('dunning_attempts', 'UPDATE', 'lifted_at'),
    ('credit_packages', 'SELECT', NULL),
    ('users', 'SELECT', 'id email username'),
    ('user_credits', 'UPDATE', 'stripe_customer_id'),
    ('audit_payment', 'EXECUTE', NULL)
) AS rights (objects, privileges, columns)
CROSS JOIN LATERAL string_to_table(objects, ' ') AS object
CROSS JOIN LATERAL string_to_table(privileges, ' ') AS privilege
ON CONFLICT (role, object, privilege) DO UPDATE
SET columns = CASE WHEN role_rights.columns IS NULL OR excluded.columns IS NULL THEN NULL
                   ELSE ARRAY(SELECT DISTINCT name FROM unnest(role_rights.columns || excluded.columns) name ORDER BY name) END;

SELECT apply_role_rights();

-- migrate:up
-- Chargebacks: a customer disputes a payment at the bank, and the bank takes the money back until that is decided.

CREATE TABLE payment_disputes (
    id                  uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    payment_id          uuid        NOT NULL REFERENCES payments (id) ON DELETE RESTRICT,
    provider            text        NOT NULL CHECK (provider IN ('stripe', 'paypal', 'wise', 'manual')),
    provider_dispute_id text        NOT NULL CHECK (provider_dispute_id <> ''),
    amount              numeric     NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    currency            varchar(3)  NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    reason              text        NOT NULL CHECK (reason <> ''),
    status              text        NOT NULL CHECK (status IN ('open', 'won', 'lost')),
    funds               text        NOT NULL CHECK (funds IN ('with_us', 'withdrawn', 'reinstated')),
    evidence_due_at     timestamptz,
    opened_at           timestamptz NOT NULL,
    closed_at           timestamptz,
    UNIQUE (provider, provider_dispute_id),
    CONSTRAINT dispute_is_whole_minor_units CHECK (amount = round(amount, minor_units(currency))),
    CONSTRAINT closed_has_date CHECK ((status = 'open') = (closed_at IS NULL))
);

CREATE INDEX idx_payment_disputes_payment ON payment_disputes (payment_id);

COMMENT ON TABLE  payment_disputes IS 'Payments that a customer disputes at the bank, as the provider tells of them. What the bank took is a row of payment_refunds of kind chargeback.';
COMMENT ON COLUMN payment_disputes.status IS 'Only ever moves up: open, won (an inquiry that came to nothing is won, too), lost.';
COMMENT ON COLUMN payment_disputes.funds IS 'Only ever moves up: with us, withdrawn by the bank, reinstated.';
COMMENT ON COLUMN payment_disputes.evidence_due_at IS 'Until when the provider takes evidence.';

ALTER TABLE payment_refunds
    ADD COLUMN kind text NOT NULL DEFAULT 'refund' CHECK (kind IN ('refund', 'chargeback'));

COMMENT ON COLUMN payment_refunds.kind IS 'refund: given back by us; chargeback: taken back by the bank. A chargeback that is won has failed.';

ALTER TABLE billing_alerts
    DROP CONSTRAINT billing_alerts_type_check,
    ADD CONSTRAINT billing_alerts_type_check CHECK (type IN
        ('usage_threshold', 'payment_failed', 'payment_disputed', 'invoice_overdue', 'subscription_expiring', 'low_balance', 'credits_exhausted',
         'unrated_usage', 'webhook_disabled'));
ALTER TABLE alert_settings
    DROP CONSTRAINT alert_settings_kind_check,
    ADD CONSTRAINT alert_settings_kind_check CHECK (kind IN
        ('usage_threshold', 'spend', 'payment_failed', 'payment_disputed', 'invoice_overdue', 'subscription_expiring', 'low_balance',
         'credits_exhausted', 'unrated_usage', 'webhook_disabled'));

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_billing', 'payment_disputes', 'SELECT', NULL),
    ('tallystick_billing', 'payment_disputes', 'INSERT', NULL),
    ('tallystick_billing', 'payment_disputes', 'UPDATE', '{status,funds,evidence_due_at,closed_at}');
SELECT apply_role_rights();

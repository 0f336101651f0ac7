-- migrate:up
-- Chargebacks: a customer disputes a payment at the bank, and the bank takes the money back until that is decided. And flat fees of prepaid
-- subscriptions, which credits pay.

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

-- ---------------------------------------------------------------------------------------------------------------------
-- Fees of prepaid subscriptions
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE credit_charges (
    charge_key       text        PRIMARY KEY CHECK (charge_key <> ''),
    user_id          uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    subscription_id  uuid        NOT NULL REFERENCES subscriptions (id) ON DELETE RESTRICT,
    kind             text        NOT NULL CHECK (kind IN ('fee', 'proration')),
    description      text        NOT NULL,
    amount           numeric     NOT NULL CHECK (amount <> 0 AND abs(amount) < 'Infinity'),
    currency         varchar(3)  NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    credits_per_unit numeric     NOT NULL CHECK (credits_per_unit > 0),
    credits          numeric     NOT NULL,
    debited          numeric     NOT NULL,
    owed             numeric     NOT NULL,
    transaction_id   uuid        NOT NULL UNIQUE REFERENCES credit_transactions (id) ON DELETE RESTRICT,
    due_at           timestamptz NOT NULL,
    period_start     timestamptz NOT NULL,
    period_end       timestamptz NOT NULL,
    metadata         jsonb       NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT credits_are_worth_the_charge CHECK (credits = amount * credits_per_unit),
    CONSTRAINT charged_whole CHECK (debited + owed = credits),
    CONSTRAINT charge_goes_one_way CHECK (CASE WHEN credits > 0 THEN debited >= 0 AND owed >= 0 ELSE debited <= 0 AND owed <= 0 END)
);

CREATE INDEX idx_credit_charges_subscription ON credit_charges (subscription_id, due_at);

COMMENT ON TABLE  credit_charges IS 'Flat fees of prepaid subscriptions, and prorations of changes, each charged to credits once: the key is that of the charge. Append-only.';
COMMENT ON COLUMN credit_charges.amount IS 'What the plan asks for, in currency, exact; negative: what is given back of a fee when other terms take over.';
COMMENT ON COLUMN credit_charges.credits IS 'The same in credits, by the rate when it fell due: debited from the balance, the rest owed.';

CREATE TRIGGER credit_charges_append_only BEFORE UPDATE OR DELETE ON credit_charges FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_charges_no_truncate BEFORE TRUNCATE ON credit_charges FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE credit_charges_made (
    id            boolean     PRIMARY KEY DEFAULT true CHECK (id),
    since         timestamptz NOT NULL DEFAULT now(),
    charged_until timestamptz NOT NULL DEFAULT now()
);
INSERT INTO credit_charges_made DEFAULT VALUES;

COMMENT ON TABLE  credit_charges_made IS 'Which fees of prepaid subscriptions were charged. One row.';
COMMENT ON COLUMN credit_charges_made.since IS 'What fell due before it is not charged: prepaid subscriptions had no fees then.';
COMMENT ON COLUMN credit_charges_made.charged_until IS 'What fell due before it has been charged.';

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_billing', 'payment_disputes', 'SELECT', NULL),
    ('tallystick_billing', 'payment_disputes', 'INSERT', NULL),
    ('tallystick_billing', 'payment_disputes', 'UPDATE', '{status,funds,evidence_due_at,closed_at}'),
    ('tallystick_billing', 'credit_charges', 'SELECT', NULL),
    ('tallystick_billing', 'credit_charges', 'INSERT', NULL),
    ('tallystick_billing', 'credit_charges_made', 'SELECT', NULL),
    ('tallystick_billing', 'credit_charges_made', 'UPDATE', '{charged_until}');
SELECT apply_role_rights();

-- migrate:up
-- Invoices that finance can trust: who issues them and who receives them, tax by rate, credit notes, disputes, and what may follow what.

-- ---------------------------------------------------------------------------------------------------------------------
-- Who issues, and who receives
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE legal_entities (
    id             text    PRIMARY KEY CHECK (id <> ''),
    name           text    NOT NULL CHECK (name <> ''),
    line1          text,
    line2          text,
    postal_code    text,
    city           text,
    region         text,
    country        char(2) CHECK (country ~ '^[A-Z]{2}$'),
    vat_id         text    CHECK (vat_id ~ '^[A-Z]{2}[A-Z0-9+*]+$'),
    tax_number     text,
    registration   text,
    email          text,
    phone          text,
    website        text,
    account_holder text,
    bank_name      text,
    iban           text    CHECK (iban ~ '^[A-Z]{2}[0-9]{2}[A-Z0-9]+$'),
    bic            text    CHECK (bic ~ '^[A-Z0-9]{8}([A-Z0-9]{3})?$'),
    invoice_prefix text    NOT NULL UNIQUE CHECK (invoice_prefix ~ '^[A-Za-z0-9_.]*$'),
    tax_rate       numeric NOT NULL DEFAULT 0 CHECK (tax_rate BETWEEN 0 AND 1),
    payment_days   integer CHECK (payment_days BETWEEN 0 AND 3650),
    late_usage     text    NOT NULL DEFAULT 'adjustment' CHECK (late_usage IN ('adjustment', 'credit_note')),
    issue_zero_invoices boolean NOT NULL DEFAULT true,
    language       text    NOT NULL DEFAULT 'en' CHECK (language IN ('en', 'de', 'fr')),
    footer         text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT taxed_by_who_is_registered CHECK (tax_rate = 0 OR vat_id IS NOT NULL OR tax_number IS NOT NULL)
);

COMMENT ON TABLE  legal_entities IS 'Who issues invoices: as it is printed on them, its numbers, and the terms of customers who have none of their own. Kept by operators.';
COMMENT ON COLUMN legal_entities.invoice_prefix IS 'What its numbers begin with; empty: INV-2026-000001. Fixed once it has issued.';
COMMENT ON COLUMN legal_entities.tax_rate IS 'The rate of customers of standard treatment who have none of their own, e.g. 0.19.';
COMMENT ON COLUMN legal_entities.payment_days IS 'Days from issue until an invoice is due; NULL: TALLYSTICK_BILLING_PAYMENT_DAYS.';
COMMENT ON COLUMN legal_entities.late_usage IS 'How usage that was taken back after its invoice is given back: on the next invoice, or by a credit note.';
COMMENT ON COLUMN legal_entities.issue_zero_invoices IS 'Whether an invoice over nothing is issued (and paid at once); if not, what is on it waits for one that has an amount.';

CREATE TRIGGER update_legal_entities_updated_at BEFORE UPDATE ON legal_entities
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE billing_profiles (
    user_id          uuid    PRIMARY KEY REFERENCES users (id) ON DELETE RESTRICT,
    entity           text    REFERENCES legal_entities (id) ON DELETE RESTRICT,
    name             text    NOT NULL CHECK (name <> ''),
    contact          text,
    line1            text,
    line2            text,
    postal_code      text,
    city             text,
    region           text,
    country          char(2) CHECK (country ~ '^[A-Z]{2}$'),
    vat_id           text    CHECK (vat_id ~ '^[A-Z]{2}[A-Z0-9+*]+$'),
    email            text,
    phone            text,
    buyer_reference  text,
    tax_treatment    text    NOT NULL DEFAULT 'standard' CHECK (tax_treatment IN ('standard', 'reverse_charge', 'exempt')),
    tax_rate         numeric CHECK (tax_rate BETWEEN 0 AND 1),
    exemption_reason text,
    currency         varchar(3) CHECK (currency ~ '^[A-Z]{3}$'),
    language         text    CHECK (language IN ('en', 'de', 'fr')),
    payment_days     integer CHECK (payment_days BETWEEN 0 AND 3650),
    late_usage       text    CHECK (late_usage IN ('adjustment', 'credit_note')),
    issue_zero_invoices boolean,
    metadata         jsonb   NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT reverse_charge_has_vat_id CHECK (tax_treatment <> 'reverse_charge' OR vat_id IS NOT NULL),
    CONSTRAINT exemption_has_reason CHECK (tax_treatment <> 'exempt' OR coalesce(exemption_reason, '') <> ''),
    CONSTRAINT only_standard_is_taxed CHECK (tax_treatment = 'standard' OR coalesce(tax_rate, 0) = 0)
);

COMMENT ON TABLE  billing_profiles IS 'How a customer is invoiced: name, address, tax, language, terms. What is NULL is as its legal entity has it. Kept by operators.';
COMMENT ON COLUMN billing_profiles.entity IS 'The legal entity that invoices it; NULL: TALLYSTICK_BILLING_ENTITY.';
COMMENT ON COLUMN billing_profiles.buyer_reference IS 'What the customer wants to find on its invoices: an order number, in Germany a Leitweg-ID (BT-10).';
COMMENT ON COLUMN billing_profiles.tax_treatment IS 'standard: tax_rate, else the entity''s; reverse_charge: the customer owes the tax; exempt: none, for exemption_reason.';
COMMENT ON COLUMN billing_profiles.currency IS 'What the customer wishes to pay in, for whoever sets up its subscriptions. An invoice has the currency of its usage and charges; currencies never mix.';

CREATE TRIGGER update_billing_profiles_updated_at BEFORE UPDATE ON billing_profiles
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE FUNCTION erase_billing_profile() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM billing_profiles WHERE user_id = NEW.id;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION erase_billing_profile IS 'Trigger: who is anonymised has no billing profile any more; issued invoices keep whom they were issued to, as the law wants it.';

CREATE TRIGGER erase_billing_profiles AFTER UPDATE OF anonymised_at ON users
    FOR EACH ROW WHEN (OLD.anonymised_at IS NULL AND NEW.anonymised_at IS NOT NULL) EXECUTE FUNCTION erase_billing_profile();

INSERT INTO legal_entities (id, name, invoice_prefix)
SELECT entity, entity, CASE entity WHEN 'default' THEN '' ELSE regexp_replace(entity, '[^A-Za-z0-9_.]', '_', 'g') END
FROM (SELECT 'default' UNION SELECT entity FROM invoices UNION SELECT entity FROM invoice_numbers) AS known (entity);
UPDATE legal_entities SET name = 'Your company' WHERE id = 'default';

-- Of customers only what is not about a person is kept as a value: who is anonymised must not live on in the audit trail.
CREATE FUNCTION audit_party() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    new_    jsonb := to_jsonb(NEW) - '{created_at,updated_at}'::text[];
    old_    jsonb := CASE TG_OP WHEN 'UPDATE' THEN to_jsonb(OLD) - '{created_at,updated_at}'::text[] ELSE '{}' END;
    changed text[] := ARRAY(SELECT key FROM jsonb_each(new_) WHERE value IS DISTINCT FROM coalesce(old_ -> key, 'null') ORDER BY key);
    kept    text[] := CASE TG_TABLE_NAME WHEN 'legal_entities' THEN changed
        ELSE '{entity,country,tax_treatment,tax_rate,currency,language,payment_days,late_usage,issue_zero_invoices}'::text[] END;
BEGIN
    IF changed <> '{}' THEN
        INSERT INTO audit_logs (user_id, action, resource_type, resource_id, before, after, details)
        SELECT (new_ ->> 'user_id')::uuid, CASE TG_TABLE_NAME WHEN 'legal_entities' THEN 'legal_entity' ELSE 'billing_profile' END || '.changed',
               TG_TABLE_NAME, coalesce(new_ ->> 'user_id', new_ ->> 'id'), jsonb_object_agg(key, old_ -> key) FILTER (WHERE key = ANY (kept)),
               jsonb_object_agg(key, new_ -> key) FILTER (WHERE key = ANY (kept)), jsonb_build_object('changed', changed)
        FROM unnest(changed) key;
    END IF;
    RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION audit_party FROM PUBLIC;
COMMENT ON FUNCTION audit_party IS 'Trigger: writes to audit_logs what changed of a legal entity, or of a customer''s billing profile.';

CREATE TRIGGER audit_legal_entities AFTER INSERT OR UPDATE ON legal_entities FOR EACH ROW EXECUTE FUNCTION audit_party();
CREATE TRIGGER audit_billing_profiles AFTER INSERT OR UPDATE ON billing_profiles FOR EACH ROW EXECUTE FUNCTION audit_party();

-- What is printed of either, as JSON: invoices keep it as it was when they were issued.
CREATE FUNCTION party_of_entity(entity legal_entities) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_strip_nulls(to_jsonb(entity) - '{id,invoice_prefix,tax_rate,payment_days,late_usage,issue_zero_invoices,language,created_at,updated_at}'::text[])
$$;

COMMENT ON FUNCTION party_of_entity IS 'A legal entity as invoices print it.';

CREATE FUNCTION party_of_customer(email text, full_name text, profile billing_profiles) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'name', coalesce(profile.name, full_name, email), 'contact', profile.contact, 'line1', profile.line1, 'line2', profile.line2,
        'postal_code', profile.postal_code, 'city', profile.city, 'region', profile.region, 'country', profile.country,
        'vat_id', profile.vat_id, 'email', coalesce(profile.email, party_of_customer.email), 'phone', profile.phone,
        'buyer_reference', profile.buyer_reference))
$$;

COMMENT ON FUNCTION party_of_customer IS 'A customer as invoices print it: by its billing profile, else by its account.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Numbers
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION invoice_number_text(p_entity text, p_series text, p_year integer, p_number bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws('-', nullif(coalesce((SELECT invoice_prefix FROM legal_entities WHERE id = p_entity), nullif(p_entity, 'default')), ''),
                     p_series, p_year, lpad(p_number::text, greatest(6, length(p_number::text)), '0'))
$$;

COMMENT ON FUNCTION invoice_number_text IS 'How a number is written: prefix of the entity, series, year, and the number itself in six digits or more.';

CREATE OR REPLACE FUNCTION take_invoice_number(p_entity text, p_year integer, p_series text DEFAULT 'INV') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    INSERT INTO invoice_numbers AS n (entity, series, year, next) VALUES (p_entity, p_series, p_year, 2)
    ON CONFLICT (entity, series, year) DO UPDATE SET next = n.next + 1
    RETURNING n.next - 1 INTO taken;
    RETURN invoice_number_text(p_entity, p_series, p_year, taken);
END $$;

CREATE FUNCTION keep_invoice_prefix() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM invoice_numbers WHERE entity = OLD.id) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003',
            MESSAGE = format('legal entity %s has issued invoices: its id and the prefix of its numbers are fixed', OLD.id),
            HINT = 'Make another legal entity, and let customers'' profiles name it.';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;

COMMENT ON FUNCTION keep_invoice_prefix IS 'Trigger: the id and the prefix of an entity that has taken numbers never change (TS003).';

CREATE TRIGGER keep_invoice_prefix BEFORE UPDATE ON legal_entities
    FOR EACH ROW WHEN ((NEW.id, NEW.invoice_prefix) IS DISTINCT FROM (OLD.id, OLD.invoice_prefix)) EXECUTE FUNCTION keep_invoice_prefix();
CREATE TRIGGER keep_legal_entity BEFORE DELETE ON legal_entities
    FOR EACH ROW EXECUTE FUNCTION keep_invoice_prefix();

-- ---------------------------------------------------------------------------------------------------------------------
-- Invoices
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE invoices
    ADD COLUMN amount_paid        numeric NOT NULL DEFAULT 0,
    ADD COLUMN amount_credited    numeric NOT NULL DEFAULT 0,
    ADD COLUMN taxes              jsonb   NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(taxes) = 'array'),
    ADD COLUMN seller             jsonb   NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(seller) = 'object'),
    ADD COLUMN buyer              jsonb   NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(buyer) = 'object'),
    ADD COLUMN language           text    NOT NULL DEFAULT 'en' CHECK (language IN ('en', 'de', 'fr')),
    ADD COLUMN payment_terms_days integer CHECK (payment_terms_days >= 0),
    ADD COLUMN disputed_at        timestamptz,
    ADD COLUMN dispute_reason     text CHECK (dispute_reason <> ''),
    ADD COLUMN cancelled_at       timestamptz,
    ADD COLUMN cancel_reason      text CHECK (cancel_reason <> ''),
    ADD COLUMN rebilled           boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT invoice_entity_exists FOREIGN KEY (entity) REFERENCES legal_entities (id) ON DELETE RESTRICT,
    ADD CONSTRAINT paid_is_finite CHECK (amount_paid >= 0 AND amount_paid < 'Infinity'),
    ADD CONSTRAINT credited_within_total CHECK (amount_credited BETWEEN 0 AND greatest(total, 0)),
    ADD CONSTRAINT disputed_with_reason CHECK ((disputed_at IS NULL) = (dispute_reason IS NULL)),
    ADD CONSTRAINT only_issued_are_disputed CHECK (disputed_at IS NULL OR number IS NOT NULL),
    ADD CONSTRAINT rebilled_is_cancelled CHECK (NOT rebilled OR status = 'cancelled');

COMMENT ON COLUMN invoices.amount_paid IS 'What was paid, less what was paid back. Still to be paid: total - amount_credited - amount_paid.';
COMMENT ON COLUMN invoices.amount_credited IS 'The sum of its credit notes, with tax; kept by a trigger.';
COMMENT ON COLUMN invoices.taxes IS 'Tax by category (EN 16931: S, Z, E, AE, O) and rate: [{category, rate, taxable, tax, reason}]; sums to tax.';
COMMENT ON COLUMN invoices.seller IS 'Who issued it, as it was then (legal_entities).';
COMMENT ON COLUMN invoices.buyer IS 'Whom it was issued to, as it was then (billing_profiles).';
COMMENT ON COLUMN invoices.disputed_at IS 'Since when the customer disputes it; NULL again when that is settled (audit_logs has the history).';
COMMENT ON COLUMN invoices.rebilled IS 'It was voided, and what it billed is billable again.';

ALTER TABLE invoice_lines
    ADD COLUMN charge_key   text CHECK (charge_key <> ''),
    ADD COLUMN tax_category text NOT NULL DEFAULT 'O' CHECK (tax_category IN ('S', 'Z', 'E', 'AE', 'O')),
    ADD COLUMN tax_rate     numeric NOT NULL DEFAULT 0 CHECK (tax_rate BETWEEN 0 AND 1),
    ADD CONSTRAINT only_standard_rate_has_a_rate CHECK (tax_category = 'S' OR tax_rate = 0),
    -- A correction takes back: there may be fewer events behind a line than none.
    DROP CONSTRAINT invoice_lines_event_count_check,
    DROP CONSTRAINT invoice_lines_kind_check,
    ADD CONSTRAINT invoice_lines_kind_check CHECK
        (kind IN ('usage', 'fee', 'overage', 'minimum', 'discount', 'credit', 'adjustment', 'proration', 'package', 'carried'));

COMMENT ON COLUMN invoice_lines.charge_key IS 'What is charged once for ever: the key of a plan''s charge, or carried:LINE for a credit that was carried over. NULL again on an invoice that was voided and gives it back.';
COMMENT ON COLUMN invoice_lines.tax_category IS 'EN 16931: S standard rate, Z zero rate, E exempt, AE reverse charge, O outside the scope of tax.';

-- A fee was charged once by its interval; from here on by its key, as every charge.
DROP INDEX one_fee_per_interval;
ALTER TABLE invoice_lines DISABLE TRIGGER protect_invoice_lines;
UPDATE invoice_lines
SET charge_key = format('fee:%s:%s', subscription_id, to_char(period_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
WHERE kind = 'fee' AND subscription_id IS NOT NULL AND period_start IS NOT NULL;
ALTER TABLE invoice_lines ENABLE TRIGGER protect_invoice_lines;
DROP INDEX idx_invoice_lines_price;  -- no query asks: what a price change concerns is asked of rated_usage
CREATE UNIQUE INDEX one_line_per_charge ON invoice_lines (charge_key) WHERE charge_key IS NOT NULL;
CREATE INDEX idx_invoice_lines_carried ON invoice_lines (invoice_id) WHERE kind = 'carried' AND exact_amount > 0;

-- An invoice that was voided to be made anew leaves its period free.
DROP INDEX one_usage_invoice_per_period;
CREATE UNIQUE INDEX one_usage_invoice_per_period ON invoices (user_id, currency, period_start, period_end) WHERE kind = 'usage' AND NOT rebilled;
CREATE INDEX idx_invoices_disputed ON invoices (disputed_at) WHERE disputed_at IS NOT NULL;

-- What may follow what.
CREATE FUNCTION check_invoice_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = ANY (CASE OLD.status
        WHEN 'draft' THEN ARRAY['sent', 'paid', 'cancelled']
        WHEN 'sent' THEN ARRAY['partially_paid', 'paid', 'overdue', 'cancelled']
        WHEN 'partially_paid' THEN ARRAY['sent', 'paid', 'overdue', 'cancelled']
        WHEN 'overdue' THEN ARRAY['sent', 'partially_paid', 'paid', 'cancelled']
        WHEN 'paid' THEN ARRAY['sent', 'partially_paid', 'overdue', 'cancelled']
        ELSE ARRAY[]::text[] END) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'TS011',
        MESSAGE = format('invoice %s is %s and cannot become %s', coalesce(NEW.number, NEW.id::text), OLD.status, NEW.status);
END $$;

COMMENT ON FUNCTION check_invoice_transition IS 'Trigger: which status an invoice may have after which (TS011). A payment that was taken back opens it again; cancelled is final.';

-- Comes after protect_issued_invoices, which knows better why: triggers fire in the order of their names.
CREATE TRIGGER refuse_invoice_transition BEFORE UPDATE ON invoices
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION check_invoice_transition();

CREATE OR REPLACE FUNCTION protect_issued_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- `period` is generated, and not yet so in a BEFORE trigger.
    mutable text[] := ARRAY['status', 'paid_date', 'amount_paid', 'amount_credited', 'disputed_at', 'dispute_reason', 'cancelled_at',
                            'cancel_reason', 'rebilled', 'metadata', 'updated_at', 'period'];
    lines   numeric;
    taxed   numeric;
    taxable numeric;
BEGIN
    IF OLD.number IS NULL THEN
        IF TG_OP = 'UPDATE' AND NEW.number IS NOT NULL THEN
            SELECT coalesce(sum(amount), 0) INTO lines FROM invoice_lines WHERE invoice_id = NEW.id;
            IF lines <> NEW.subtotal THEN
                RAISE EXCEPTION USING ERRCODE = 'TS004',
                    MESSAGE = format('invoice %s cannot be issued: its lines sum to %s, its subtotal is %s', NEW.id, lines, NEW.subtotal);
            END IF;
            SELECT coalesce(sum((part ->> 'tax')::numeric), 0), coalesce(sum((part ->> 'taxable')::numeric), NEW.subtotal) INTO taxed, taxable
            FROM jsonb_array_elements(NEW.taxes) part;
            IF (taxed, taxable) <> (NEW.tax, NEW.subtotal) THEN
                RAISE EXCEPTION USING ERRCODE = 'TS004',
                    MESSAGE = format('invoice %s cannot be issued: its taxes are %s on %s, its tax is %s on %s', NEW.id, taxed, taxable, NEW.tax, NEW.subtotal);
            END IF;
        END IF;
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    ELSIF TG_OP = 'UPDATE' AND to_jsonb(NEW) - mutable = to_jsonb(OLD) - mutable THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'TS003',
        MESSAGE = format('invoice %s is issued: %s of its content is refused', OLD.number, TG_OP),
        HINT = 'Correct it with a credit note or with an adjustment on the next invoice.';
END $$;

COMMENT ON FUNCTION protect_issued_invoice IS 'Trigger: an invoice is issued only if its lines and its taxes sum to it, and its content is fixed from then on.';

CREATE FUNCTION audit_invoice() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO audit_logs (user_id, action, resource_type, resource_id, before, after)
    VALUES (NEW.user_id,
            CASE WHEN NEW.status <> OLD.status THEN 'invoice.' || NEW.status
                 WHEN NEW.disputed_at IS NULL THEN 'invoice.dispute_settled' ELSE 'invoice.disputed' END,
            'invoice', NEW.id::text,
            jsonb_build_object('status', OLD.status, 'disputed', OLD.dispute_reason),
            jsonb_build_object('status', NEW.status, 'disputed', NEW.dispute_reason, 'cancelled', NEW.cancel_reason, 'rebilled', NEW.rebilled));
    RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION audit_invoice FROM PUBLIC;
COMMENT ON FUNCTION audit_invoice IS 'Trigger: writes to audit_logs what becomes of an invoice after it was issued: status and dispute.';

CREATE TRIGGER write_invoice_audit AFTER UPDATE ON invoices
    FOR EACH ROW WHEN (OLD.number IS NOT NULL
        AND (NEW.status, NEW.disputed_at IS NULL, NEW.dispute_reason) IS DISTINCT FROM (OLD.status, OLD.disputed_at IS NULL, OLD.dispute_reason))
    EXECUTE FUNCTION audit_invoice();

-- A month has millions of lines: what is inserted is judged by statement, not line by line. Three foreign keys that cost more than the rows
-- themselves are checked so as well; the other direction is refused by triggers: prices and used subscriptions are never deleted.
ALTER TABLE invoice_lines
    DROP CONSTRAINT invoice_lines_subscription_id_fkey,
    DROP CONSTRAINT invoice_lines_price_id_fkey,
    DROP CONSTRAINT invoice_lines_usage_line_id_fkey;

CREATE OR REPLACE FUNCTION protect_used_subscription() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM usage_summaries WHERE subscription_id = OLD.id)
        OR EXISTS (SELECT FROM rated_usage WHERE subscription_id = OLD.id)
        OR EXISTS (SELECT FROM invoice_lines WHERE subscription_id = OLD.id)
        OR EXISTS (SELECT FROM usage_logs WHERE subscription_id = OLD.id) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS012',
            MESSAGE = format('subscription %s has usage and cannot be deleted', OLD.id),
            HINT = 'Cancel it; anonymise_user() erases a person.';
    END IF;
    RETURN OLD;
END $$;

CREATE FUNCTION complete_invoice_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT currency INTO NEW.currency FROM invoices WHERE id = NEW.invoice_id;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION complete_invoice_line IS 'Trigger: a line has the currency of its invoice where none is given.';

CREATE FUNCTION protect_issued_lines() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    issued  text;
    strange text;
BEGIN
    -- FOR SHARE: else a line could slip in between the summing of the lines and the commit of who issues the invoice.
    SELECT i.number INTO issued
    FROM (SELECT * FROM invoices WHERE id IN (SELECT invoice_id FROM added) FOR SHARE) i WHERE i.number IS NOT NULL LIMIT 1;
    IF issued IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003',
            MESSAGE = format('invoice %s is issued: INSERT of a line is refused', issued),
            HINT = 'Write the lines while it is a draft; correct it later with a credit note or an adjustment.';
    END IF;
    -- FOR KEY SHARE, as a foreign key does it: none of them goes meanwhile.
    PERFORM FROM subscriptions WHERE id IN (SELECT subscription_id FROM added) FOR KEY SHARE;
    SELECT format('line %s of invoice %s', a.position, a.invoice_id) INTO strange
    FROM added a
    LEFT JOIN subscriptions s ON s.id = a.subscription_id
    LEFT JOIN model_prices p ON p.id = a.price_id
    LEFT JOIN added o ON o.id = a.usage_line_id
    WHERE (a.subscription_id IS NOT NULL AND s.id IS NULL) OR (a.price_id IS NOT NULL AND p.id IS NULL)
       OR (a.usage_line_id IS NOT NULL AND o.id IS NULL AND NOT EXISTS (SELECT FROM invoice_lines WHERE id = a.usage_line_id))
    LIMIT 1;
    IF strange IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '23503', MESSAGE = format('%s names a subscription, a price or a line that does not exist', strange);
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION protect_issued_lines IS 'Trigger: lines are added to drafts only (TS003), and what they name exists (23503).';

CREATE OR REPLACE FUNCTION protect_invoice_line() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    invoice invoices;
BEGIN
    SELECT * INTO invoice FROM invoices WHERE id = OLD.invoice_id FOR SHARE;
    IF TG_OP = 'UPDATE' AND (invoice.rebilled OR (invoice.status = 'cancelled' AND OLD.kind = 'carried'))
        AND NEW.charge_key IS NULL AND to_jsonb(NEW) - 'charge_key' = to_jsonb(OLD) - 'charge_key' THEN
        RETURN NEW;  -- what it charged once may be charged anew
    ELSIF invoice.number IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003',
            MESSAGE = format('invoice %s is issued: %s of a line is refused', invoice.number, TG_OP),
            HINT = 'Write the lines while it is a draft; correct it later with a credit note or an adjustment.';
    ELSIF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT FROM rated_usage WHERE invoice_line_id = OLD.id) THEN
            RAISE EXCEPTION USING ERRCODE = 'TS012',
                MESSAGE = format('line %s of invoice %s bills usage and cannot be deleted', OLD.position, OLD.invoice_id);
        END IF;
        RETURN OLD;
    ELSIF NEW.invoice_id <> OLD.invoice_id THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003', MESSAGE = 'a line stays with its invoice';
    END IF;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION protect_invoice_line IS 'Trigger: lines of issued invoices are fixed, and lines stay once usage points to them.';

DROP TRIGGER protect_invoice_lines ON invoice_lines;
CREATE TRIGGER complete_invoice_lines BEFORE INSERT ON invoice_lines
    FOR EACH ROW WHEN (NEW.currency IS NULL) EXECUTE FUNCTION complete_invoice_line();
CREATE TRIGGER protect_invoice_lines BEFORE UPDATE OR DELETE ON invoice_lines
    FOR EACH ROW EXECUTE FUNCTION protect_invoice_line();
CREATE TRIGGER protect_issued_lines AFTER INSERT ON invoice_lines
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION protect_issued_lines();

-- ---------------------------------------------------------------------------------------------------------------------
-- Credit notes
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE credit_notes (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    invoice_id      uuid        NOT NULL,
    user_id         uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    entity          text        NOT NULL REFERENCES legal_entities (id) ON DELETE RESTRICT,
    number          text        NOT NULL UNIQUE,
    kind            text        NOT NULL CHECK (kind IN ('correction', 'void', 'late_usage')),
    reason          text        NOT NULL CHECK (reason <> ''),
    currency        varchar(3)  NOT NULL,
    exact_subtotal  numeric     NOT NULL,
    subtotal        numeric     NOT NULL,
    tax             numeric     NOT NULL,
    total           numeric     NOT NULL,
    taxes           jsonb       NOT NULL CHECK (jsonb_typeof(taxes) = 'array'),
    seller          jsonb       NOT NULL CHECK (jsonb_typeof(seller) = 'object'),
    buyer           jsonb       NOT NULL CHECK (jsonb_typeof(buyer) = 'object'),
    language        text        NOT NULL CHECK (language IN ('en', 'de', 'fr')),
    issued_at       timestamptz NOT NULL,
    actor           text        NOT NULL DEFAULT coalesce(nullif(current_setting('tallystick.actor', true), ''), session_user),
    idempotency_key text        UNIQUE CHECK (idempotency_key <> ''),
    metadata        jsonb       NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (id, currency),
    CONSTRAINT note_has_the_invoice_currency FOREIGN KEY (invoice_id, currency) REFERENCES invoices (id, currency) ON DELETE RESTRICT,
    CONSTRAINT note_adds_up CHECK (total = subtotal + tax AND total >= 0 AND total < 'Infinity'),
    CONSTRAINT note_is_whole_minor_units CHECK
        (subtotal = round(subtotal, minor_units(currency)) AND tax = round(tax, minor_units(currency)))
);

CREATE INDEX idx_credit_notes_invoice ON credit_notes (invoice_id);
CREATE INDEX idx_credit_notes_user ON credit_notes (user_id, issued_at DESC);

COMMENT ON TABLE  credit_notes IS 'Takes back an issued invoice, in part or whole. Append-only; never more than was invoiced less earlier notes.';
COMMENT ON COLUMN credit_notes.number IS 'Gapless per entity and year, in a series of its own: CN-2026-000001.';
COMMENT ON COLUMN credit_notes.kind IS 'correction: by an operator; void: the whole rest of the invoice; late_usage: usage that was taken back after its invoice.';
COMMENT ON COLUMN credit_notes.total IS 'What is given back, as a positive amount.';

CREATE TABLE credit_note_lines (
    id              uuid    PRIMARY KEY DEFAULT gen_random_uuid(),
    credit_note_id  uuid    NOT NULL,
    position        integer NOT NULL CHECK (position > 0),
    invoice_line_id uuid    NOT NULL REFERENCES invoice_lines (id) ON DELETE RESTRICT,
    description     text    NOT NULL,
    quantity        numeric NOT NULL,
    unit            text    NOT NULL,
    unit_price      numeric,
    exact_amount    numeric NOT NULL,
    amount          numeric NOT NULL,
    currency        varchar(3) NOT NULL,
    tax_category    text    NOT NULL CHECK (tax_category IN ('S', 'Z', 'E', 'AE', 'O')),
    tax_rate        numeric NOT NULL CHECK (tax_rate BETWEEN 0 AND 1),
    subscription_id uuid    REFERENCES subscriptions (id) ON DELETE RESTRICT,
    price_id        uuid    REFERENCES model_prices (id) ON DELETE RESTRICT,
    component       text,
    usage_line_id   uuid    REFERENCES credit_note_lines (id),
    dimensions      jsonb   NOT NULL DEFAULT '{}',
    event_count     bigint  NOT NULL DEFAULT 0,
    first_event_at  timestamptz,
    last_event_at   timestamptz,
    checksum        text,
    period_start    timestamptz,
    period_end      timestamptz,
    UNIQUE (credit_note_id, position),
    CONSTRAINT line_has_the_note_currency FOREIGN KEY (credit_note_id, currency) REFERENCES credit_notes (id, currency) ON DELETE RESTRICT,
    CONSTRAINT amount_is_whole_minor_units CHECK (amount = round(amount, minor_units(currency))),
    CONSTRAINT rounded_by_less_than_one_unit CHECK (abs(amount - exact_amount) < power(10::numeric, -minor_units(currency)))
);

CREATE INDEX idx_credit_note_lines_invoice_line ON credit_note_lines (invoice_line_id);

COMMENT ON TABLE  credit_note_lines IS 'The lines of a credit note, each with the invoice line that it takes back. Append-only.';
COMMENT ON COLUMN credit_note_lines.amount IS 'What is given back of the line; negative where that was a discount.';
COMMENT ON COLUMN credit_note_lines.usage_line_id IS 'With usage that was taken back: the line that its rated_usage.invoice_line_id names, as on invoice_lines.';

CREATE FUNCTION book_credit_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Locks the invoice: a second note waits here, and finds the first one's lines when its own are judged.
    UPDATE invoices SET amount_credited = amount_credited + NEW.total WHERE id = NEW.invoice_id AND number IS NOT NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('invoice %s is not issued: there is nothing to take back', NEW.invoice_id);
    END IF;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION book_credit_note IS 'Trigger: adds a credit note to amount_credited of its invoice, which is never more than its total.';

CREATE FUNCTION check_credit_note_lines() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong text;
BEGIN
    SELECT format('the lines of credit note %s sum to %s, its subtotal is %s', n.number, sum(l.amount), n.subtotal) INTO wrong
    FROM credit_notes n JOIN credit_note_lines l ON l.credit_note_id = n.id
    WHERE n.id IN (SELECT credit_note_id FROM added)
    GROUP BY n.id HAVING sum(l.amount) <> n.subtotal;
    IF wrong IS NULL THEN
        SELECT format('of line %s of the invoice %s were invoiced and %s taken back', i.position, i.amount, taken.amount) INTO wrong
        FROM (SELECT l.invoice_line_id AS id, sum(l.amount) AS amount, bool_or(n.invoice_id <> i.invoice_id) AS strange
              FROM credit_note_lines l JOIN credit_notes n ON n.id = l.credit_note_id JOIN invoice_lines i ON i.id = l.invoice_line_id
              WHERE l.invoice_line_id IN (SELECT invoice_line_id FROM added) GROUP BY l.invoice_line_id) taken
        JOIN invoice_lines i USING (id)
        WHERE taken.strange OR taken.amount NOT BETWEEN least(i.amount, 0) AND greatest(i.amount, 0)
        LIMIT 1;
    END IF;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = wrong,
            HINT = 'A credit note takes back at most what was invoiced less earlier notes, line by line, all of it in one statement.';
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION check_credit_note_lines IS 'Trigger: the lines of a credit note sum to it, and take back no more than was invoiced (TS004).';

CREATE FUNCTION check_credit_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM credit_note_lines WHERE credit_note_id = NEW.id) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('credit note %s has no lines', NEW.number);
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION check_credit_note IS 'Trigger at commit: a credit note has lines (TS004).';

CREATE TRIGGER book_credit_notes AFTER INSERT ON credit_notes FOR EACH ROW EXECUTE FUNCTION book_credit_note();
CREATE CONSTRAINT TRIGGER credit_note_has_lines AFTER INSERT ON credit_notes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_credit_note();
CREATE TRIGGER check_credit_note_lines AFTER INSERT ON credit_note_lines
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION check_credit_note_lines();
CREATE TRIGGER credit_notes_append_only BEFORE UPDATE OR DELETE ON credit_notes FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_notes_no_truncate BEFORE TRUNCATE ON credit_notes FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_note_lines_append_only BEFORE UPDATE OR DELETE ON credit_note_lines FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_note_lines_no_truncate BEFORE TRUNCATE ON credit_note_lines FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- ---------------------------------------------------------------------------------------------------------------------
-- Usage and the lines that bill it
-- ---------------------------------------------------------------------------------------------------------------------

-- A voided invoice may give its usage back. Asked only where the trigger's WHEN found a change, so billing a month costs nothing here.
CREATE OR REPLACE FUNCTION protect_rated_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.invoice_line_id IS NULL AND to_jsonb(NEW) - 'invoice_line_id' = to_jsonb(OLD) - 'invoice_line_id'
        AND EXISTS (SELECT FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id WHERE l.id = OLD.invoice_line_id AND i.rebilled
                    UNION ALL
                    SELECT FROM credit_note_lines l JOIN credit_notes n ON n.id = l.credit_note_id JOIN invoices i ON i.id = n.invoice_id
                    WHERE l.id = OLD.invoice_line_id AND i.rebilled) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'TS003',
        MESSAGE = CASE WHEN TG_OP = 'TRUNCATE' THEN 'rated_usage is append-only: TRUNCATE is refused'
                       ELSE format('rated_usage is append-only: %s of a row of subscription %s is refused', TG_OP, OLD.subscription_id) END,
        HINT = 'A held row is rated once and a rated row is billed once; anything else is a new row with its own rating run.';
END $$;

COMMENT ON FUNCTION protect_rated_usage IS 'Trigger: refuses what would change rated usage, but for being rated once, billed once, and given back by an invoice that is voided for rebilling (TS003).';
COMMENT ON COLUMN rated_usage.invoice_line_id IS 'The invoice_lines (or credit_note_lines) row that bills it (postpaid). Both NULL: unbilled.';

-- Usage that was taken back before it was billed sums to nothing, and needs no line: closing looks for that where there are corrections.
CREATE INDEX idx_rated_usage_corrections ON rated_usage (user_id, hour)
    WHERE billing_mode = 'postpaid' AND invoice_line_id IS NULL AND amount IS NOT NULL AND requests <= 0;

-- What one price charges alike shares a line: of a model whatever the feature, else by tool and feature; usage from before the period by
-- its month. Ids are made and used within one statement, so it matters to nobody that another version of Postgres may hash differently. The row is there twice so that calls are inlined.
CREATE FUNCTION usage_line_id(invoice_id uuid, r rated_usage, period_start timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT encode(
        int8send(hash_record_extended((invoice_id, r.subscription_id, r.price_id, r.multiplier, r.model_id,
            CASE WHEN r.model_id = '' THEN r.tool_name END, CASE WHEN r.model_id = '' THEN r.feature_type END, r.power_level, r.byok,
            CASE WHEN r.hour < period_start THEN date_trunc('month', r.hour, 'UTC') END), 1)) ||
        int8send(hash_record_extended((invoice_id, r.subscription_id, r.price_id, r.multiplier, r.model_id,
            CASE WHEN r.model_id = '' THEN r.tool_name END, CASE WHEN r.model_id = '' THEN r.feature_type END, r.power_level, r.byok,
            CASE WHEN r.hour < period_start THEN date_trunc('month', r.hour, 'UTC') END), 2)), 'hex')::uuid
$$;

COMMENT ON FUNCTION usage_line_id IS 'The id of the line of an invoice for this period that rated usage goes to.';

CREATE VIEW usage_lines AS
SELECT l.id, l.usage_line_id, l.component, l.description, l.subscription_id, l.price_id, l.currency, l.exact_amount, l.amount, l.event_count,
       l.first_event_at, l.last_event_at, l.checksum, l.period_start, l.period_end, l.dimensions, i.number
FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
WHERE l.usage_line_id IS NOT NULL AND NOT i.rebilled
UNION ALL
SELECT l.id, l.usage_line_id, l.component, l.description, l.subscription_id, l.price_id, l.currency, -l.exact_amount, -l.amount, l.event_count,
       l.first_event_at, l.last_event_at, l.checksum, l.period_start, l.period_end, l.dimensions, n.number
FROM credit_note_lines l JOIN credit_notes n ON n.id = l.credit_note_id JOIN invoices i ON i.id = n.invoice_id
WHERE l.usage_line_id IS NOT NULL AND NOT i.rebilled;

COMMENT ON VIEW usage_lines IS 'The lines that bill usage at present, of invoices and (negative) of credit notes: what rated_usage.invoice_line_id names. Those of invoices voided for rebilling are left out.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Who may see and do what
-- ---------------------------------------------------------------------------------------------------------------------

DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['billing_profiles', 'credit_notes', 'credit_note_lines'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY user_own_data ON %I USING (%s)', tenant_table, CASE tenant_table
            WHEN 'credit_note_lines' THEN 'credit_note_id IN (SELECT id FROM credit_notes WHERE user_id = app_current_user_id())'
            ELSE 'user_id = app_current_user_id()' END);
        EXECUTE format('CREATE POLICY admin_all_data ON %I USING ((SELECT app_current_user_is_admin()))', tenant_table);
        IF to_regrole('tallystick_tenant') IS NOT NULL THEN
            EXECUTE format('GRANT SELECT ON %I TO tallystick_tenant', tenant_table);
        END IF;
    END LOOP;
END $$;

UPDATE role_rights
SET columns = columns || '{entity,amount_paid,amount_credited,taxes,seller,buyer,language,payment_terms_days,disputed_at,dispute_reason,cancelled_at,cancel_reason,rebilled}'::text[]
WHERE role = 'tallystick_billing' AND object = 'invoices' AND privilege = 'UPDATE';
INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_billing', 'legal_entities', 'SELECT', NULL),
    ('tallystick_billing', 'billing_profiles', 'SELECT', NULL),
    ('tallystick_billing', 'invoice_lines', 'UPDATE', '{charge_key}'),
    ('tallystick_billing', 'users', 'SELECT', '{id,email,full_name}'),
    ('tallystick_billing', 'credit_notes', 'SELECT', NULL),
    ('tallystick_billing', 'credit_notes', 'INSERT', NULL),
    ('tallystick_billing', 'credit_note_lines', 'SELECT', NULL),
    ('tallystick_billing', 'credit_note_lines', 'INSERT', NULL),
    ('tallystick_billing', 'usage_lines', 'SELECT', NULL)
ON CONFLICT DO NOTHING;
SELECT apply_role_rights();

-- migrate:up
-- Money: prices, rated usage, prepaid credits and their ledger, invoices, payments, alerts. Written by billing.
-- Amounts are exact NUMERIC of unconstrained scale until an invoice line rounds them, once, to the currency's minor unit.
-- Nothing here goes when a user goes: every reference is RESTRICT.

-- Digits after the point (ISO 4217); the same table as shared.money.MINOR_UNITS, which a test compares.
CREATE FUNCTION minor_units(currency text) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN currency IN ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX', 'UYI', 'VND',
                                  'VUV', 'XAF', 'XOF', 'XPF') THEN 0
                WHEN currency IN ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') THEN 3
                WHEN currency IN ('CLF', 'UYW') THEN 4
                ELSE 2 END
$$;

COMMENT ON FUNCTION minor_units IS 'Digits after the point of an amount in this currency.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Prices
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE model_prices (
    id                       uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    model_id                 text        REFERENCES models (id) ON DELETE RESTRICT,
    tool_name                text        CHECK (tool_name <> ''),
    feature_type             text        CHECK (feature_type <> ''),
    valid_from               timestamptz NOT NULL,
    valid_to                 timestamptz,
    currency                 varchar(3)  NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    input_price_per_1k       numeric     NOT NULL DEFAULT 0 CHECK (input_price_per_1k >= 0),
    output_price_per_1k      numeric     NOT NULL DEFAULT 0 CHECK (output_price_per_1k >= 0),
    cached_input_price_per_1k numeric    NOT NULL CHECK (cached_input_price_per_1k >= 0),
    price_per_request        numeric     NOT NULL DEFAULT 0 CHECK (price_per_request >= 0),
    bill_errors              boolean     NOT NULL DEFAULT false,
    cost_input_price_per_1k  numeric     CHECK (cost_input_price_per_1k >= 0),
    cost_output_price_per_1k numeric     CHECK (cost_output_price_per_1k >= 0),
    cost_cached_input_price_per_1k numeric CHECK (cost_cached_input_price_per_1k >= 0),
    cost_price_per_request   numeric     CHECK (cost_price_per_request >= 0),
    note                     text,
    created_by               text        NOT NULL DEFAULT coalesce(nullif(current_setting('tallystick.actor', true), ''), session_user),
    created_at               timestamptz NOT NULL DEFAULT now(),
    -- In Postgres NaN is above every number, Infinity too: >= 0 alone would let them in.
    CONSTRAINT prices_are_finite CHECK (greatest(
        input_price_per_1k, output_price_per_1k, cached_input_price_per_1k, price_per_request, cost_input_price_per_1k,
        cost_output_price_per_1k, cost_cached_input_price_per_1k, cost_price_per_request) < 'Infinity'),
    CONSTRAINT price_of_one_thing CHECK (num_nonnulls(model_id, tool_name, feature_type) = 1),
    CONSTRAINT validity_is_half_open CHECK (valid_from < valid_to),
    -- Usage is summed by hour before it is rated: a price that changed within an hour could not be told apart.
    CONSTRAINT validity_is_on_hours CHECK
        (valid_from = date_trunc('hour', valid_from, 'UTC') AND valid_to = date_trunc('hour', valid_to, 'UTC')),
    -- One price at any instant. An equality inside an exclusion constraint needs the extension btree_gist, which embedded
    -- servers lack; a range that is one point, the hash of the key, says the same with what every server has.
    CONSTRAINT one_price_at_a_time EXCLUDE USING gist (
        (numrange(hash_array_extended(ARRAY[model_id, tool_name, feature_type, currency::text], 0)::numeric,
                  hash_array_extended(ARRAY[model_id, tool_name, feature_type, currency::text], 0)::numeric, '[]')) WITH &&,
        tstzrange(valid_from, valid_to) WITH &&)
);

CREATE INDEX idx_model_prices_model ON model_prices (model_id, valid_from);  -- the price of one model at one time

COMMENT ON TABLE  model_prices IS 'What usage of a model, a tool or a feature costs: versions by [valid_from, valid_to), never edited.';
COMMENT ON COLUMN model_prices.model_id IS 'The model priced; exactly one of model_id, tool_name and feature_type is set.';
COMMENT ON COLUMN model_prices.currency IS 'Usage is rated by the price in the currency of its subscription.';
COMMENT ON COLUMN model_prices.valid_to IS 'End of validity, not included; NULL is open. Closing a version is the one change allowed to it.';
COMMENT ON COLUMN model_prices.cached_input_price_per_1k IS 'Price of input tokens that the provider had cached; input_price_per_1k where it is not given.';
COMMENT ON COLUMN model_prices.bill_errors IS 'Whether requests that failed (status 400 and above) are billed.';
COMMENT ON COLUMN model_prices.cost_input_price_per_1k IS 'What the provider charges us, beside what we charge: margin is a query.';

CREATE FUNCTION protect_model_price() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.cached_input_price_per_1k := coalesce(NEW.cached_input_price_per_1k, NEW.input_price_per_1k);
        RETURN NEW;
    ELSIF TG_OP = 'DELETE' AND OLD.valid_from > now() THEN
        RETURN OLD;  -- it never applied
    ELSIF TG_OP = 'UPDATE' AND to_jsonb(NEW) - ARRAY['valid_to', 'note'] = to_jsonb(OLD) - ARRAY['valid_to', 'note'] THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'TS003',
        MESSAGE = format('price %s may have rated usage already: it cannot be %s', OLD.id, CASE TG_OP WHEN 'DELETE' THEN 'deleted' ELSE 'changed' END),
        HINT = 'Close it by valid_to and insert a new version.';
END $$;

COMMENT ON FUNCTION protect_model_price IS 'Trigger: completes a new price version; one that can have been used only ever gets an end.';

CREATE TRIGGER protect_model_prices BEFORE INSERT OR UPDATE OR DELETE ON model_prices
    FOR EACH ROW EXECUTE FUNCTION protect_model_price();

-- ---------------------------------------------------------------------------------------------------------------------
-- Positions, inbox, rated usage
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE billing_positions (LIKE aggregator_positions INCLUDING ALL) WITH (fillfactor = 50);

COMMENT ON TABLE billing_positions IS 'Next usage.recorded offset of each partition, committed with its effects. Written by billing.';

CREATE TABLE rating_runs (
    id           uuid        PRIMARY KEY,
    kind         text        NOT NULL DEFAULT 'live' CHECK (kind IN ('live', 'unrated', 'reprice')),
    cluster      text,
    topic        text,
    partition    integer,
    epoch        integer,
    first_offset bigint,
    next_offset  bigint,
    rated_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT live_run_has_origin CHECK
        (kind <> 'live' OR num_nulls(cluster, topic, partition, epoch) = 0),
    CONSTRAINT offsets_are_half_open CHECK
        (first_offset < next_offset AND (first_offset IS NULL) = (next_offset IS NULL))
);

COMMENT ON TABLE  rating_runs IS 'One row for each transaction that rated usage.';
COMMENT ON COLUMN rating_runs.kind IS 'live: messages of usage.recorded; unrated: usage that waited for a price; reprice: adjustments after a change of price.';
COMMENT ON COLUMN rating_runs.first_offset IS 'Offsets [first_offset, next_offset) of usage.recorded that this run read.';

CREATE TABLE billing_inbox (
    batch_id      uuid        NOT NULL,
    part          integer     NOT NULL,
    rating_run_id uuid        NOT NULL REFERENCES rating_runs (id) ON DELETE RESTRICT,
    event_count   bigint      NOT NULL DEFAULT 0,
    received_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, part)
);

CREATE INDEX idx_billing_inbox_run ON billing_inbox (rating_run_id);  -- explain: from rated usage back to its batches

COMMENT ON TABLE billing_inbox IS 'usage.recorded messages that were rated, and by which run: a message that comes twice is rated once.';

-- Large, and distributed by subscription_id when the database is: so the key contains it and there are no foreign keys.
CREATE TABLE rated_usage (
    subscription_id uuid        NOT NULL,
    hour            timestamptz NOT NULL,
    model_id        text        NOT NULL DEFAULT '',
    tool_name       text        NOT NULL DEFAULT '',
    feature_type    text        NOT NULL DEFAULT '',
    power_level     text        NOT NULL DEFAULT 'balanced',
    byok            boolean     NOT NULL DEFAULT false,
    status_class    smallint    NOT NULL DEFAULT 2 CHECK (status_class BETWEEN 1 AND 5),
    rating_run_id   uuid        NOT NULL,
    user_id         uuid        NOT NULL,
    billing_mode    text        NOT NULL CHECK (billing_mode IN ('prepaid', 'postpaid')),
    requests        bigint      NOT NULL DEFAULT 0,
    errors          bigint      NOT NULL DEFAULT 0,
    request_tokens  bigint      NOT NULL DEFAULT 0,
    response_tokens bigint      NOT NULL DEFAULT 0,
    cached_tokens   bigint      NOT NULL DEFAULT 0,
    tokens_returned bigint      NOT NULL DEFAULT 0,
    first_event_at  timestamptz,
    last_event_at   timestamptz,
    price_id        uuid,
    multiplier      numeric,
    currency        varchar(3)  CHECK (currency ~ '^[A-Z]{3}$'),
    amount          numeric,
    cost_amount     numeric,
    settlement_id   uuid,
    invoice_line_id uuid,
    rated_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class, rating_run_id),
    CONSTRAINT hour_is_aligned CHECK (hour = date_trunc('hour', hour, 'UTC')),
    CONSTRAINT rated_or_held CHECK ((price_id IS NULL) = (amount IS NULL) AND (amount IS NULL OR currency IS NOT NULL)),
    CONSTRAINT amounts_are_finite CHECK (abs(amount) < 'Infinity' AND abs(cost_amount) < 'Infinity'),
    CONSTRAINT held_is_not_billed CHECK (amount IS NOT NULL OR num_nonnulls(settlement_id, invoice_line_id) = 0),
    CONSTRAINT prepaid_is_settled_postpaid_invoiced CHECK
        (CASE billing_mode WHEN 'prepaid' THEN invoice_line_id IS NULL ELSE settlement_id IS NULL END),
    CHECK (last_event_at >= first_event_at)
);

-- What is still to be settled or invoiced. Small: a row leaves it when it is billed.
CREATE INDEX idx_rated_usage_unbilled ON rated_usage (user_id, hour)
    WHERE settlement_id IS NULL AND invoice_line_id IS NULL AND amount IS NOT NULL;
CREATE INDEX idx_rated_usage_unrated ON rated_usage (model_id, tool_name, hour) WHERE amount IS NULL;  -- what waits for a price
-- explain: from a debit or a line to what is behind it
CREATE INDEX idx_rated_usage_settlement ON rated_usage (settlement_id) WHERE settlement_id IS NOT NULL;
CREATE INDEX idx_rated_usage_invoice_line ON rated_usage (invoice_line_id) WHERE invoice_line_id IS NOT NULL;

COMMENT ON TABLE  rated_usage IS 'What usage of one hour is worth, one row for each run and key. Added to, never edited, but for being rated once and billed once.';
COMMENT ON COLUMN rated_usage.requests IS 'Signed, like every quantity here: a correction takes back.';
COMMENT ON COLUMN rated_usage.status_class IS '2: succeeded (status below 400), 4 or 5: the hundreds of the status code.';
COMMENT ON COLUMN rated_usage.price_id IS 'The model_prices version that it was rated by; NULL: no price was found, it is held unrated and never billed at zero.';
COMMENT ON COLUMN rated_usage.multiplier IS 'Power-level multiplier times BYOK factor as applied, frozen with the result.';
COMMENT ON COLUMN rated_usage.amount IS 'Exact, unrounded, in currency.';
COMMENT ON COLUMN rated_usage.cost_amount IS 'What the provider charges us for it, where the price says so.';
COMMENT ON COLUMN rated_usage.settlement_id IS 'The credit_settlements row that debited it (prepaid).';
COMMENT ON COLUMN rated_usage.invoice_line_id IS 'The invoice_lines row that bills it (postpaid). Both NULL: unbilled.';

CREATE FUNCTION protect_rated_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'TS003',
        MESSAGE = CASE WHEN TG_OP = 'TRUNCATE' THEN 'rated_usage is append-only: TRUNCATE is refused'
                       ELSE format('rated_usage is append-only: %s of a row of subscription %s is refused', TG_OP, OLD.subscription_id) END,
        HINT = 'A held row is rated once and a rated row is billed once; anything else is a new row with its own rating run.';
END $$;

COMMENT ON FUNCTION protect_rated_usage IS 'Trigger: refuses what would change rated usage, but for being rated once and billed once (TS003).';

-- A net below the code, on which nothing depends: scaling out drops these, as a distributed table has no triggers. What is
-- allowed is decided by WHEN, without a call, so that billing a month costs nothing here. The columns are listed as: what was
-- used, what it is worth, what bills it.
CREATE TRIGGER protect_rated_usage BEFORE UPDATE ON rated_usage
    FOR EACH ROW WHEN (
        (NEW.subscription_id, NEW.hour, NEW.model_id, NEW.tool_name, NEW.feature_type, NEW.power_level, NEW.byok, NEW.status_class,
         NEW.rating_run_id, NEW.user_id, NEW.billing_mode, NEW.requests, NEW.errors, NEW.request_tokens, NEW.response_tokens,
         NEW.cached_tokens, NEW.tokens_returned, NEW.first_event_at, NEW.last_event_at)
        IS DISTINCT FROM
        (OLD.subscription_id, OLD.hour, OLD.model_id, OLD.tool_name, OLD.feature_type, OLD.power_level, OLD.byok, OLD.status_class,
         OLD.rating_run_id, OLD.user_id, OLD.billing_mode, OLD.requests, OLD.errors, OLD.request_tokens, OLD.response_tokens,
         OLD.cached_tokens, OLD.tokens_returned, OLD.first_event_at, OLD.last_event_at)
        OR (OLD.amount IS NOT NULL
            AND (NEW.price_id, NEW.multiplier, NEW.currency, NEW.amount, NEW.cost_amount, NEW.rated_at)
                IS DISTINCT FROM (OLD.price_id, OLD.multiplier, OLD.currency, OLD.amount, OLD.cost_amount, OLD.rated_at))
        OR (num_nonnulls(OLD.settlement_id, OLD.invoice_line_id) > 0
            AND (NEW.settlement_id, NEW.invoice_line_id) IS DISTINCT FROM (OLD.settlement_id, OLD.invoice_line_id)))
    EXECUTE FUNCTION protect_rated_usage();
CREATE TRIGGER keep_rated_usage BEFORE DELETE ON rated_usage
    FOR EACH ROW EXECUTE FUNCTION protect_rated_usage();
CREATE TRIGGER keep_all_rated_usage BEFORE TRUNCATE ON rated_usage
    FOR EACH STATEMENT EXECUTE FUNCTION protect_rated_usage();

-- ---------------------------------------------------------------------------------------------------------------------
-- Invoices
-- ---------------------------------------------------------------------------------------------------------------------

-- to_char of a UTC wall clock with this pattern depends on no setting, so the promise of IMMUTABLE is true.
CREATE FUNCTION invoice_period(kind text, period_start timestamptz, period_end timestamptz) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_build_object(
        'type', kind,
        'startDate', to_char(period_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        'endDate', to_char(period_end AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
$$;

COMMENT ON FUNCTION invoice_period IS 'A period as the JSON that invoices.period shows; endDate is not part of it.';

CREATE TABLE invoices (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    entity        text        NOT NULL DEFAULT 'default' CHECK (entity <> ''),
    kind          text        NOT NULL DEFAULT 'usage' CHECK (kind IN ('usage', 'purchase', 'credit_note')),
    corrects_invoice_id uuid  REFERENCES invoices (id) ON DELETE RESTRICT,
    number        text        UNIQUE,
    status        text        NOT NULL DEFAULT 'draft'
                  CHECK (status IN ('draft', 'sent', 'partially_paid', 'paid', 'overdue', 'cancelled')),
    period_type   text        NOT NULL DEFAULT 'monthly' CHECK (period_type IN ('monthly', 'yearly', 'custom')),
    period_start  timestamptz NOT NULL,
    period_end    timestamptz NOT NULL,
    period        jsonb       GENERATED ALWAYS AS (invoice_period(period_type, period_start, period_end)) STORED,
    items         jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(items) = 'array'),
    exact_subtotal numeric    NOT NULL DEFAULT 0,
    subtotal      numeric     NOT NULL DEFAULT 0,
    tax_rate      numeric     NOT NULL DEFAULT 0 CHECK (tax_rate BETWEEN 0 AND 1),
    tax           numeric     NOT NULL DEFAULT 0,
    total         numeric     NOT NULL DEFAULT 0,
    currency      varchar(3)  NOT NULL DEFAULT 'EUR' CHECK (currency ~ '^[A-Z]{3}$'),
    issue_date    timestamptz,
    due_date      timestamptz,
    paid_date     timestamptz,
    metadata      jsonb       NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (id, currency),
    CONSTRAINT period_is_half_open CHECK (period_start < period_end),
    CONSTRAINT total_adds_up CHECK (total = subtotal + tax AND abs(total) < 'Infinity'),
    CONSTRAINT amounts_are_whole_minor_units CHECK
        (subtotal = round(subtotal, minor_units(currency)) AND tax = round(tax, minor_units(currency))),
    CONSTRAINT credit_note_gives_back CHECK (CASE kind WHEN 'credit_note' THEN total <= 0 AND corrects_invoice_id IS NOT NULL ELSE total >= 0 END),
    CONSTRAINT draft_is_not_issued CHECK (status <> 'draft' OR issue_date IS NULL),
    CONSTRAINT issued_has_number_and_dates CHECK (num_nonnulls(number, issue_date, due_date) IN (0, 3)),
    CONSTRAINT only_draft_or_cancelled_without_number CHECK (number IS NOT NULL OR status IN ('draft', 'cancelled')),
    CONSTRAINT due_after_issue CHECK (due_date >= issue_date),
    CONSTRAINT paid_has_date CHECK ((status = 'paid') = (paid_date IS NOT NULL))
);

-- No double invoicing, whatever is retried.
CREATE UNIQUE INDEX one_usage_invoice_per_period ON invoices (user_id, currency, period_start, period_end) WHERE kind = 'usage';
CREATE INDEX idx_invoices_user_id ON invoices (user_id, created_at DESC);  -- a tenant's invoices, newest first
CREATE INDEX idx_invoices_status ON invoices (status, due_date);           -- drafts to issue, sent ones that became overdue
CREATE INDEX idx_invoices_corrects ON invoices (corrects_invoice_id) WHERE corrects_invoice_id IS NOT NULL;

COMMENT ON TABLE  invoices IS 'Invoices and credit notes: drafted, given their lines, then issued; from then on only status and payment change.';
COMMENT ON COLUMN invoices.entity IS 'The legal entity that issues it.';
COMMENT ON COLUMN invoices.kind IS 'usage: closes a billing period; purchase: credit packages; credit_note: takes back (total at most 0), names what it corrects.';
COMMENT ON COLUMN invoices.number IS 'Gapless per entity and year (take_invoice_number); NULL until issued.';
COMMENT ON COLUMN invoices.period IS 'The period as JSON, derived: type, startDate, endDate (not included).';
COMMENT ON COLUMN invoices.items IS 'The lines as JSON: id, description, quantity, unitPrice, amount, type, metadata. invoice_lines has them with their provenance.';
COMMENT ON COLUMN invoices.exact_subtotal IS 'Sum of the exact amounts of its lines, before rounding.';
COMMENT ON COLUMN invoices.subtotal IS 'Sum of the rounded lines, net of tax; checked when it is issued.';
COMMENT ON COLUMN invoices.tax_rate IS 'Between 0 and 1.';
COMMENT ON COLUMN invoices.issue_date IS 'When it was issued; NULL for a draft.';

CREATE TRIGGER update_invoices_updated_at BEFORE UPDATE ON invoices
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE invoice_lines (
    id              uuid    PRIMARY KEY DEFAULT gen_random_uuid(),
    invoice_id      uuid    NOT NULL,
    position        integer NOT NULL CHECK (position > 0),
    kind            text    NOT NULL DEFAULT 'usage'
                    CHECK (kind IN ('usage', 'fee', 'minimum', 'discount', 'credit', 'adjustment', 'proration', 'package')),
    description     text    NOT NULL,
    subscription_id uuid    REFERENCES subscriptions (id) ON DELETE RESTRICT,
    dimensions      jsonb   NOT NULL DEFAULT '{}',
    quantity        numeric NOT NULL,
    unit            text    NOT NULL,
    price_id        uuid    REFERENCES model_prices (id) ON DELETE RESTRICT,
    exact_amount    numeric NOT NULL,
    amount          numeric NOT NULL,
    currency        varchar(3) NOT NULL,
    event_count     bigint  NOT NULL DEFAULT 0 CHECK (event_count >= 0),
    first_event_at  timestamptz,
    last_event_at   timestamptz,
    checksum        text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (invoice_id, position),
    CONSTRAINT line_has_the_invoice_currency FOREIGN KEY (invoice_id, currency) REFERENCES invoices (id, currency) ON DELETE RESTRICT,
    CONSTRAINT amount_is_whole_minor_units CHECK (amount = round(amount, minor_units(currency))),
    CONSTRAINT rounded_by_less_than_one_unit CHECK (abs(amount - exact_amount) < power(10::numeric, -minor_units(currency))),
    CHECK (last_event_at >= first_event_at)
);

CREATE INDEX idx_invoice_lines_subscription ON invoice_lines (subscription_id) WHERE subscription_id IS NOT NULL;
CREATE INDEX idx_invoice_lines_price ON invoice_lines (price_id) WHERE price_id IS NOT NULL;  -- what a price change concerns

COMMENT ON TABLE  invoice_lines IS 'The lines of an invoice, each with what ties it to events. Fixed once the invoice is issued.';
COMMENT ON COLUMN invoice_lines.dimensions IS 'What the line sums: model_id, tool_name, feature_type, power_level, byok, …';
COMMENT ON COLUMN invoice_lines.exact_amount IS 'Before rounding; amount is it in whole minor units, residuals placed by largest remainder.';
COMMENT ON COLUMN invoice_lines.currency IS 'The currency of its invoice; filled in where it is not given.';
COMMENT ON COLUMN invoice_lines.checksum IS 'Digest of the rated usage behind the line, to recognise a change by.';

CREATE FUNCTION protect_issued_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- `period` is generated, and not yet so in a BEFORE trigger.
    mutable text[] := ARRAY['status', 'paid_date', 'metadata', 'updated_at', 'period'];
    lines   numeric;
BEGIN
    IF OLD.number IS NULL THEN
        IF TG_OP = 'UPDATE' AND NEW.number IS NOT NULL THEN
            SELECT coalesce(sum(amount), 0) INTO lines FROM invoice_lines WHERE invoice_id = NEW.id;
            IF lines <> NEW.subtotal THEN
                RAISE EXCEPTION USING ERRCODE = 'TS004',
                    MESSAGE = format('invoice %s cannot be issued: its lines sum to %s, its subtotal is %s', NEW.id, lines, NEW.subtotal);
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

COMMENT ON FUNCTION protect_issued_invoice IS 'Trigger: an invoice is issued only if its lines sum to its subtotal, and its content is fixed from then on.';

CREATE TRIGGER protect_issued_invoices BEFORE UPDATE OR DELETE ON invoices
    FOR EACH ROW EXECUTE FUNCTION protect_issued_invoice();

CREATE FUNCTION protect_invoice_line() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    invoice invoices;
BEGIN
    -- FOR SHARE: else a line could slip in between the summing of the lines and the commit of who issues the invoice.
    SELECT * INTO invoice FROM invoices WHERE id = CASE TG_OP WHEN 'INSERT' THEN NEW.invoice_id ELSE OLD.invoice_id END FOR SHARE;
    IF invoice.number IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003',
            MESSAGE = format('invoice %s is issued: %s of a line is refused', invoice.number, TG_OP),
            HINT = 'Write the lines while it is a draft; correct it later with a credit note or an adjustment.';
    END IF;
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT FROM rated_usage WHERE invoice_line_id = OLD.id) THEN
            RAISE EXCEPTION USING ERRCODE = 'TS012',
                MESSAGE = format('line %s of invoice %s bills usage and cannot be deleted', OLD.position, OLD.invoice_id);
        END IF;
        RETURN OLD;
    ELSIF TG_OP = 'INSERT' THEN
        NEW.currency := coalesce(NEW.currency, invoice.currency);
    ELSIF NEW.invoice_id <> OLD.invoice_id THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003', MESSAGE = 'a line stays with its invoice';
    END IF;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION protect_invoice_line IS 'Trigger: lines are written to drafts only, and stay once usage points to them.';

CREATE TRIGGER protect_invoice_lines BEFORE INSERT OR UPDATE OR DELETE ON invoice_lines
    FOR EACH ROW EXECUTE FUNCTION protect_invoice_line();

CREATE TABLE invoice_numbers (
    entity text    NOT NULL,
    series text    NOT NULL DEFAULT 'INV',
    year   integer NOT NULL CHECK (year BETWEEN 2000 AND 9999),
    next   bigint  NOT NULL DEFAULT 1 CHECK (next > 0),
    PRIMARY KEY (entity, series, year)
);

COMMENT ON TABLE  invoice_numbers IS 'The next number of each entity, series and year. A row, not a sequence: it is locked until the issuing transaction ends, so no number is lost.';
COMMENT ON COLUMN invoice_numbers.series IS 'INV for invoices, CN for credit notes.';

CREATE FUNCTION take_invoice_number(p_entity text, p_year integer, p_series text DEFAULT 'INV') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    INSERT INTO invoice_numbers AS n (entity, series, year, next) VALUES (p_entity, p_series, p_year, 2)
    ON CONFLICT (entity, series, year) DO UPDATE SET next = n.next + 1
    RETURNING n.next - 1 INTO taken;
    RETURN concat_ws('-', nullif(p_entity, 'default'), p_series, p_year, lpad(taken::text, greatest(6, length(taken::text)), '0'));
END $$;

COMMENT ON FUNCTION take_invoice_number IS 'Takes the next number, e.g. INV-2026-000001. Gapless: it is given back if the transaction rolls back; others wait for it.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Payments
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE credit_packages (
    id                  uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name                text        NOT NULL UNIQUE,
    description         text,
    credits             numeric     NOT NULL CHECK (credits > 0),
    price               numeric     NOT NULL CHECK (price >= 0),
    currency            varchar(3)  NOT NULL DEFAULT 'USD' CHECK (currency ~ '^[A-Z]{3}$'),
    discount_percentage numeric     NOT NULL DEFAULT 0 CHECK (discount_percentage BETWEEN 0 AND 100),
    min_tier            text        CHECK (min_tier IN ('trial', 'free', 'starter', 'professional', 'enterprise')),
    is_active           boolean     NOT NULL DEFAULT true,
    is_featured         boolean     NOT NULL DEFAULT false,
    sort_order          integer     NOT NULL DEFAULT 0,
    badge_text          text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT price_is_whole_minor_units CHECK (price = round(price, minor_units(currency)))
);

CREATE TRIGGER trigger_credit_packages_updated_at BEFORE UPDATE ON credit_packages
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE  credit_packages IS 'Packages of prepaid credits for sale.';
COMMENT ON COLUMN credit_packages.discount_percentage IS 'To show: what the package saves against the smallest one.';
COMMENT ON COLUMN credit_packages.min_tier IS 'The lowest tier that may buy it; NULL: everybody.';

CREATE TABLE payment_methods (
    id                 uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id            uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    type               text        NOT NULL CHECK (type IN ('card', 'bank_account', 'sepa')),
    provider           text        NOT NULL CHECK (provider IN ('stripe', 'paypal', 'wise', 'manual')),
    is_default         boolean     NOT NULL DEFAULT false,
    provider_method_id text        NOT NULL,
    last_four          varchar(4),
    expiry_month       integer     CHECK (expiry_month BETWEEN 1 AND 12),
    expiry_year        integer     CHECK (expiry_year BETWEEN 2000 AND 9999),
    brand              text,
    metadata           jsonb       NOT NULL DEFAULT '{}',
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, provider, provider_method_id)
);

CREATE UNIQUE INDEX one_default_payment_method ON payment_methods (user_id) WHERE is_default;

CREATE TRIGGER update_payment_methods_updated_at BEFORE UPDATE ON payment_methods
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE  payment_methods IS 'How users pay; at most one is the default. Card numbers stay with the provider.';
COMMENT ON COLUMN payment_methods.provider_method_id IS 'What the provider calls it.';

CREATE TABLE payments (
    id                      uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    invoice_id              uuid,
    package_id              uuid        REFERENCES credit_packages (id) ON DELETE RESTRICT,
    user_id                 uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    amount                  numeric     NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    currency                varchar(3)  NOT NULL DEFAULT 'EUR' CHECK (currency ~ '^[A-Z]{3}$'),
    status                  text        NOT NULL DEFAULT 'pending'
                            CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'refunded')),
    method_id               uuid        REFERENCES payment_methods (id) ON DELETE RESTRICT,
    provider                text        NOT NULL CHECK (provider IN ('stripe', 'paypal', 'wise', 'manual')),
    provider_transaction_id text,
    idempotency_key         text        UNIQUE,
    failure_reason          text,
    refunded_amount         numeric     NOT NULL DEFAULT 0,
    processed_at            timestamptz,
    metadata                jsonb       NOT NULL DEFAULT '{}',
    created_at              timestamptz NOT NULL DEFAULT now(),
    UNIQUE (provider, provider_transaction_id),
    CONSTRAINT payment_has_the_invoice_currency FOREIGN KEY (invoice_id, currency) REFERENCES invoices (id, currency) ON DELETE RESTRICT,
    CONSTRAINT refund_within_payment CHECK (refunded_amount BETWEEN 0 AND amount),
    CONSTRAINT refunded_is_whole CHECK (status <> 'refunded' OR refunded_amount = amount),
    CONSTRAINT refund_of_completed CHECK (refunded_amount = 0 OR status IN ('completed', 'refunded')),
    CONSTRAINT failure_has_reason CHECK (status <> 'failed' OR failure_reason IS NOT NULL),
    CONSTRAINT amounts_are_whole_minor_units CHECK
        (amount = round(amount, minor_units(currency)) AND refunded_amount = round(refunded_amount, minor_units(currency)))
);

CREATE INDEX idx_payments_invoice_id ON payments (invoice_id);
CREATE INDEX idx_payments_user_id ON payments (user_id, created_at DESC);
CREATE INDEX idx_payments_open ON payments (status, created_at) WHERE status IN ('pending', 'processing', 'failed');  -- dunning

COMMENT ON TABLE  payments IS 'Attempts to pay an invoice or a credit package.';
COMMENT ON COLUMN payments.provider_transaction_id IS 'What the provider calls it; unique, so that a webhook that comes twice does nothing the second time.';
COMMENT ON COLUMN payments.idempotency_key IS 'Key that was sent to the provider with the attempt.';

CREATE TABLE billing_history (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id     uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    amount      numeric     NOT NULL,
    currency    varchar(3)  NOT NULL DEFAULT 'USD' CHECK (currency ~ '^[A-Z]{3}$'),
    status      text        NOT NULL,
    description text,
    invoice_id  uuid        REFERENCES invoices (id) ON DELETE RESTRICT,
    payment_id  uuid        REFERENCES payments (id) ON DELETE RESTRICT,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT amount_is_not_negative CHECK (amount >= 0 AND amount < 'Infinity'),  -- zero invoices exist
    CONSTRAINT valid_status CHECK (status IN ('pending', 'completed', 'failed', 'refunded'))
);

CREATE INDEX idx_billing_history_user_id ON billing_history (user_id, created_at DESC);
CREATE INDEX idx_billing_history_status ON billing_history (status, created_at);

COMMENT ON TABLE billing_history IS 'What was charged and given back, as the customer is told it.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Prepaid credits
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE user_credits (
    id                      uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id                 uuid        NOT NULL UNIQUE REFERENCES users (id) ON DELETE RESTRICT,
    balance                 numeric     NOT NULL DEFAULT 0 CONSTRAINT balance_is_never_negative CHECK (balance >= 0),
    owed                    numeric     NOT NULL DEFAULT 0 CHECK (owed >= 0),
    ledger_sequence         bigint      NOT NULL DEFAULT 0 CHECK (ledger_sequence >= 0),
    tier                    text        NOT NULL DEFAULT 'free'
                            CHECK (tier IN ('trial', 'free', 'starter', 'professional', 'enterprise')),
    power_level             text        NOT NULL DEFAULT 'balanced' REFERENCES power_level_configs (power_level),
    monthly_allowance       numeric     NOT NULL DEFAULT 0 CHECK (monthly_allowance >= 0),
    credits_used_this_month numeric     NOT NULL DEFAULT 0 CHECK (credits_used_this_month >= 0),
    billing_cycle_start     timestamptz NOT NULL DEFAULT date_trunc('month', now(), 'UTC'),
    billing_cycle_end       timestamptz NOT NULL DEFAULT ((date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC'),
    auto_renew              boolean     NOT NULL DEFAULT false,
    auto_topup_threshold    numeric     CHECK (auto_topup_threshold >= 0),
    auto_topup_package_id   uuid        REFERENCES credit_packages (id) ON DELETE RESTRICT,
    low_balance_threshold   numeric     CHECK (low_balance_threshold >= 0),
    stripe_customer_id      text        UNIQUE,
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT cycle_is_half_open CHECK (billing_cycle_start < billing_cycle_end)
) WITH (fillfactor = 70);  -- room for HOT updates of the balance, which no index contains

CREATE INDEX idx_user_credits_tier ON user_credits (tier);

CREATE TRIGGER trigger_user_credits_updated_at BEFORE UPDATE ON user_credits
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE  user_credits IS 'Prepaid credits of a user: the balance that the ledger sums to, and how it is refilled. Its row lock orders all postings of the user.';
COMMENT ON COLUMN user_credits.balance IS 'In credits. Follows from credit_transactions; changed by the credit functions only.';
COMMENT ON COLUMN user_credits.owed IS 'Usage that the balance did not cover, in credits. The next credits pay it first, so balance and owed are never both above zero.';
COMMENT ON COLUMN user_credits.ledger_sequence IS 'Number of the last entry in the ledger.';
COMMENT ON COLUMN user_credits.tier IS 'Both spellings of the first tier are kept: trial and free.';
COMMENT ON COLUMN user_credits.monthly_allowance IS 'Credits that each billing cycle includes.';
COMMENT ON COLUMN user_credits.credits_used_this_month IS 'Credits used in [billing_cycle_start, billing_cycle_end), paid or owed.';
COMMENT ON COLUMN user_credits.auto_renew IS 'Whether the allowance is granted anew each cycle.';
COMMENT ON COLUMN user_credits.auto_topup_threshold IS 'Below this balance auto_topup_package_id is bought; NULL: never.';
COMMENT ON COLUMN user_credits.low_balance_threshold IS 'Below this balance the user is alerted; NULL: never.';

CREATE TABLE credit_transactions (
    id                       uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id                  uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    sequence                 bigint      NOT NULL CHECK (sequence > 0),
    previous_sequence        bigint,
    transaction_type         text        NOT NULL,
    amount                   numeric     NOT NULL,
    balance_before           numeric     NOT NULL,
    balance_after            numeric     NOT NULL CHECK (balance_after >= 0),
    owed_change              numeric     NOT NULL DEFAULT 0,
    owed_after               numeric     NOT NULL DEFAULT 0 CHECK (owed_after >= 0),
    description              text,
    provider                 text,
    model                    text,
    prompt_tokens            bigint,
    completion_tokens        bigint,
    power_level              text,
    request_id               text,
    payment_method           text,
    stripe_transaction_id    text,
    stripe_payment_intent_id text,
    stripe_charge_id         text,
    package_id               uuid        REFERENCES credit_packages (id) ON DELETE RESTRICT,
    invoice_id               uuid        REFERENCES invoices (id) ON DELETE RESTRICT,
    payment_id               uuid        REFERENCES payments (id) ON DELETE RESTRICT,
    idempotency_key          text        CHECK (idempotency_key <> ''),
    request                  jsonb       NOT NULL DEFAULT '{}',
    metadata                 jsonb       NOT NULL DEFAULT '{}',
    created_at               timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (user_id, idempotency_key),
    UNIQUE (user_id, sequence, balance_after),
    UNIQUE (user_id, sequence),
    CONSTRAINT valid_type CHECK (transaction_type IN
        ('purchase', 'usage', 'debit', 'refund', 'bonus', 'adjustment', 'admin_adjustment', 'allowance', 'expiry', 'owed_settlement')),
    CONSTRAINT sign_fits_type CHECK (CASE
        WHEN transaction_type IN ('purchase', 'bonus', 'allowance') THEN amount > 0
        WHEN transaction_type IN ('usage', 'debit') THEN amount <= 0 AND owed_change >= 0
        WHEN transaction_type = 'expiry' THEN amount < 0
        WHEN transaction_type = 'owed_settlement' THEN amount < 0 AND owed_change = amount
        ELSE amount <> 0 END),
    CONSTRAINT posts_something CHECK (amount <> 0 OR owed_change <> 0),
    CONSTRAINT owes_only_by_usage CHECK (owed_change = 0 OR transaction_type IN ('usage', 'debit', 'owed_settlement')),
    CONSTRAINT balance_adds_up CHECK (balance_before + amount = balance_after),
    -- The chain: an entry begins where the one before it ended. Declared, so that no code can break it.
    CONSTRAINT previous_is_one_less CHECK (previous_sequence IS NOT DISTINCT FROM nullif(sequence - 1, 0)),
    CONSTRAINT chain_starts_at_zero CHECK (sequence > 1 OR balance_before = 0),
    CONSTRAINT balance_is_chained FOREIGN KEY (user_id, previous_sequence, balance_before)
        REFERENCES credit_transactions (user_id, sequence, balance_after)
);

CREATE INDEX idx_credit_transactions_user_date ON credit_transactions (user_id, created_at DESC);  -- a tenant's history
CREATE INDEX idx_credit_transactions_type ON credit_transactions (transaction_type, created_at);   -- what was sold, what was given
CREATE INDEX idx_credit_transactions_stripe ON credit_transactions (stripe_payment_intent_id) WHERE stripe_payment_intent_id IS NOT NULL;
CREATE INDEX idx_credit_transactions_invoice ON credit_transactions (invoice_id) WHERE invoice_id IS NOT NULL;
CREATE INDEX idx_credit_transactions_payment ON credit_transactions (payment_id) WHERE payment_id IS NOT NULL;

CREATE TRIGGER credit_transactions_append_only BEFORE UPDATE OR DELETE ON credit_transactions
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_transactions_no_truncate BEFORE TRUNCATE ON credit_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

COMMENT ON TABLE  credit_transactions IS 'The ledger of prepaid credits: append-only, numbered and chained per user. A correction is a new entry.';
COMMENT ON COLUMN credit_transactions.sequence IS 'Number of the entry within the user''s ledger, without gaps.';
COMMENT ON COLUMN credit_transactions.transaction_type IS 'Both spellings are kept: usage and debit, admin_adjustment and adjustment. owed_settlement: new credits that pay what was owed.';
COMMENT ON COLUMN credit_transactions.amount IS 'Credits: positive adds, negative takes.';
COMMENT ON COLUMN credit_transactions.owed_change IS 'Usage beyond the balance that this entry books as owed (positive) or pays (negative), in credits.';
COMMENT ON COLUMN credit_transactions.idempotency_key IS 'A repeated call with this key returns this entry.';
COMMENT ON COLUMN credit_transactions.request IS 'The parameters of the call: the same key with others is an error.';

CREATE FUNCTION check_credit_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    account user_credits;
    entry   credit_transactions;
BEGIN
    SELECT * INTO account FROM user_credits WHERE user_id = NEW.user_id;
    SELECT * INTO entry FROM credit_transactions WHERE user_id = NEW.user_id ORDER BY sequence DESC LIMIT 1;
    IF (account.balance, account.owed, account.ledger_sequence)
        IS DISTINCT FROM (coalesce(entry.balance_after, 0), coalesce(entry.owed_after, 0), coalesce(entry.sequence, 0))
        OR (account.balance > 0 AND account.owed > 0) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003',
            MESSAGE = format('credits of user %s: the account says %s (owed %s), the ledger %s (owed %s)',
                             NEW.user_id, account.balance, account.owed, coalesce(entry.balance_after, 0), coalesce(entry.owed_after, 0)),
            HINT = 'Change credits through add_user_credits, debit_user_credits and settle_user_credits only.';
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION check_credit_balance IS 'Constraint trigger, at commit: the account is what the ledger sums to, and nothing is owed while there is a balance.';

CREATE CONSTRAINT TRIGGER user_credits_follow_ledger AFTER INSERT OR UPDATE OF balance, owed, ledger_sequence ON user_credits
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_credit_balance();
CREATE CONSTRAINT TRIGGER ledger_is_followed AFTER INSERT ON credit_transactions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_credit_balance();

-- Takes the row of a user's account for this transaction, making it if it is the first time, and begins the billing cycle
-- that is due. The lock orders all postings of a user: two debits at once cannot both see the same balance.
CREATE FUNCTION lock_credit_account(p_user uuid) RETURNS user_credits LANGUAGE plpgsql AS $$
DECLARE
    account user_credits;
    months  integer;
BEGIN
    SELECT * INTO account FROM user_credits WHERE user_id = p_user FOR UPDATE;
    IF NOT FOUND THEN
        IF NOT EXISTS (SELECT FROM users WHERE id = p_user) THEN
            RAISE EXCEPTION USING ERRCODE = 'TS005', MESSAGE = format('there is no user %s', p_user);
        END IF;
        INSERT INTO user_credits (user_id) VALUES (p_user) ON CONFLICT (user_id) DO NOTHING;
        SELECT * INTO account FROM user_credits WHERE user_id = p_user FOR UPDATE;
    END IF;
    IF account.billing_cycle_end <= now() THEN
        months := 1;
        WHILE (account.billing_cycle_end AT TIME ZONE 'UTC' + make_interval(months => months)) AT TIME ZONE 'UTC' <= now() LOOP
            months := months + 1;
        END LOOP;
        UPDATE user_credits SET
            billing_cycle_start = (account.billing_cycle_end AT TIME ZONE 'UTC' + make_interval(months => months - 1)) AT TIME ZONE 'UTC',
            billing_cycle_end = (account.billing_cycle_end AT TIME ZONE 'UTC' + make_interval(months => months)) AT TIME ZONE 'UTC',
            credits_used_this_month = 0
        WHERE user_id = p_user RETURNING * INTO account;
    END IF;
    RETURN account;
END $$;

COMMENT ON FUNCTION lock_credit_account IS 'Locks, and makes where it is missing, the credit account of a user. TS005 for an unknown user.';

CREATE FUNCTION replayed_credit_transaction(p_user uuid, p_key text, p_request jsonb) RETURNS credit_transactions LANGUAGE plpgsql STABLE AS $$
DECLARE
    entry credit_transactions;
BEGIN
    SELECT * INTO entry FROM credit_transactions WHERE user_id = p_user AND idempotency_key = p_key;
    IF FOUND AND entry.request <> p_request THEN
        RAISE EXCEPTION USING ERRCODE = 'TS002',
            MESSAGE = format('idempotency key %L was used for another request', p_key),
            DETAIL = format('first: %s, now: %s', entry.request, p_request),
            HINT = 'Repeat a call with the same parameters, or take a new key.';
    END IF;
    RETURN entry;
END $$;

COMMENT ON FUNCTION replayed_credit_transaction IS 'The entry that a key has made already, if any. TS002 where the parameters differ. Call it under the lock of the account.';

CREATE FUNCTION post_credit_transaction(entry credit_transactions) RETURNS credit_transactions LANGUAGE plpgsql AS $$
DECLARE
    account user_credits;
BEGIN
    SELECT * INTO account FROM user_credits WHERE user_id = entry.user_id;
    entry.id := coalesce(entry.id, gen_random_uuid());
    entry.sequence := account.ledger_sequence + 1;
    entry.previous_sequence := nullif(account.ledger_sequence, 0);
    entry.balance_before := account.balance;
    entry.balance_after := account.balance + entry.amount;
    entry.owed_change := coalesce(entry.owed_change, 0);
    entry.owed_after := account.owed + entry.owed_change;
    entry.request := coalesce(entry.request, '{}');
    entry.metadata := coalesce(entry.metadata, '{}');
    entry.created_at := clock_timestamp();  -- not now(): entries of one user are then in the order of their numbers
    INSERT INTO credit_transactions VALUES (entry.*);
    UPDATE user_credits SET
        balance = entry.balance_after, owed = entry.owed_after, ledger_sequence = entry.sequence,
        credits_used_this_month = credits_used_this_month
            + CASE WHEN entry.transaction_type IN ('usage', 'debit') THEN entry.owed_change - entry.amount ELSE 0 END
    WHERE user_id = entry.user_id;
    RETURN entry;
END $$;

COMMENT ON FUNCTION post_credit_transaction IS 'Appends an entry to the ledger and moves the account. Call it under the lock of the account.';

-- Always in the order of ids, as every service that locks several subscriptions does.
CREATE FUNCTION suspend_exhausted_subscriptions(p_user uuid) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    subscription uuid;
    changed      integer := 0;
BEGIN
    FOR subscription IN
        SELECT s.id FROM subscriptions s
        WHERE s.user_id = p_user AND s.billing_mode = 'prepaid' AND s.status IN ('active', 'trialing', 'suspended')
        ORDER BY s.id
    LOOP
        changed := changed + suspend_subscription(subscription, 'credits_exhausted')::integer;
    END LOOP;
    RETURN changed;
END $$;

COMMENT ON FUNCTION suspend_exhausted_subscriptions IS 'Suspends the prepaid subscriptions of a user whose credits are used up. Returns how many changed.';

CREATE FUNCTION clear_exhausted_subscriptions(p_user uuid) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    subscription uuid;
    changed      integer := 0;
BEGIN
    FOR subscription IN
        SELECT s.id FROM subscriptions s
        WHERE s.user_id = p_user AND 'credits_exhausted' = ANY (s.suspended_reasons)
        ORDER BY s.id
    LOOP
        changed := changed + clear_suspension(subscription, 'credits_exhausted')::integer;
    END LOOP;
    RETURN changed;
END $$;

COMMENT ON FUNCTION clear_exhausted_subscriptions IS 'Lifts credits_exhausted from the subscriptions of a user who has credits again. Returns how many changed.';

CREATE FUNCTION debit_user_credits(
    user_id           uuid,
    amount            numeric,
    transaction_type  text    DEFAULT 'usage',
    request_id        text    DEFAULT NULL,
    description       text    DEFAULT NULL,
    idempotency_key   text    DEFAULT NULL,
    provider          text    DEFAULT NULL,
    model             text    DEFAULT NULL,
    prompt_tokens     bigint  DEFAULT NULL,
    completion_tokens bigint  DEFAULT NULL,
    power_level       text    DEFAULT NULL,
    metadata          jsonb   DEFAULT '{}'
) RETURNS TABLE (success boolean, new_balance numeric, transaction_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    asked   jsonb := jsonb_build_object('call', 'debit', 'amount', amount, 'type', transaction_type, 'request_id', request_id,
                         'description', description, 'provider', provider, 'model', model, 'prompt_tokens', prompt_tokens,
                         'completion_tokens', completion_tokens, 'power_level', power_level, 'metadata', metadata);
    account user_credits;
    entry   credit_transactions;
BEGIN
    IF amount IS NULL OR amount <= 0 OR amount >= 1e15 THEN  -- NaN and Infinity are above every number
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('a debit must be a number above zero, not %s', coalesce(amount::text, 'null'));
    ELSIF transaction_type NOT IN ('usage', 'debit', 'expiry', 'adjustment', 'admin_adjustment') THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('%L is not a type of debit', transaction_type),
            HINT = 'Types are usage, debit, expiry, adjustment and admin_adjustment.';
    END IF;
    account := lock_credit_account(user_id);
    entry := replayed_credit_transaction(user_id, idempotency_key, asked);
    IF entry.id IS NULL THEN
        IF account.balance < amount THEN
            RAISE EXCEPTION USING ERRCODE = 'TS001',
                MESSAGE = format('insufficient credits: %s needed, %s available, %s missing', amount, account.balance, amount - account.balance),
                DETAIL = jsonb_build_object('needed', amount, 'available', account.balance, 'missing', amount - account.balance, 'owed', account.owed)::text,
                HINT = 'Buy a credit package, or wait for the next allowance.';
        END IF;
        entry.user_id := user_id;
        entry.transaction_type := transaction_type;
        entry.amount := -amount;
        entry.request_id := request_id;
        entry.description := description;
        entry.idempotency_key := idempotency_key;
        entry.provider := provider;
        entry.model := model;
        entry.prompt_tokens := prompt_tokens;
        entry.completion_tokens := completion_tokens;
        entry.power_level := power_level;
        entry.metadata := metadata;
        entry.request := asked;
        entry := post_credit_transaction(entry);
        IF entry.balance_after = 0 AND transaction_type IN ('usage', 'debit') THEN
            PERFORM suspend_exhausted_subscriptions(user_id);
        END IF;
    END IF;
    RETURN QUERY SELECT true, entry.balance_after, entry.id;
END $$;

COMMENT ON FUNCTION debit_user_credits(uuid, numeric, text, text, text, text, text, text, bigint, bigint, text, jsonb) IS
    'Takes credits, all or none: TS001 says how much is missing. Idempotent by key (TS002 for the same key with other parameters).';

-- The other document's order of arguments for the same function.
CREATE FUNCTION debit_user_credits(
    user_id uuid, cost numeric, provider text, model text, prompt_tokens integer, completion_tokens integer, power_level text, metadata jsonb
) RETURNS TABLE (success boolean, new_balance numeric, transaction_id uuid) LANGUAGE sql AS $$
    SELECT * FROM debit_user_credits(
        user_id => $1, amount => $2, provider => $3, model => $4, prompt_tokens => $5::bigint, completion_tokens => $6::bigint,
        power_level => $7, metadata => $8, idempotency_key => $8 ->> 'idempotency_key')
$$;

COMMENT ON FUNCTION debit_user_credits(uuid, numeric, text, text, integer, integer, text, jsonb) IS
    'debit_user_credits with the arguments of a gateway''s call; the idempotency key may be given as metadata.idempotency_key.';

CREATE FUNCTION add_user_credits(
    user_id                  uuid,
    amount                   numeric,
    transaction_type         text  DEFAULT 'purchase',
    stripe_transaction_id    text  DEFAULT NULL,
    description              text  DEFAULT NULL,
    idempotency_key          text  DEFAULT NULL,
    payment_method           text  DEFAULT NULL,
    package_id               uuid  DEFAULT NULL,
    payment_id               uuid  DEFAULT NULL,
    invoice_id               uuid  DEFAULT NULL,
    stripe_payment_intent_id text  DEFAULT NULL,
    stripe_charge_id         text  DEFAULT NULL,
    metadata                 jsonb DEFAULT '{}'
) RETURNS TABLE (success boolean, new_balance numeric, transaction_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    asked   jsonb := jsonb_build_object('call', 'add', 'amount', amount, 'type', transaction_type, 'description', description,
                         'stripe_transaction_id', stripe_transaction_id, 'payment_method', payment_method, 'package_id', package_id,
                         'payment_id', payment_id, 'invoice_id', invoice_id, 'stripe_payment_intent_id', stripe_payment_intent_id,
                         'stripe_charge_id', stripe_charge_id, 'metadata', metadata);
    account user_credits;
    entry   credit_transactions;
    paid    credit_transactions;
BEGIN
    IF amount IS NULL OR amount = 0 OR abs(amount) >= 1e15 OR (amount < 0 AND transaction_type NOT IN ('refund', 'adjustment', 'admin_adjustment')) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004',
            MESSAGE = format('credits of type %s cannot be %s', transaction_type, coalesce(amount::text, 'null')),
            HINT = 'Only refund, adjustment and admin_adjustment may take credits back, and no amount may be zero or without limit.';
    ELSIF transaction_type NOT IN ('purchase', 'bonus', 'refund', 'allowance', 'adjustment', 'admin_adjustment') THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('%L is not a type of credit', transaction_type),
            HINT = 'Types are purchase, bonus, refund, allowance, adjustment and admin_adjustment.';
    END IF;
    account := lock_credit_account(user_id);
    entry := replayed_credit_transaction(user_id, idempotency_key, asked);
    IF entry.id IS NULL THEN
        IF account.balance + amount < 0 THEN
            RAISE EXCEPTION USING ERRCODE = 'TS001',
                MESSAGE = format('insufficient credits: %s to take back, %s available, %s missing', -amount, account.balance, -amount - account.balance),
                DETAIL = jsonb_build_object('needed', -amount, 'available', account.balance, 'missing', -amount - account.balance, 'owed', account.owed)::text,
                HINT = 'They are used already: take back what is left.';
        END IF;
        entry.user_id := user_id;
        entry.transaction_type := transaction_type;
        entry.amount := amount;
        entry.description := description;
        entry.idempotency_key := idempotency_key;
        entry.payment_method := payment_method;
        entry.stripe_transaction_id := stripe_transaction_id;
        entry.stripe_payment_intent_id := stripe_payment_intent_id;
        entry.stripe_charge_id := stripe_charge_id;
        entry.package_id := package_id;
        entry.payment_id := payment_id;
        entry.invoice_id := invoice_id;
        entry.metadata := metadata;
        entry.request := asked;
        entry := post_credit_transaction(entry);
        IF account.owed > 0 AND entry.balance_after > 0 THEN
            paid.user_id := user_id;
            paid.transaction_type := 'owed_settlement';
            paid.amount := -least(entry.balance_after, account.owed);
            paid.owed_change := paid.amount;
            paid.description := 'Pays usage that was owed';
            paid.metadata := jsonb_build_object('paid_by', entry.id);
            paid := post_credit_transaction(paid);
        END IF;
        IF amount > 0 AND coalesce(paid.balance_after, entry.balance_after) > 0 THEN
            PERFORM clear_exhausted_subscriptions(user_id);
        END IF;
    END IF;
    RETURN QUERY SELECT true,
        coalesce((SELECT t.balance_after FROM credit_transactions t
                  WHERE t.user_id = entry.user_id AND t.sequence = entry.sequence + 1 AND t.metadata ->> 'paid_by' = entry.id::text), entry.balance_after),
        entry.id;
END $$;

COMMENT ON FUNCTION add_user_credits IS
    'Adds credits, pays with them what is owed first, and reactivates what was suspended for credits_exhausted. A negative refund or adjustment takes back, never below zero (TS001). Idempotent by key.';

CREATE FUNCTION settle_user_credits(
    p_user uuid, p_amount numeric, p_key text, p_description text DEFAULT NULL, p_metadata jsonb DEFAULT '{}'
) RETURNS TABLE (debited numeric, owed_added numeric, transaction_id uuid, new_balance numeric, total_owed numeric) LANGUAGE plpgsql AS $$
DECLARE
    asked   jsonb := jsonb_build_object('call', 'settle', 'amount', p_amount);
    account user_credits;
    entry   credit_transactions;
BEGIN
    IF p_amount IS NULL OR p_amount < 0 OR p_amount >= 1e15 THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('usage cannot be settled for %s credits', coalesce(p_amount::text, 'null')),
            HINT = 'Give credits back with add_user_credits(…, ''adjustment'').';
    ELSIF coalesce(p_key, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'TS002', MESSAGE = 'a settlement needs an idempotency key';
    END IF;
    account := lock_credit_account(p_user);
    IF p_amount = 0 THEN
        RETURN QUERY SELECT 0::numeric, 0::numeric, NULL::uuid, account.balance, account.owed;
        RETURN;
    END IF;
    entry := replayed_credit_transaction(p_user, p_key, asked);
    IF entry.id IS NULL THEN
        entry.user_id := p_user;
        entry.transaction_type := 'usage';
        entry.amount := -least(account.balance, p_amount);
        entry.owed_change := p_amount + entry.amount;
        entry.description := p_description;
        entry.idempotency_key := p_key;
        entry.metadata := p_metadata;
        entry.request := asked;
        entry := post_credit_transaction(entry);
        IF entry.balance_after = 0 THEN
            PERFORM suspend_exhausted_subscriptions(p_user);
        END IF;
    END IF;
    RETURN QUERY SELECT -entry.amount, entry.owed_change, entry.id, entry.balance_after, entry.owed_after;
END $$;

COMMENT ON FUNCTION settle_user_credits IS
    'Debits usage that has happened already: as far as the balance goes, the rest is owed; suspends the prepaid subscriptions of the user when nothing is left. Idempotent by key. Settle users in the order of their ids where several are settled in one transaction.';

CREATE FUNCTION get_user_balance(user_id uuid) RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT c.balance FROM user_credits c WHERE c.user_id = $1), 0)
$$;

COMMENT ON FUNCTION get_user_balance IS 'Credits of a user; 0 for who never had any.';

CREATE FUNCTION get_quota_usage_percentage(user_id uuid) RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN c.billing_cycle_end <= now() THEN 0
                ELSE round(c.credits_used_this_month / c.monthly_allowance * 100, 2) END
    FROM user_credits c WHERE c.user_id = $1 AND c.monthly_allowance > 0
$$;

COMMENT ON FUNCTION get_quota_usage_percentage IS 'Per cent of the monthly allowance used in the present billing cycle; NULL without an allowance.';

CREATE TABLE credit_settlements (
    id               uuid        PRIMARY KEY,
    user_id          uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    window_start     timestamptz NOT NULL,
    window_end       timestamptz NOT NULL,
    rated_amount     numeric,
    currency         varchar(3)  CHECK (currency ~ '^[A-Z]{3}$'),
    credits_per_unit numeric     NOT NULL DEFAULT 1 CHECK (credits_per_unit > 0),
    amount           numeric     NOT NULL CHECK (amount >= 0),
    debited          numeric     NOT NULL CHECK (debited >= 0),
    owed             numeric     NOT NULL CHECK (owed >= 0),
    transaction_id   uuid        UNIQUE REFERENCES credit_transactions (id) ON DELETE RESTRICT,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT window_is_half_open CHECK (window_start < window_end),
    CONSTRAINT settled_whole CHECK (debited + owed = amount),
    CONSTRAINT credits_are_worth_the_usage CHECK (amount = rated_amount * credits_per_unit),
    CONSTRAINT debit_is_in_the_ledger CHECK ((transaction_id IS NULL) = (amount = 0))
);

CREATE INDEX idx_credit_settlements_user ON credit_settlements (user_id, window_start);

CREATE TRIGGER credit_settlements_append_only BEFORE UPDATE OR DELETE ON credit_settlements
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_settlements_no_truncate BEFORE TRUNCATE ON credit_settlements
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

COMMENT ON TABLE  credit_settlements IS 'One row for each user and settlement window: ties a ledger entry to the rated usage that it pays (rated_usage.settlement_id).';
COMMENT ON COLUMN credit_settlements.amount IS 'Credits: what was rated times credits_per_unit; debited from the balance, the rest owed.';
COMMENT ON COLUMN credit_settlements.rated_amount IS 'Sum of the rated usage behind it, in currency.';

CREATE TABLE credits (
    id             uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id        uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    amount         numeric     NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    remaining      numeric     NOT NULL,
    currency       varchar(3)  NOT NULL DEFAULT 'EUR' CHECK (currency ~ '^[A-Z]{3}$'),
    reason         text        NOT NULL,
    type           text        NOT NULL CHECK (type IN ('promotional', 'refund', 'compensation', 'adjustment')),
    priority       integer     NOT NULL DEFAULT 100,
    expires_at     timestamptz,
    used_at        timestamptz,
    invoice_id     uuid        REFERENCES invoices (id) ON DELETE RESTRICT,
    transaction_id uuid        REFERENCES credit_transactions (id) ON DELETE RESTRICT,
    metadata       jsonb       NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT remaining_within_amount CHECK (remaining BETWEEN 0 AND amount),
    CONSTRAINT used_up_has_date CHECK ((remaining = 0) = (used_at IS NOT NULL))
);

-- Burn-down: by priority, then expiry, then age.
CREATE INDEX idx_credits_user_id ON credits (user_id, currency, priority, expires_at, created_at) WHERE remaining > 0;
CREATE INDEX idx_credits_expires_at ON credits (expires_at) WHERE remaining > 0 AND expires_at IS NOT NULL;

COMMENT ON TABLE  credits IS 'Grants: money given to a customer, used up by invoices in the order of priority, expiry, age.';
COMMENT ON COLUMN credits.remaining IS 'What is not used yet; the whole amount where it is not given.';
COMMENT ON COLUMN credits.priority IS 'The lower is used first.';
COMMENT ON COLUMN credits.used_at IS 'When the last of it was used; set by itself.';
COMMENT ON COLUMN credits.invoice_id IS 'The invoice that it was granted for, if one was.';
COMMENT ON COLUMN credits.transaction_id IS 'The ledger entry that granted it, where it is of prepaid credits.';

CREATE FUNCTION complete_credit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.remaining := coalesce(NEW.remaining, CASE WHEN NEW.used_at IS NULL THEN NEW.amount ELSE 0 END);
    NEW.used_at := CASE WHEN NEW.remaining = 0 THEN coalesce(NEW.used_at, now()) END;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION complete_credit IS 'Trigger: a new grant is whole, and one without a remainder is used.';

CREATE TRIGGER complete_credits BEFORE INSERT OR UPDATE ON credits
    FOR EACH ROW EXECUTE FUNCTION complete_credit();

-- ---------------------------------------------------------------------------------------------------------------------
-- Alerts and jobs
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE billing_alerts (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id         uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    subscription_id uuid        REFERENCES subscriptions (id) ON DELETE RESTRICT,
    type            text        NOT NULL CHECK (type IN
                    ('usage_threshold', 'payment_failed', 'invoice_overdue', 'subscription_expiring', 'low_balance', 'credits_exhausted', 'unrated_usage')),
    cause           text,
    threshold       numeric,
    current_value   numeric,
    message         text        NOT NULL,
    is_read         boolean     NOT NULL DEFAULT false,
    read_at         timestamptz,
    metadata        jsonb       NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT once_per_cause UNIQUE (user_id, type, cause),
    CONSTRAINT read_has_date CHECK (is_read = (read_at IS NOT NULL))
);

CREATE INDEX idx_billing_alerts_user_id ON billing_alerts (user_id, created_at DESC);
CREATE INDEX idx_billing_alerts_unread ON billing_alerts (user_id) WHERE NOT is_read;  -- the badge

COMMENT ON TABLE  billing_alerts IS 'What a user has been told about usage and money, once for each cause.';
COMMENT ON COLUMN billing_alerts.cause IS 'What it is about, e.g. subscription, threshold and period: the same alert is not raised twice. NULL: always raised.';

CREATE FUNCTION complete_billing_alert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.is_read := NEW.is_read OR NEW.read_at IS NOT NULL;
    NEW.read_at := CASE WHEN NEW.is_read THEN coalesce(NEW.read_at, now()) END;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION complete_billing_alert IS 'Trigger: is_read and read_at say the same, whichever is set.';

CREATE TRIGGER complete_billing_alerts BEFORE INSERT OR UPDATE ON billing_alerts
    FOR EACH ROW EXECUTE FUNCTION complete_billing_alert();

CREATE TABLE job_runs (
    job           text        NOT NULL,
    scheduled_for timestamptz NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at   timestamptz,
    worker        text,
    result        jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (job, scheduled_for),
    CHECK (finished_at >= started_at)
);

COMMENT ON TABLE  job_runs IS 'Each run of a scheduled job, written in the transaction of its effect: it happens once, whatever the number of replicas.';
COMMENT ON COLUMN job_runs.scheduled_for IS 'The time that the run was due at, not when it ran.';

-- ---------------------------------------------------------------------------------------------------------------------
-- What every installation begins with
-- ---------------------------------------------------------------------------------------------------------------------

-- A function, so that `tallystick seed` can put back what is missing. What an operator has changed stays as it is.
CREATE FUNCTION seed_reference_data() RETURNS void LANGUAGE sql AS $$
    INSERT INTO plans (id, name, description, amount, currency, interval, features, limits) VALUES
        ('free', 'Free', 'To try it out', 0, 'EUR', 'month',
         '["community support"]', '{"requestsPerMonth": 1000, "tokensPerMonth": 100000, "concurrentRequests": 1}'),
        ('basic', 'Basic', 'For one project', 19, 'EUR', 'month',
         '["e-mail support"]', '{"requestsPerMonth": 10000, "tokensPerMonth": 1000000, "concurrentRequests": 5}'),
        ('premium', 'Premium', 'For a team', 99, 'EUR', 'month',
         '["priority support", "usage exports"]', '{"requestsPerMonth": 100000, "tokensPerMonth": 10000000, "concurrentRequests": 25}'),
        ('enterprise', 'Enterprise', 'For an organisation', 999, 'EUR', 'month',
         '["dedicated support", "usage exports", "service level agreement"]', '{"requestsPerMonth": null, "tokensPerMonth": null, "concurrentRequests": 200}')
    ON CONFLICT (id) DO NOTHING;

    INSERT INTO power_level_configs (power_level, name, description, preferred_providers, cost_multiplier, max_latency_ms, min_quality_score) VALUES
        ('eco', 'Eco Mode', 'Cheapest provider that is good enough', '["openrouter", "together", "deepinfra"]', 0.7, 5000, 0.70),
        ('balanced', 'Balanced Mode', 'Good quality at a fair price', '["openai", "anthropic", "openrouter"]', 1.0, 3000, 0.85),
        ('precision', 'Precision Mode', 'Best quality first', '["anthropic", "openai"]', 1.5, 2000, 0.95)
    ON CONFLICT (power_level) DO NOTHING;

    INSERT INTO credit_packages (name, description, credits, price, discount_percentage, sort_order, badge_text, is_featured) VALUES
        ('Starter Pack', 'To get going', 100, 10, 0, 1, NULL, false),
        ('Value Pack', 'For regular use', 500, 45, 10, 2, 'MOST POPULAR', true),
        ('Pro Pack', 'For heavy use', 1000, 80, 20, 3, 'BEST VALUE', true),
        ('Enterprise Pack', 'For organisations', 5000, 350, 30, 4, NULL, false)
    ON CONFLICT (name) DO NOTHING;
$$;

COMMENT ON FUNCTION seed_reference_data IS 'Inserts the plans, power levels and credit packages that are missing.';

SELECT seed_reference_data();

-- migrate:up
-- Closing a month at the speed of its lines: what is checked of each line and each row of usage, checked for less.

-- ---------------------------------------------------------------------------------------------------------------------
-- Lines and what they name: by statement, the last of their foreign keys too
-- ---------------------------------------------------------------------------------------------------------------------

-- One query for each line; and its plan was made while invoices was empty, so that it read the whole of a table that grew with every
-- invoice. The triggers below do both directions of it: lines that are added, and invoices that change under them.
ALTER TABLE invoice_lines DROP CONSTRAINT line_has_the_invoice_currency;

-- Its queries look up a few rows by key. A plan is kept for as long as a session lives, and without sequential scans it is right for a table
-- of any size.
CREATE OR REPLACE FUNCTION protect_issued_lines() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    of_invoices      uuid[] := ARRAY(SELECT DISTINCT invoice_id FROM added);
    of_subscriptions uuid[] := ARRAY(SELECT DISTINCT subscription_id FROM added WHERE subscription_id IS NOT NULL);
    of_prices        uuid[] := ARRAY(SELECT DISTINCT price_id FROM added WHERE price_id IS NOT NULL);
    issued           text;
    strange          text;
BEGIN
    -- FOR SHARE: else a line could slip in between the summing of the lines and the commit of who issues the invoice, or come to an invoice
    -- that is being deleted.
    SELECT min(i.number) INTO issued FROM (SELECT number FROM invoices WHERE id = ANY(of_invoices) FOR SHARE) i;
    IF issued IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003',
            MESSAGE = format('invoice %s is issued: INSERT of a line is refused', issued),
            HINT = 'Write the lines while it is a draft; correct it later with a credit note or an adjustment.';
    END IF;
    SELECT format('an invoice %s in %s', a.invoice_id, a.currency) INTO strange
    FROM (SELECT DISTINCT invoice_id, currency FROM added) a
    WHERE NOT EXISTS (SELECT FROM invoices i WHERE i.id = a.invoice_id AND i.currency = a.currency)
    LIMIT 1;
    IF strange IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '23503', CONSTRAINT = 'line_has_the_invoice_currency', TABLE = 'invoice_lines',
            MESSAGE = format('a line names %s, which does not exist', strange);
    END IF;
    -- FOR KEY SHARE, as a foreign key does it: none of them goes meanwhile.
    PERFORM FROM subscriptions WHERE id = ANY(of_subscriptions) FOR KEY SHARE;
    SELECT format('%s %s', s.what, s.id) INTO strange
    FROM (SELECT 'a subscription' AS what, u.id FROM unnest(of_subscriptions) AS u (id) WHERE NOT EXISTS (SELECT FROM subscriptions s WHERE s.id = u.id)
          UNION ALL
          SELECT 'a price', u.id FROM unnest(of_prices) AS u (id) WHERE NOT EXISTS (SELECT FROM model_prices p WHERE p.id = u.id)
          UNION ALL
          SELECT 'a line', o.id
          FROM (SELECT usage_line_id AS id FROM added WHERE usage_line_id IS NOT NULL EXCEPT SELECT id FROM added) o
          WHERE NOT EXISTS (SELECT FROM invoice_lines l WHERE l.id = o.id)) s
    LIMIT 1;
    IF strange IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '23503', MESSAGE = format('a line names %s, which does not exist', strange);
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION protect_issued_lines IS 'Trigger: lines are added to drafts only (TS003), in their currency, and what they name exists (23503).';

-- As its owner, as foreign keys are checked: whoever may delete an invoice need not see its lines.
CREATE FUNCTION keep_invoice_of_lines() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM invoice_lines WHERE invoice_id = OLD.id) THEN
        RAISE EXCEPTION USING ERRCODE = '23503', CONSTRAINT = 'line_has_the_invoice_currency', TABLE = 'invoice_lines',
            MESSAGE = format('invoice %s has lines: it cannot be deleted, and its id and currency are fixed', coalesce(OLD.number, OLD.id::text)),
            HINT = 'Delete the lines of a draft before it.';
    END IF;
    RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION keep_invoice_of_lines FROM PUBLIC;
COMMENT ON FUNCTION keep_invoice_of_lines IS 'Trigger: an invoice with lines stays, with its id and its currency (23503).';

CREATE TRIGGER keep_invoice_of_lines AFTER DELETE ON invoices
    FOR EACH ROW EXECUTE FUNCTION keep_invoice_of_lines();
CREATE TRIGGER keep_invoice_with_lines AFTER UPDATE ON invoices
    FOR EACH ROW WHEN ((NEW.id, NEW.currency) IS DISTINCT FROM (OLD.id, OLD.currency)) EXECUTE FUNCTION keep_invoice_of_lines();

-- ---------------------------------------------------------------------------------------------------------------------
-- Usage and the lines that bill it
-- ---------------------------------------------------------------------------------------------------------------------

-- It begins with the time that the invoice's id begins with: what is written together lies together in the two indexes of it, however many
-- lines there were before. 80 bits of hash tell the lines of one moment apart. The row is there twice so that calls are inlined.
CREATE OR REPLACE FUNCTION usage_line_id(invoice_id uuid, r rated_usage, period_start timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT encode(
        substr(uuid_send(invoice_id), 1, 6) ||
        substr(int8send(hash_record_extended((invoice_id, r.subscription_id, r.price_id, r.multiplier, r.model_id,
            CASE WHEN r.model_id = '' THEN r.tool_name END, CASE WHEN r.model_id = '' THEN r.feature_type END, r.power_level, r.byok,
            CASE WHEN r.hour < period_start THEN date_trunc('month', r.hour, 'UTC') END), 1)), 7) ||
        int8send(hash_record_extended((invoice_id, r.subscription_id, r.price_id, r.multiplier, r.model_id,
            CASE WHEN r.model_id = '' THEN r.tool_name END, CASE WHEN r.model_id = '' THEN r.feature_type END, r.power_level, r.byok,
            CASE WHEN r.hour < period_start THEN date_trunc('month', r.hour, 'UTC') END), 2)), 'hex')::uuid
$$;

-- The text is what it was, byte for byte, and so the checksums of lines that exist stay true; only, it is not made by way of jsonb.
CREATE OR REPLACE FUNCTION rated_usage_digest(r rated_usage) RETURNS numeric LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ('x' || encode(substr(sha256(convert_to(CASE WHEN r.latency_ms = 0 THEN json_build_array(
        r.subscription_id, extract(epoch FROM r.hour)::bigint, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class,
        r.rating_run_id, r.requests, r.request_tokens, r.response_tokens, r.cached_tokens,
        r.price_id, trim_scale(r.multiplier), trim_scale(r.amount)) ELSE json_build_array(
        r.subscription_id, extract(epoch FROM r.hour)::bigint, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class,
        r.rating_run_id, r.requests, r.request_tokens, r.response_tokens, r.cached_tokens,
        r.price_id, trim_scale(r.multiplier), trim_scale(r.amount), r.latency_ms) END::text,
        'UTF8')), 1, 8), 'hex'))::bit(64)::bigint::numeric
$$;

-- After the update, not before: before it, each row is locked and that lock is logged, also where WHEN lets it pass.
DROP TRIGGER protect_rated_usage ON rated_usage;
CREATE TRIGGER protect_rated_usage AFTER UPDATE ON rated_usage
    FOR EACH ROW WHEN (
        (NEW.subscription_id, NEW.hour, NEW.model_id, NEW.tool_name, NEW.feature_type, NEW.power_level, NEW.byok, NEW.status_class,
         NEW.rating_run_id, NEW.user_id, NEW.billing_mode, NEW.requests, NEW.errors, NEW.request_tokens, NEW.response_tokens,
         NEW.cached_tokens, NEW.tokens_returned, NEW.latency_ms, NEW.first_event_at, NEW.last_event_at)
        IS DISTINCT FROM
        (OLD.subscription_id, OLD.hour, OLD.model_id, OLD.tool_name, OLD.feature_type, OLD.power_level, OLD.byok, OLD.status_class,
         OLD.rating_run_id, OLD.user_id, OLD.billing_mode, OLD.requests, OLD.errors, OLD.request_tokens, OLD.response_tokens,
         OLD.cached_tokens, OLD.tokens_returned, OLD.latency_ms, OLD.first_event_at, OLD.last_event_at)
        OR (OLD.amount IS NOT NULL
            AND (NEW.price_id, NEW.multiplier, NEW.currency, NEW.amount, NEW.cost_amount, NEW.rated_at)
                IS DISTINCT FROM (OLD.price_id, OLD.multiplier, OLD.currency, OLD.amount, OLD.cost_amount, OLD.rated_at))
        OR (num_nonnulls(OLD.settlement_id, OLD.invoice_line_id) > 0
            AND (NEW.settlement_id, NEW.invoice_line_id) IS DISTINCT FROM (OLD.settlement_id, OLD.invoice_line_id)))
    EXECUTE FUNCTION protect_rated_usage();

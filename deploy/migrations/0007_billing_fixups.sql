-- migrate:up
-- What closing a period and explaining a line turned out to need besides 0003.

-- A line charges for one component of a price, so one rated row is billed by up to four lines. They share their rated
-- usage: it points to the first of them, and each names that one.
ALTER TABLE invoice_lines
    ADD COLUMN component     text CHECK (component IN ('requests', 'input', 'cached_input', 'output')),
    ADD COLUMN unit_price    numeric,
    ADD COLUMN usage_line_id uuid REFERENCES invoice_lines (id),
    ADD COLUMN period_start  timestamptz,
    ADD COLUMN period_end    timestamptz,
    ADD CONSTRAINT line_period_is_half_open CHECK (period_start < period_end AND (period_start IS NULL) = (period_end IS NULL)),
    ADD CONSTRAINT usage_has_provenance CHECK (component IS NULL
        OR num_nulls(usage_line_id, subscription_id, price_id, unit_price, checksum, period_start) = 0),
    ADD CONSTRAINT priced_by_quantity CHECK (unit_price IS NULL OR exact_amount = quantity * unit_price);

COMMENT ON COLUMN invoice_lines.component IS 'What of the price it charges for: requests, input, cached_input or output tokens; NULL for what is not usage.';
COMMENT ON COLUMN invoice_lines.unit_price IS 'Price of one unit of quantity with all factors applied; quantity times it is exact_amount.';
COMMENT ON COLUMN invoice_lines.usage_line_id IS 'The line that rated_usage.invoice_line_id names: the first of the lines that share their rated usage.';
COMMENT ON COLUMN invoice_lines.period_start IS 'When the usage happened, or what a fee pays for: [period_start, period_end). Before the period of the invoice: late.';

-- A flat fee is charged once for each of its intervals, whatever periods are closed.
CREATE UNIQUE INDEX one_fee_per_interval ON invoice_lines (subscription_id, period_start) WHERE kind = 'fee';

-- Postpaid usage waits for weeks, prepaid for seconds: looking for what to settle must not pass by what is to be invoiced.
DROP INDEX idx_rated_usage_unbilled;
CREATE INDEX idx_rated_usage_uninvoiced ON rated_usage (user_id, hour)
    WHERE billing_mode = 'postpaid' AND invoice_line_id IS NULL AND amount IS NOT NULL;
CREATE INDEX idx_rated_usage_unsettled ON rated_usage (user_id)
    WHERE billing_mode = 'prepaid' AND settlement_id IS NULL AND amount IS NOT NULL;

-- A digest that neither the order of the rows nor a later version of Postgres changes: SHA-256 of what a row says, 64 bits
-- of it, to be summed. What bills the row is not part of it.
CREATE FUNCTION rated_usage_digest(r rated_usage) RETURNS numeric LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ('x' || encode(substr(sha256(convert_to(jsonb_build_array(
        r.subscription_id, extract(epoch FROM r.hour)::bigint, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class,
        r.rating_run_id, r.requests, r.request_tokens, r.response_tokens, r.cached_tokens,
        r.price_id, trim_scale(r.multiplier), trim_scale(r.amount))::text, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint::numeric
$$;

COMMENT ON FUNCTION rated_usage_digest IS 'What a row of rated usage says, as a number; invoice_lines.checksum is the sum over the rows behind the line.';

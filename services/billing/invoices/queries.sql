-- The SQL of invoicing: closing a period.

-- name: customers_with_usage
-- Who has postpaid usage before $2 that is not invoiced, in which currency, and no invoice for [$1, $2) yet; of all, or of user $3.
SELECT DISTINCT r.user_id, r.currency
FROM rated_usage r
WHERE r.billing_mode = 'postpaid' AND r.invoice_line_id IS NULL AND r.amount IS NOT NULL AND r.hour < $2::timestamptz
  AND ($3::uuid IS NULL OR r.user_id = $3)
  AND NOT EXISTS (SELECT FROM invoices i WHERE i.user_id = r.user_id AND i.currency = r.currency AND i.kind = 'usage'
                    AND i.period_start = $1 AND i.period_end = $2)
ORDER BY r.user_id, r.currency;

-- name: fee_terms
-- What postpaid subscriptions that are alive cost flat: their own amount, else their plan's; of all users, or of user $2.
-- Intervals that were charged already are left out by the caller (charged_fees).
SELECT s.id AS subscription_id, s.user_id, coalesce(p.name, s.model_id) AS name,
       CASE WHEN s.amount > 0 THEN s.currency ELSE p.currency END AS currency,
       CASE WHEN s.amount > 0 THEN s.amount ELSE p.amount END AS amount,
       CASE WHEN s.amount > 0 THEN s.interval_count * CASE s.interval WHEN 'year' THEN 12 ELSE 1 END
            ELSE p.interval_count * CASE p.interval WHEN 'year' THEN 12 ELSE 1 END END AS months,
       coalesce(s.current_period_start, s.created_at) AS anchor,
       least(s.current_period_start, s.created_at) AS started
FROM subscriptions s LEFT JOIN plans p ON p.id = s.plan_id
WHERE s.billing_mode = 'postpaid' AND s.status IN ('active', 'suspended') AND (s.amount > 0 OR p.amount > 0)
  AND least(s.current_period_start, s.created_at) < $1
  AND ($2::uuid IS NULL OR s.user_id = $2)
ORDER BY s.user_id, s.id;

-- name: charged_fees
-- Which of the fees (subscription $1, start of the interval $2) were charged already.
SELECT l.subscription_id, l.period_start
FROM unnest($1::uuid[], $2::timestamptz[]) AS f (subscription_id, period_start)
JOIN invoice_lines l ON l.subscription_id = f.subscription_id AND l.period_start = f.period_start AND l.kind = 'fee';

-- name: draft
-- Begins an invoice ($1 id, $2 user, $3 currency) for [$4, $5) of each customer that has none. The unique index makes a second
-- worker wait here for the first, and then leave the customer out.
INSERT INTO invoices (id, user_id, currency, entity, kind, period_type, period_start, period_end)
SELECT c.id, c.user_id, c.currency, $7, 'usage', $6, $4, $5
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS c (id, user_id, currency)
ORDER BY c.user_id, c.currency
ON CONFLICT (user_id, currency, period_start, period_end) WHERE kind = 'usage' AND NOT rebilled DO NOTHING
RETURNING id, user_id, currency;

-- name: claim
-- Ties usage before $5 of the customers ($2 user, $3 currency) of drafts ($1) to lines, and says what each group of it comes to.
-- A group is what one price charges alike: of a model whatever the feature, else by tool and feature; usage from before $4 by its month.
-- The id of its line is derived from its key, so that one statement marks and sums the same rows: usage that is rated meanwhile is in
-- neither.
WITH claimed AS (
    UPDATE rated_usage r
    SET invoice_line_id = encode(substr(sha256(convert_to(jsonb_build_array(d.invoice_id, r.subscription_id, r.price_id, trim_scale(r.multiplier),
            r.model_id, CASE WHEN r.model_id = '' THEN r.tool_name END, CASE WHEN r.model_id = '' THEN r.feature_type END, r.power_level, r.byok,
            CASE WHEN r.hour < $4::timestamptz THEN to_char(r.hour AT TIME ZONE 'UTC', 'YYYY-MM') END)::text, 'UTF8')), 1, 16), 'hex')::uuid
    FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS d (invoice_id, user_id, currency)
    WHERE r.user_id = d.user_id AND r.currency = d.currency AND r.hour < $5::timestamptz
      AND r.billing_mode = 'postpaid' AND r.invoice_line_id IS NULL AND r.amount IS NOT NULL
    RETURNING d.invoice_id, r.*, CASE WHEN r.model_id = '' THEN r.tool_name ELSE '' END AS tool,
              CASE WHEN r.model_id = '' THEN r.feature_type ELSE '' END AS feature, rated_usage_digest(r) AS digest
)
SELECT c.invoice_id, c.invoice_line_id AS line_id, c.subscription_id, c.price_id, c.model_id, c.tool AS tool_name, c.feature AS feature_type,
       c.power_level, c.byok, min(trim_scale(c.multiplier)) AS multiplier,
       CASE WHEN min(c.hour) < $4 THEN date_trunc('month', min(c.hour), 'UTC') ELSE $4 END AS period_start,
       CASE WHEN min(c.hour) < $4 THEN least($4, (date_trunc('month', min(c.hour) AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC')
            ELSE $5 END AS period_end,
       sum(c.requests) AS event_count,
       coalesce(sum(c.requests) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0) AS billed_requests,
       coalesce(sum(c.request_tokens - c.cached_tokens) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0) AS billed_input,
       coalesce(sum(c.cached_tokens) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0) AS billed_cached_input,
       coalesce(sum(c.response_tokens) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0) AS billed_output,
       p.price_per_request, p.input_price_per_1k, p.cached_input_price_per_1k, p.output_price_per_1k,
       sum(c.amount) AS amount, min(c.first_event_at) AS first_event_at, max(c.last_event_at) AS last_event_at,
       sum(c.digest)::text AS checksum
FROM claimed c JOIN model_prices p ON p.id = c.price_id
GROUP BY c.invoice_id, c.invoice_line_id, c.subscription_id, c.price_id, c.model_id, c.tool, c.feature, c.power_level, c.byok, p.id;

-- name: insert_lines
-- Writes the lines of drafts. Not by COPY: that is refused under row-level security, to which billing's role is subject.
INSERT INTO invoice_lines (
    id, invoice_id, position, kind, description, subscription_id, dimensions, component, quantity, unit, unit_price, price_id,
    usage_line_id, exact_amount, amount, currency, event_count, first_event_at, last_event_at, checksum, period_start, period_end)
SELECT * FROM unnest(
    $1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::uuid[], $7::jsonb[], $8::text[], $9::numeric[], $10::text[], $11::numeric[],
    $12::uuid[], $13::uuid[], $14::numeric[], $15::numeric[], $16::text[], $17::bigint[], $18::timestamptz[], $19::timestamptz[], $20::text[],
    $21::timestamptz[], $22::timestamptz[]);

-- name: discard
-- Takes back drafts that turned out to have nothing on them.
DELETE FROM invoices WHERE id = ANY($1::uuid[]) AND number IS NULL;

-- name: issue
-- Issues invoices that have their lines: sums, items, and the next number of the year each, given back if the transaction fails.
UPDATE invoices i
SET exact_subtotal = v.exact_subtotal, subtotal = v.subtotal, tax_rate = $9, tax = v.tax, total = v.total, items = v.items,
    status = 'sent', issue_date = $7, due_date = $8, number = take_invoice_number(i.entity, extract(year FROM $7::timestamptz AT TIME ZONE 'UTC')::integer)
FROM unnest($1::uuid[], $2::numeric[], $3::numeric[], $4::numeric[], $5::numeric[], $6::jsonb[])
     AS v (id, exact_subtotal, subtotal, tax, total, items)
WHERE i.id = v.id AND i.number IS NULL
RETURNING i.id, i.number;

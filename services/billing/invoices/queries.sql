-- The SQL of invoicing: closing a period, and what it would come to.

-- name: customers_with_usage
-- Who has postpaid usage before $2 that is not invoiced, in which currency, and no invoice for [$1, $2) yet; of all, or of user $3.
SELECT c.user_id, c.currency
FROM (SELECT DISTINCT r.user_id, r.currency
      FROM rated_usage r
      WHERE r.billing_mode = 'postpaid' AND r.invoice_line_id IS NULL AND r.amount IS NOT NULL AND r.hour < $2::timestamptz
        AND ($3::uuid IS NULL OR r.user_id = $3)) c
WHERE NOT EXISTS (SELECT FROM invoices i WHERE i.user_id = c.user_id AND i.currency = c.currency AND i.kind = 'usage' AND NOT i.rebilled
                    AND i.period_start = $1 AND i.period_end = $2 AND i.number IS NOT NULL)
ORDER BY c.user_id, c.currency;

-- name: invoiced
-- In which currencies user $1 (NULL: who, and in which currencies) has an invoice for [$2, $3) that is issued and not to be made anew.
SELECT user_id, currency FROM invoices
WHERE ($1::uuid IS NULL OR user_id = $1) AND kind = 'usage' AND NOT rebilled AND period_start = $2 AND period_end = $3 AND number IS NOT NULL;

-- name: entity_exists
-- Whether there is such a legal entity.
SELECT EXISTS (SELECT FROM legal_entities WHERE id = $1);

-- name: customer_terms
-- On what terms users ($1) are invoiced, and by whom; $2 is the entity of those whose profile names none, $3 the days they have to pay.
SELECT u.id AS user_id, e.id AS entity, coalesce(p.payment_days, e.payment_days, $3::integer) AS payment_days,
       coalesce(p.tax_treatment, 'standard') AS tax_treatment, coalesce(p.tax_rate, e.tax_rate) AS tax_rate, p.exemption_reason,
       num_nonnulls(e.vat_id, e.tax_number) > 0 AS registered, coalesce(p.language, e.language) AS language,
       coalesce(p.late_usage, e.late_usage) AS late_usage, coalesce(p.issue_zero_invoices, e.issue_zero_invoices) AS issue_zero_invoices,
       party_of_entity(e) AS seller, party_of_customer(u.email, u.full_name, p) AS buyer
FROM users u
LEFT JOIN billing_profiles p ON p.user_id = u.id
JOIN legal_entities e ON e.id = coalesce(p.entity, $2)
WHERE u.id = ANY($1::uuid[]);

-- name: by_index
-- For the rest of the transaction: look up by index. It concerns few customers of tables that grow while it is repeated, and that have no
-- statistics of what was written a minute ago: the planner would read them whole, every time. Without JIT, because up to PostgreSQL 17 a
-- small table that has to be read whole then counts as so costly that the query is compiled.
SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true);

-- name: draft
-- Begins an invoice ($1 id, $2 user, $3 currency) for [$4, $5) of each customer that has none. The unique index makes a second
-- worker wait here for the first.
INSERT INTO invoices (id, user_id, currency, entity, kind, period_type, period_start, period_end)
SELECT c.id, c.user_id, c.currency, $7, 'usage', $6, $4, $5
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS c (id, user_id, currency)
ORDER BY c.user_id, c.currency
ON CONFLICT (user_id, currency, period_start, period_end) WHERE kind = 'usage' AND NOT rebilled DO NOTHING;

-- name: lock_drafts
-- The drafts of customers ($1 user, $2 currency) for [$3, $4), for this transaction alone. A second worker waits here for the first, finds
-- the invoice issued, and leaves the customer out. Locked in the order in which everybody locks them.
SELECT i.id, i.user_id, i.currency
FROM invoices i JOIN unnest($1::uuid[], $2::text[]) AS c (user_id, currency) ON i.user_id = c.user_id AND i.currency = c.currency
WHERE i.user_id = ANY($1) AND i.kind = 'usage' AND NOT i.rebilled AND i.period_start = $3 AND i.period_end = $4 AND i.number IS NULL AND i.status = 'draft'
ORDER BY i.user_id, i.currency
FOR UPDATE OF i;

-- name: claim
-- Ties usage before $5 of the customers ($2 user, $3 currency) of drafts ($1) to lines, and says what each group of it comes to.
-- A group is what one price charges alike: of a model whatever the feature, else by tool and feature; usage from before $4 by its month.
-- The id of its line is derived from its key, so that one statement marks and sums the same rows: usage that is rated meanwhile is in
-- neither. Usage that was taken back before it was billed, and so sums to nothing, stays where it is. `preview` is the same without marks.
-- That users are named twice, as a list too, makes sure that they are looked up.
WITH drafts AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS d (invoice_id, user_id, currency)
), corrected AS MATERIALIZED (
    SELECT DISTINCT d.* FROM drafts d JOIN rated_usage r ON r.user_id = d.user_id AND r.user_id = ANY($2) AND r.currency = d.currency AND r.hour < $5
     AND r.billing_mode = 'postpaid' AND r.invoice_line_id IS NULL AND r.amount IS NOT NULL AND r.requests <= 0
), nothing AS MATERIALIZED (
    SELECT usage_line_id(d.invoice_id, r, $4::timestamptz) AS line_id
    FROM corrected d JOIN rated_usage r ON r.user_id = d.user_id AND r.user_id = ANY($2) AND r.currency = d.currency AND r.hour < $5
     AND r.billing_mode = 'postpaid' AND r.invoice_line_id IS NULL AND r.amount IS NOT NULL
    GROUP BY 1 HAVING sum(r.requests) = 0 AND sum(r.amount) = 0
), claimed AS (
    UPDATE rated_usage r
    SET invoice_line_id = usage_line_id(d.invoice_id, r, $4::timestamptz)
    FROM drafts d
    WHERE r.user_id = d.user_id AND r.user_id = ANY($2) AND r.currency = d.currency AND r.hour < $5
      AND r.billing_mode = 'postpaid' AND r.invoice_line_id IS NULL AND r.amount IS NOT NULL
      AND ((SELECT count(*) FROM nothing) = 0 OR usage_line_id(d.invoice_id, r, $4) NOT IN (SELECT line_id FROM nothing))
    RETURNING d.invoice_id, r.invoice_line_id AS line_id, r.subscription_id, r.price_id, r.model_id,
              CASE WHEN r.model_id = '' THEN r.tool_name ELSE '' END AS tool_name,
              CASE WHEN r.model_id = '' THEN r.feature_type ELSE '' END AS feature_type,
              r.power_level, r.byok, r.multiplier, r.hour, r.status_class, r.requests, r.request_tokens, r.cached_tokens, r.response_tokens,
              r.latency_ms, r.tokens_returned, r.amount, r.first_event_at, r.last_event_at, rated_usage_digest(r) AS digest
)
SELECT c.invoice_id, c.line_id, c.subscription_id, c.price_id, c.model_id, c.tool_name, c.feature_type, c.power_level, c.byok,
       trim_scale(min(c.multiplier)) AS multiplier,
       CASE WHEN min(c.hour) < $4 THEN date_trunc('month', min(c.hour), 'UTC') ELSE $4 END AS period_start,
       CASE WHEN min(c.hour) < $4 THEN least($4, (date_trunc('month', min(c.hour) AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC')
            ELSE $5 END AS period_end,
       sum(c.requests)::bigint AS event_count,
       coalesce(sum(c.requests) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0)::bigint AS billed_requests,
       coalesce(sum(c.request_tokens - c.cached_tokens) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0)::bigint AS billed_input,
       coalesce(sum(c.cached_tokens) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0)::bigint AS billed_cached_input,
       coalesce(sum(c.response_tokens) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0)::bigint AS billed_output,
       coalesce(sum(CASE p.unit WHEN 'second' THEN c.latency_ms * 0.001 WHEN 'returned_token' THEN c.tokens_returned ELSE 0 END)
           FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0) AS billed_units,
       p.price_per_request, p.input_price_per_1k, p.cached_input_price_per_1k, p.output_price_per_1k, p.price_per_unit, p.unit,
       sum(c.amount) AS amount, min(c.first_event_at) AS first_event_at, max(c.last_event_at) AS last_event_at,
       sum(c.digest)::text AS checksum
FROM claimed c JOIN model_prices p ON p.id = c.price_id
GROUP BY c.invoice_id, c.line_id, c.subscription_id, c.price_id, c.model_id, c.tool_name, c.feature_type, c.power_level, c.byok, p.id;

-- name: preview
-- What `claim` would make of unbilled usage before $5 of customers ($2 user, $3 currency), without marking it.
WITH drafts AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS d (invoice_id, user_id, currency)
), corrected AS MATERIALIZED (
    SELECT DISTINCT d.* FROM drafts d JOIN rated_usage r ON r.user_id = d.user_id AND r.user_id = ANY($2) AND r.currency = d.currency AND r.hour < $5
     AND r.billing_mode = 'postpaid' AND r.invoice_line_id IS NULL AND r.amount IS NOT NULL AND r.requests <= 0
), nothing AS MATERIALIZED (
    SELECT usage_line_id(d.invoice_id, r, $4::timestamptz) AS line_id
    FROM corrected d JOIN rated_usage r ON r.user_id = d.user_id AND r.user_id = ANY($2) AND r.currency = d.currency AND r.hour < $5
     AND r.billing_mode = 'postpaid' AND r.invoice_line_id IS NULL AND r.amount IS NOT NULL
    GROUP BY 1 HAVING sum(r.requests) = 0 AND sum(r.amount) = 0
), claimed AS (
    SELECT d.invoice_id, usage_line_id(d.invoice_id, r, $4::timestamptz) AS line_id,
           r.subscription_id, r.price_id, r.model_id,
           CASE WHEN r.model_id = '' THEN r.tool_name ELSE '' END AS tool_name,
           CASE WHEN r.model_id = '' THEN r.feature_type ELSE '' END AS feature_type,
           r.power_level, r.byok, r.multiplier, r.hour, r.status_class, r.requests, r.request_tokens, r.cached_tokens, r.response_tokens,
           r.latency_ms, r.tokens_returned, r.amount, r.first_event_at, r.last_event_at, rated_usage_digest(r) AS digest
    FROM drafts d
    JOIN rated_usage r ON r.user_id = d.user_id AND r.user_id = ANY($2) AND r.currency = d.currency AND r.hour < $5
     AND r.billing_mode = 'postpaid' AND r.invoice_line_id IS NULL AND r.amount IS NOT NULL
    WHERE (SELECT count(*) FROM nothing) = 0 OR usage_line_id(d.invoice_id, r, $4) NOT IN (SELECT line_id FROM nothing)
)
SELECT c.invoice_id, c.line_id, c.subscription_id, c.price_id, c.model_id, c.tool_name, c.feature_type, c.power_level, c.byok,
       trim_scale(min(c.multiplier)) AS multiplier,
       CASE WHEN min(c.hour) < $4 THEN date_trunc('month', min(c.hour), 'UTC') ELSE $4 END AS period_start,
       CASE WHEN min(c.hour) < $4 THEN least($4, (date_trunc('month', min(c.hour) AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC')
            ELSE $5 END AS period_end,
       sum(c.requests)::bigint AS event_count,
       coalesce(sum(c.requests) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0)::bigint AS billed_requests,
       coalesce(sum(c.request_tokens - c.cached_tokens) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0)::bigint AS billed_input,
       coalesce(sum(c.cached_tokens) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0)::bigint AS billed_cached_input,
       coalesce(sum(c.response_tokens) FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0)::bigint AS billed_output,
       coalesce(sum(CASE p.unit WHEN 'second' THEN c.latency_ms * 0.001 WHEN 'returned_token' THEN c.tokens_returned ELSE 0 END)
           FILTER (WHERE c.status_class = 2 OR p.bill_errors), 0) AS billed_units,
       p.price_per_request, p.input_price_per_1k, p.cached_input_price_per_1k, p.output_price_per_1k, p.price_per_unit, p.unit,
       sum(c.amount) AS amount, min(c.first_event_at) AS first_event_at, max(c.last_event_at) AS last_event_at,
       sum(c.digest)::text AS checksum
FROM claimed c JOIN model_prices p ON p.id = c.price_id
GROUP BY c.invoice_id, c.line_id, c.subscription_id, c.price_id, c.model_id, c.tool_name, c.feature_type, c.power_level, c.byok, p.id;

-- name: carried
-- Credit that customers ($1 user, $2 currency) carry from earlier invoices and that no later one has taken yet.
SELECT i.user_id, i.currency, l.id AS line_id, i.number, l.exact_amount
FROM invoices i
JOIN unnest($1::uuid[], $2::text[]) AS c (user_id, currency) ON i.user_id = c.user_id AND i.currency = c.currency
JOIN invoice_lines l ON l.invoice_id = i.id AND l.kind = 'carried' AND l.exact_amount > 0
WHERE i.user_id = ANY($1) AND i.number IS NOT NULL AND NOT i.rebilled
  AND NOT EXISTS (SELECT FROM invoice_lines t WHERE t.charge_key = 'carried:' || l.id)
ORDER BY i.issue_date, i.number;

-- name: with_grants
-- Which of the customers ($1 user, $2 currency) have money granted to them that is not used up or expired.
SELECT DISTINCT g.user_id, g.currency
FROM credits g JOIN unnest($1::uuid[], $2::text[]) AS c (user_id, currency) ON g.user_id = c.user_id AND g.currency = c.currency
WHERE g.remaining > 0;

-- name: insert_lines
-- Writes the lines of drafts ($1 id, $2 currency, $3 category of tax, $4 rate); $5 says whose each line is, by number in $1.
-- Not by COPY: that is refused under row-level security, to which billing's role is subject. Numbers come as text: the driver encodes that
-- faster, and text is exact.
INSERT INTO invoice_lines (
    id, invoice_id, position, kind, description, subscription_id, dimensions, component, quantity, unit, unit_price, price_id,
    usage_line_id, exact_amount, amount, currency, event_count, first_event_at, last_event_at, checksum, period_start, period_end,
    charge_key, tax_category, tax_rate)
SELECT id, ($1::uuid[])[number], position, kind, description, subscription_id, dimensions, component, quantity::numeric, unit,
       unit_price::numeric, price_id, usage_line_id, exact_amount::numeric, amount::numeric, ($2::text[])[number], event_count, first_event_at,
       last_event_at, checksum, period_start, period_end, charge_key, ($3::text[])[number], ($4::numeric[])[number]
FROM unnest(
    $5::int[], $6::int[], $7::uuid[], $8::text[], $9::text[], $10::uuid[], $11::jsonb[], $12::text[], $13::text[], $14::text[], $15::text[],
    $16::uuid[], $17::uuid[], $18::text[], $19::text[], $20::bigint[], $21::timestamptz[], $22::timestamptz[], $23::text[],
    $24::timestamptz[], $25::timestamptz[], $26::text[])
    AS l (number, position, id, kind, description, subscription_id, dimensions, component, quantity, unit, unit_price, price_id,
          usage_line_id, exact_amount, amount, event_count, first_event_at, last_event_at, checksum, period_start, period_end, charge_key);

-- name: discard
-- Takes back drafts that turned out to have nothing on them.
DELETE FROM invoices WHERE id = ANY($1::uuid[]) AND number IS NULL;

-- name: issue
-- Issues invoices that have their lines: parties, sums, items, and the next number of the year each, given back if the transaction fails.
-- An invoice over nothing is paid at once.
UPDATE invoices i
SET exact_subtotal = v.exact_subtotal, subtotal = v.subtotal, tax_rate = v.tax_rate, tax = v.tax, total = v.total, items = v.items,
    taxes = v.taxes, entity = v.entity, seller = v.seller, buyer = v.buyer, language = v.language, payment_terms_days = v.payment_days,
    status = CASE WHEN v.total = 0 THEN 'paid' ELSE 'sent' END, paid_date = CASE WHEN v.total = 0 THEN $2::timestamptz END,
    issue_date = $2, due_date = $2::timestamptz + make_interval(days => v.payment_days),
    number = take_invoice_number(v.entity, extract(year FROM $2::timestamptz AT TIME ZONE 'UTC')::integer)
FROM unnest($1::uuid[], $3::numeric[], $4::numeric[], $5::numeric[], $6::numeric[], $7::numeric[], $8::jsonb[], $9::jsonb[], $10::text[],
            $11::jsonb[], $12::jsonb[], $13::text[], $14::integer[])
     AS v (id, exact_subtotal, subtotal, tax_rate, tax, total, items, taxes, entity, seller, buyer, language, payment_days)
WHERE i.id = v.id AND i.number IS NULL
RETURNING i.id, i.number;

-- The SQL of what is credited once: what credit notes and corrections of usage gave back of the same lines.

-- name: lock_invoices_of
-- Keeps others from correcting issued invoices of users ($1) meanwhile. Locked in one order by everybody.
SELECT id FROM invoices WHERE user_id = ANY($1::uuid[]) AND number IS NOT NULL AND status <> 'cancelled' ORDER BY id FOR UPDATE;

-- name: noted_lines
-- The lines of credit notes that took back usage of users ($1), with the line of the invoice, what the note gave, how much less than was asked,
-- and what was set off since. Not those of goodwill, and not of invoices that were made anew: their usage is billed again.
SELECT n.user_id, n.currency, n.number, l.id, l.invoice_line_id, i.usage_line_id, i.subscription_id, i.component, i.description, i.dimensions,
       i.period_start, i.period_end, l.exact_amount,
       coalesce(s.reduced, 0) AS reduced, coalesce(s.set_off, 0) AS set_off
FROM credit_notes n
JOIN credit_note_lines l ON l.credit_note_id = n.id
JOIN invoice_lines i ON i.id = l.invoice_line_id
JOIN invoices of ON of.id = n.invoice_id AND NOT of.rebilled
LEFT JOIN LATERAL (
    SELECT sum(s.amount) FILTER (WHERE s.invoice_line_id IS NULL) AS reduced, sum(s.amount) FILTER (WHERE v.status <> 'cancelled') AS set_off
    FROM credit_set_offs s LEFT JOIN invoice_lines b ON b.id = s.invoice_line_id LEFT JOIN invoices v ON v.id = b.invoice_id
    WHERE s.credit_note_line_id = l.id) s ON true
WHERE n.user_id = ANY($1::uuid[]) AND n.kind IN ('correction', 'void')
ORDER BY n.issued_at, n.number, l.position;

-- name: taken_back
-- What usage that lines ($1) had billed lost since, by line and component: on issued invoices and credit notes (`before`), and by usage on
-- lines $2 that is being billed (`now`); of a preview, that is unbilled usage of the customers ($4, $5) of invoices $3 for [$6, $7).
-- Usage is recognised by its hour and by what a price can distinguish. What a reprice takes back and charges anew counts by the difference.
WITH billed AS MATERIALIZED (
    SELECT DISTINCT ON (subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class)
           subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class, invoice_line_id AS line_id
    FROM rated_usage WHERE invoice_line_id = ANY($1::uuid[])
    ORDER BY subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class, invoice_line_id
), since AS (
    SELECT b.line_id, b.hour, b.model_id, b.tool_name, b.feature_type, b.power_level, b.byok, b.status_class,
           coalesce(g.reprice_id, r.rating_run_id) AS run, c.component, sum(c.worth * r.multiplier) AS worth,
           bool_or(CASE WHEN r.invoice_line_id IS NULL
                        THEN usage_line_id((SELECT d.invoice_id FROM unnest($3::uuid[], $4::uuid[], $5::text[]) AS d (invoice_id, user_id, currency)
                                            WHERE d.user_id = r.user_id AND d.currency = r.currency), r, $6::timestamptz) = ANY($2::uuid[])
                        ELSE r.invoice_line_id = ANY($2::uuid[]) END) AS now,
           bool_or(i.status <> 'cancelled' OR v.status <> 'cancelled') AS before
    FROM billed b
    JOIN rated_usage r USING (subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class)
    LEFT JOIN rating_runs g ON g.id = r.rating_run_id
    JOIN model_prices p ON p.id = r.price_id
    LEFT JOIN invoice_lines l ON l.id = r.invoice_line_id
    LEFT JOIN invoices i ON i.id = l.invoice_id AND i.number IS NOT NULL
    LEFT JOIN credit_note_lines nl ON nl.id = r.invoice_line_id
    LEFT JOIN credit_notes n ON n.id = nl.credit_note_id
    LEFT JOIN invoices v ON v.id = n.invoice_id
    CROSS JOIN LATERAL (VALUES
        ('requests', r.requests * p.price_per_request),
        ('input', (r.request_tokens - r.cached_tokens) * p.input_price_per_1k * 0.001),
        ('cached_input', r.cached_tokens * p.cached_input_price_per_1k * 0.001),
        ('output', r.response_tokens * p.output_price_per_1k * 0.001),
        ('units', CASE p.unit WHEN 'second' THEN r.latency_ms * 0.001 WHEN 'returned_token' THEN r.tokens_returned ELSE 0 END * p.price_per_unit)
    ) c (component, worth)
    WHERE r.invoice_line_id IS DISTINCT FROM b.line_id AND r.amount IS NOT NULL AND r.hour < coalesce($7::timestamptz, 'infinity') AND (b.status_class = 2 OR p.bill_errors)
      AND c.worth <> 0
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
    HAVING sum(c.worth * r.multiplier) < 0
)
SELECT line_id, component, coalesce(-sum(worth) FILTER (WHERE now), 0) AS now, coalesce(-sum(worth) FILTER (WHERE before), 0) AS before
FROM since WHERE now OR before GROUP BY line_id, component;

-- name: noted_charges
-- The same for charges of plans. Of a set-off counts what no note over its own line took back, as whoever voids that invoice does.
SELECT n.user_id, n.currency, n.number, l.id, l.invoice_line_id, i.subscription_id, i.component, i.description, i.dimensions,
       i.period_start, i.period_end, l.exact_amount, coalesce(s.reduced, 0) AS reduced, coalesce(s.set_off, 0) AS set_off
FROM credit_notes n
JOIN credit_note_lines l ON l.credit_note_id = n.id
JOIN invoice_lines i ON i.id = l.invoice_line_id AND i.charge_key IS NOT NULL AND i.subscription_id IS NOT NULL
LEFT JOIN LATERAL (
    SELECT sum(s.amount) FILTER (WHERE s.invoice_line_id IS NULL) AS reduced,
           sum(s.amount - coalesce(t.amount, 0)) FILTER (WHERE NOT v.rebilled) AS set_off
    FROM credit_set_offs s LEFT JOIN invoice_lines b ON b.id = s.invoice_line_id LEFT JOIN invoices v ON v.id = b.invoice_id
    LEFT JOIN LATERAL (
        SELECT sum(c.exact_amount) AS amount FROM credit_note_lines c JOIN credit_notes o ON o.id = c.credit_note_id
        WHERE c.invoice_line_id = b.id AND o.kind IN ('correction', 'void')) t ON true
    WHERE s.credit_note_line_id = l.id) s ON true
WHERE n.user_id = ANY($1::uuid[]) AND n.kind IN ('correction', 'void')
ORDER BY n.issued_at, n.number, l.position;

-- name: charged
-- All that plans charged subscriptions ($1) on issued invoices, but for those that were made anew, in the order in which it was charged.
SELECT l.id, l.invoice_id, l.charge_key, l.subscription_id, l.period_start, l.period_end, l.exact_amount
FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
WHERE l.subscription_id = ANY($1::uuid[]) AND l.charge_key IS NOT NULL AND i.number IS NOT NULL
ORDER BY i.issue_date, i.created_at, i.number, l.position;

-- name: insert_set_offs
-- Writes down that lines of credit notes ($1) were set off by lines ($2; NULL: by the note itself, which gives less), how much ($3).
INSERT INTO credit_set_offs (credit_note_line_id, invoice_line_id, amount) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::numeric[]);

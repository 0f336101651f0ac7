-- The SQL of provenance: from a line or a debit to its rated usage, its batches and its events. $1 is a line, $2 a settlement: one of them.

-- name: line
-- An invoice line, and the line that its rated usage points to.
SELECT l.id, l.kind, l.usage_line_id, l.component, l.description, l.currency, l.exact_amount, l.amount, l.event_count, l.checksum, i.number
FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
WHERE l.id = $1;

-- name: debit
-- A settlement of prepaid usage, by its id or by that of its ledger entry.
SELECT id, currency, rated_amount, amount, debited, owed, credits_per_unit, window_start, window_end, transaction_id
FROM credit_settlements WHERE id = $1 OR transaction_id = $1;

-- name: line_of_number
-- The line at position $2 of the invoice with number $1.
SELECT l.id FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id WHERE i.number = $1 AND l.position = $2;

-- name: usage_lines
-- The lines of the invoice with number $1 that bill usage, or take off what was given back of it before.
SELECT l.id FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
WHERE i.number = $1 AND (l.usage_line_id IS NOT NULL OR EXISTS (SELECT FROM credit_set_offs s WHERE s.invoice_line_id = l.id))
ORDER BY l.position;

-- name: set_off
-- A line ($1) that takes off what corrected usage or a plan gives back: the credit note that had given it, of which line, what was set off against it
-- in all, and the lines of the same invoice that give it back once more.
SELECT l.id, l.description, l.currency, l.exact_amount, i.number, s.amount, n.number AS note, nl.position AS note_position, nl.exact_amount AS noted,
       n.reason, of.number || '/' || ol.position AS of_line, ol.description AS of_description,
       (SELECT sum(o.amount) FROM credit_set_offs o JOIN invoice_lines ob ON ob.id = o.invoice_line_id JOIN invoices oi ON oi.id = ob.invoice_id
        WHERE o.credit_note_line_id = nl.id AND oi.status <> 'cancelled') AS set_off,
       coalesce(c.lines, '{}') AS corrections, coalesce(c.amount, 0) AS corrected
FROM credit_set_offs s
JOIN invoice_lines l ON l.id = s.invoice_line_id JOIN invoices i ON i.id = l.invoice_id
JOIN credit_note_lines nl ON nl.id = s.credit_note_line_id JOIN credit_notes n ON n.id = nl.credit_note_id
JOIN invoice_lines ol ON ol.id = nl.invoice_line_id JOIN invoices of ON of.id = n.invoice_id
LEFT JOIN LATERAL (
    SELECT array_agg(i.number || '/' || a.position ORDER BY a.position) AS lines, -sum(a.exact_amount) AS amount
    FROM invoice_lines a
    WHERE a.invoice_id = l.invoice_id AND a.subscription_id = l.subscription_id AND a.exact_amount * l.exact_amount < 0
      AND (a.usage_line_id IS NOT NULL AND a.component = ol.component AND a.dimensions @> ol.dimensions - 'multiplier'
           AND a.period_start < ol.period_end AND a.period_end > ol.period_start
           OR a.charge_key IS NOT NULL AND a.period_end = ol.period_end
           AND (a.charge_key LIKE '%:credit' OR split_part(a.charge_key, '#', 1) = split_part(ol.charge_key, '#', 1)))
) c ON true
WHERE l.id = $1;

-- name: scope
-- The rated usage that it bills: its events and its digest now, and those of its months that are archived.
SELECT coalesce(sum(requests), 0) AS events, coalesce(sum(rated_usage_digest(r)), 0)::text AS checksum,
       coalesce(array_agg(DISTINCT date_trunc('month', r.hour, 'UTC'))
                FILTER (WHERE date_trunc('month', r.hour, 'UTC') IN (SELECT month FROM archived_months)), '{}') AS archived
FROM rated_usage r
WHERE ($1::uuid IS NOT NULL AND invoice_line_id = $1) OR ($2::uuid IS NOT NULL AND settlement_id = $2);

-- name: sources
-- Where its events are: batches, with what of each, at which price, and whether it is taken back. The two queries that follow are given
-- these as arrays, whose length the planner knows: of the recursion behind them it knows nothing, and would join event by event.
-- DISTINCT: the messages of a large batch are several, in one run or in more.
SELECT DISTINCT s.takes_back, s.price_id, trim_scale(s.multiplier) AS multiplier, s.subscription_id, s.hour, s.model_id, s.tool_name, s.feature_type,
       s.power_level, s.byok, s.status_class, i.batch_id
FROM rated_usage_sources($1::uuid, $2::uuid) s JOIN billing_inbox i USING (rating_run_id);

-- name: sums
-- What its events themselves sum to, by the price and factor that it bills them at: $1 to $12 are the columns of its sources, $13 their
-- subscriptions, [$14, $15) their hours.
SELECT s.price_id, s.multiplier, s.status_class,
       coalesce(sum(sign * l.quantity), 0)::bigint AS requests,
       coalesce(sum(sign * l.quantity) FILTER (WHERE l.status_code >= 400), 0)::bigint AS errors,
       coalesce(sum(sign * l.request_tokens), 0)::bigint AS request_tokens, coalesce(sum(sign * l.response_tokens), 0)::bigint AS response_tokens,
       coalesce(sum(sign * l.cached_tokens), 0)::bigint AS cached_tokens, coalesce(sum(sign * l.tokens_returned), 0)::bigint AS tokens_returned,
       coalesce(sum(sign * l.quantity * l.latency_ms), 0)::bigint AS latency_ms,
       min(l.created_at) AS first_event_at, max(l.created_at) AS last_event_at
FROM usage_logs l
JOIN unnest($1::bool[], $2::uuid[], $3::numeric[], $4::uuid[], $5::timestamptz[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bool[],
            $11::smallint[], $12::uuid[])
     AS s (takes_back, price_id, multiplier, subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class, batch_id)
  ON s.batch_id = l.batch_id AND s.subscription_id = l.subscription_id AND s.hour = date_trunc('hour', l.created_at, 'UTC')
 AND s.model_id = coalesce(l.model_id, '') AND s.tool_name = coalesce(l.tool_name, '') AND s.feature_type = coalesce(l.feature_type, '')
 AND s.power_level = l.power_level AND s.byok = l.byok AND s.status_class = CASE WHEN l.status_code < 400 THEN 2 ELSE l.status_code / 100 END
CROSS JOIN LATERAL (SELECT CASE WHEN s.takes_back THEN -1 ELSE 1 END) AS signed (sign)
WHERE l.subscription_id = ANY($13::uuid[]) AND l.created_at >= $14 AND l.created_at < $15
GROUP BY s.price_id, s.multiplier, s.status_class;

-- name: events
-- The events themselves, at most $16 (NULL: all), in the order in which they happened, after the one that $17 to $19 name (NULL: from the first
-- on); sign is -1 for one that is taken back.
SELECT l.created_at, l.id, l.source, l.request_id, l.subscription_id, l.api_key_id, l.model_id, l.tool_name, l.feature_type, l.power_level,
       l.byok, l.status_code, l.request_tokens, l.cached_tokens, l.response_tokens, l.batch_id,
       CASE WHEN s.takes_back THEN -1 ELSE 1 END * l.quantity AS sign, s.takes_back, s.price_id, s.multiplier
FROM usage_logs l
JOIN unnest($1::bool[], $2::uuid[], $3::numeric[], $4::uuid[], $5::timestamptz[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bool[],
            $11::smallint[], $12::uuid[])
     AS s (takes_back, price_id, multiplier, subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class, batch_id)
  ON s.batch_id = l.batch_id AND s.subscription_id = l.subscription_id AND s.hour = date_trunc('hour', l.created_at, 'UTC')
 AND s.model_id = coalesce(l.model_id, '') AND s.tool_name = coalesce(l.tool_name, '') AND s.feature_type = coalesce(l.feature_type, '')
 AND s.power_level = l.power_level AND s.byok = l.byok AND s.status_class = CASE WHEN l.status_code < 400 THEN 2 ELSE l.status_code / 100 END
WHERE l.subscription_id = ANY($13::uuid[]) AND l.created_at >= $14 AND l.created_at < $15
  AND ($17::timestamptz IS NULL OR (l.created_at, l.id, s.takes_back) > ($17, $18::uuid, $19::boolean))
ORDER BY l.created_at, l.id, s.takes_back
LIMIT $16;

-- name: origins
-- The ranges of broker offsets that batches $1 came from.
SELECT b.cluster, b.topic, b.partition, b.epoch, min(b.first_offset) AS first_offset, max(b.next_offset) AS next_offset, count(*) AS batches
FROM usage_batches b
WHERE b.batch_id = ANY($1::uuid[])
GROUP BY b.cluster, b.topic, b.partition, b.epoch
ORDER BY b.topic, b.partition, b.epoch;

-- name: summary
-- A summary ($1 subscription, $2 hour, day or month, $3 its start, $4 model, $5 tool), as it is stored.
SELECT request_count, error_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count
FROM usage_summaries
WHERE subscription_id = $1 AND period_type = $2 AND period_start = $3 AND model_id = $4 AND tool_name = $5;

-- name: summaries
-- Which models and tools a subscription ($1) used in a period ($2, $3).
SELECT model_id, tool_name FROM usage_summaries WHERE subscription_id = $1 AND period_type = $2 AND period_start = $3 ORDER BY 1, 2;

-- name: summarised
-- The same from the log: event times from $2 up to $3 of subscription $1, model $4, tool $5.
SELECT coalesce(sum(quantity), 0)::bigint AS request_count, coalesce(sum(quantity) FILTER (WHERE status_code >= 400), 0)::bigint AS error_count,
       coalesce(sum(request_tokens), 0)::bigint AS request_tokens, coalesce(sum(response_tokens), 0)::bigint AS response_tokens,
       coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens, coalesce(sum(quantity * latency_ms), 0)::bigint AS latency_sum_ms,
       coalesce(sum(quantity) FILTER (WHERE latency_ms IS NOT NULL), 0)::bigint AS latency_count, count(*) AS rows
FROM usage_logs
WHERE subscription_id = $1 AND created_at >= $2 AND created_at < $3 AND coalesce(model_id, '') = $4 AND coalesce(tool_name, '') = $5;

-- name: summarised_events
-- The events of a summary, at most $6 (NULL: all), in the order in which they happened, after the one of $7 and $8 (NULL: from the first on).
SELECT created_at, id, source, request_id, subscription_id, api_key_id, model_id, tool_name, feature_type, power_level, byok, status_code,
       request_tokens, cached_tokens, response_tokens, batch_id, quantity::integer AS sign, false AS takes_back
FROM usage_logs
WHERE subscription_id = $1 AND created_at >= $2 AND created_at < $3 AND coalesce(model_id, '') = $4 AND coalesce(tool_name, '') = $5
  AND ($7::timestamptz IS NULL OR (created_at, id) > ($7, $8::uuid))
ORDER BY created_at, id
LIMIT $6;

-- name: summarised_origins
-- The ranges of broker offsets that the events of a summary came from.
SELECT b.cluster, b.topic, b.partition, b.epoch, min(b.first_offset) AS first_offset, max(b.next_offset) AS next_offset, count(*) AS batches
FROM usage_batches b
WHERE b.batch_id IN (SELECT batch_id FROM usage_logs
                     WHERE subscription_id = $1 AND created_at >= $2 AND created_at < $3 AND coalesce(model_id, '') = $4 AND coalesce(tool_name, '') = $5)
GROUP BY b.cluster, b.topic, b.partition, b.epoch
ORDER BY b.topic, b.partition, b.epoch;

-- name: archived
-- Whether the months that hold [$1, $2) are archived: those that are.
SELECT month FROM archived_months WHERE month >= date_trunc('month', $1::timestamptz, 'UTC') AND month < $2::timestamptz ORDER BY month;

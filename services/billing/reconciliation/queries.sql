-- The proofs of `tallystick reconcile`. Each query returns rows (measure, left_value, right_value, differing):
-- two sides that were written independently of each other, and the first keys in which they differ, NULL if none do.
-- All of them run in one snapshot. docs/reference/reconciliation.md lists them.

-- name: pin_partitions
-- Comes first in the snapshot: a month that is being detached waits from here on, so that no proof finds it gone from the log while
-- the snapshot still has it there.
SELECT count(*) FROM usage_logs WHERE false;

-- name: positions_add_up
-- Invariant 3: of each source partition, every offset that was passed is accounted for.
SELECT 'offsets' AS measure,
       coalesce(sum(next_offset - start_offset), 0) AS left_value,
       coalesce(sum(inserted + duplicates + quarantined + held + gaps), 0) AS right_value,
       (array_agg(format('%s[%s] epoch %s', topic, partition, epoch) ORDER BY topic, partition, epoch)
           FILTER (WHERE next_offset - start_offset <> inserted + duplicates + quarantined + held + gaps))[1:5] AS differing
FROM ingest_positions;

-- name: positions_equal_batches
-- Each component of a position is the sum over the batches that moved it.
WITH batches AS (
    SELECT cluster, topic, partition, epoch,
           sum(next_offset - first_offset) AS offsets, sum(inserted) AS inserted, sum(duplicates) AS duplicates,
           sum(quarantined) AS quarantined, sum(held) AS held, sum(gaps) AS gaps
    FROM usage_batches WHERE kind = 'kafka'
    GROUP BY cluster, topic, partition, epoch
), sides AS (
    SELECT format('%s[%s] epoch %s', topic, partition, epoch) AS place, v.*
    FROM ingest_positions p FULL JOIN batches b USING (cluster, topic, partition, epoch)
    CROSS JOIN LATERAL (VALUES
        (1, 'offsets', coalesce(p.next_offset - p.start_offset, 0), coalesce(b.offsets, 0)),
        (2, 'inserted', coalesce(p.inserted, 0), coalesce(b.inserted, 0)),
        (3, 'duplicates', coalesce(p.duplicates, 0), coalesce(b.duplicates, 0)),
        (4, 'quarantined', coalesce(p.quarantined, 0), coalesce(b.quarantined, 0)),
        (5, 'held', coalesce(p.held, 0), coalesce(b.held, 0)),
        (6, 'gaps', coalesce(p.gaps, 0), coalesce(b.gaps, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(place ORDER BY place) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: batches_touch
-- The offset ranges of a partition's batches follow one another from its start to its position: no gap, no overlap.
WITH edges AS (
    SELECT cluster, topic, partition, epoch, first_offset, next_offset,
           lag(next_offset) OVER (PARTITION BY cluster, topic, partition, epoch ORDER BY first_offset, next_offset) AS previous
    FROM usage_batches WHERE kind = 'kafka'
), judged AS (
    SELECT format('%s[%s] epoch %s at offset %s', e.topic, e.partition, e.epoch, e.first_offset) AS place,
           e.first_offset = coalesce(e.previous, p.start_offset) AS touches
    FROM edges e LEFT JOIN ingest_positions p USING (cluster, topic, partition, epoch)
    UNION ALL
    SELECT format('%s[%s] epoch %s at its end, offset %s', p.topic, p.partition, p.epoch, p.next_offset),
           p.next_offset = coalesce(max(e.next_offset), p.start_offset)
    FROM ingest_positions p LEFT JOIN edges e USING (cluster, topic, partition, epoch)
    GROUP BY p.cluster, p.topic, p.partition, p.epoch, p.next_offset, p.start_offset
)
SELECT 'edges' AS measure, count(*)::numeric AS left_value, count(*) FILTER (WHERE touches)::numeric AS right_value,
       (array_agg(place ORDER BY place) FILTER (WHERE touches IS NOT TRUE))[1:5] AS differing
FROM judged;

-- name: batches_equal_log
-- Every batch left as many rows in the log, archived months included, as it says (an amendment leaves two); no row is of a batch that does not exist.
WITH log AS (
    SELECT batch_id, sum(rows) AS rows
    FROM (SELECT batch_id, count(*) AS rows FROM usage_logs GROUP BY batch_id UNION ALL SELECT batch_id, rows FROM archived_batches) l
    GROUP BY batch_id
),
sides AS (
    SELECT coalesce(b.batch_id, l.batch_id) AS batch_id, coalesce(b.inserted + b.amended, 0) AS left_value, coalesce(l.rows, 0) AS right_value
    FROM usage_batches b FULL JOIN log l USING (batch_id)
)
SELECT 'rows' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg('batch ' || batch_id ORDER BY batch_id) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: batches_equal_quarantine
-- Every record that a batch refused is kept, replayed or discarded since or not, and nothing else is in quarantine. A replay batch
-- refuses nothing: what it does not take in stays the refused record of the batch that it came in.
WITH kept AS (SELECT batch_id, count(*) AS records FROM quarantined_events GROUP BY batch_id),
sides AS (
    SELECT batch_id, coalesce(b.quarantined, 0) AS left_value, coalesce(k.records, 0) AS right_value
    FROM usage_batches b FULL JOIN kept k USING (batch_id)
)
SELECT 'records' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg('batch ' || batch_id ORDER BY batch_id) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: batches_equal_held
-- Every event that a batch held is kept, attributed or expired since or not.
WITH kept AS (SELECT batch_id, count(*) AS events FROM held_events GROUP BY batch_id),
sides AS (
    SELECT batch_id, coalesce(b.held, 0) AS left_value, coalesce(k.events, 0) AS right_value
    FROM usage_batches b FULL JOIN kept k USING (batch_id)
)
SELECT 'events' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg('batch ' || batch_id ORDER BY batch_id) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: attributed_equal_batches
-- Every held event that was attributed came out of a batch of held events: stored, found to be a duplicate, or refused.
WITH attributed AS (
    SELECT attributed_batch_id AS batch_id, count(*) AS events FROM held_events
    WHERE attributed_batch_id IS NOT NULL GROUP BY attributed_batch_id
), sides AS (
    SELECT batch_id, coalesce(a.events, 0) AS left_value, coalesce(b.inserted + b.duplicates + b.quarantined, 0) AS right_value
    FROM attributed a FULL JOIN (SELECT * FROM usage_batches WHERE kind = 'held') b USING (batch_id)
)
SELECT 'events' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg('batch ' || batch_id ORDER BY batch_id) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: replayed_equal_batches
-- Every quarantined record that was replayed came out of one replay batch: stored, found to be a duplicate, or held.
WITH replayed AS (
    SELECT resolved_batch_id AS batch_id, count(*) AS records FROM quarantined_events
    WHERE resolved_batch_id IS NOT NULL GROUP BY resolved_batch_id
), sides AS (
    SELECT batch_id, coalesce(r.records, 0) AS left_value, coalesce(b.inserted + b.duplicates + b.held, 0) AS right_value
    FROM replayed r FULL JOIN (SELECT * FROM usage_batches WHERE kind = 'replay') b USING (batch_id)
)
SELECT 'records' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg('batch ' || batch_id ORDER BY batch_id) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: log_has_subscriptions
-- The log has no foreign keys: here is their proof.
WITH used AS (SELECT subscription_id FROM usage_logs UNION SELECT subscription_id FROM archived_usage)
SELECT 'subscriptions' AS measure, count(*)::numeric AS left_value, count(s.id)::numeric AS right_value,
       (array_agg('subscription ' || u.subscription_id ORDER BY u.subscription_id) FILTER (WHERE s.id IS NULL))[1:5] AS differing
FROM used u LEFT JOIN subscriptions s ON s.id = u.subscription_id;

-- name: log_equals_hours
-- Invariant 4, first part: the hour summaries are the log, by subscription, hour, model and tool. Batches that the aggregator has not
-- applied yet are left out; that there are none is another statement. Of an archived month, its sums are the log.
WITH log AS (
    SELECT subscription_id, date_trunc('hour', created_at, 'UTC') AS period_start,
           coalesce(model_id, '') AS model_id, coalesce(tool_name, '') AS tool_name,
           sum(quantity) AS requests, coalesce(sum(quantity) FILTER (WHERE status_code >= 400), 0) AS errors,
           sum(request_tokens) AS request_tokens, sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens
    FROM usage_logs
    WHERE batch_id NOT IN (
        SELECT batch_id FROM usage_batches WHERE recorded_at >= (SELECT pruned_before FROM aggregator_inbox_watermark)
        EXCEPT SELECT batch_id FROM aggregator_inbox)
    GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT subscription_id, hour, model_id, tool_name, sum(requests), sum(errors), sum(request_tokens), sum(response_tokens), sum(cached_tokens)
    FROM archived_usage GROUP BY 1, 2, 3, 4
), sides AS (
    SELECT CASE WHEN v.left_value <> v.right_value THEN  -- spelling and sorting millions of keys that agree would take half of the time
               format('subscription %s, hour %s, %s%s', subscription_id, to_char(period_start, 'YYYY-MM-DD HH24'), model_id, tool_name)
           END AS key, v.*
    FROM log l FULL JOIN (SELECT * FROM usage_summaries WHERE period_type = 'hour') h
         USING (subscription_id, period_start, model_id, tool_name)
    CROSS JOIN LATERAL (VALUES
        (1, 'requests', coalesce(l.requests, 0), coalesce(h.request_count, 0)),
        (2, 'errors', coalesce(l.errors, 0), coalesce(h.error_count, 0)),
        (3, 'request tokens', coalesce(l.request_tokens, 0), coalesce(h.request_tokens, 0)),
        (4, 'response tokens', coalesce(l.response_tokens, 0), coalesce(h.response_tokens, 0)),
        (5, 'cached tokens', coalesce(l.cached_tokens, 0), coalesce(h.cached_tokens, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: hours_equal_period
-- The day and month summaries ($1 is 'day' or 'month') are the sums of the hours, by subscription, model and tool.
WITH hours AS (
    SELECT subscription_id, date_trunc($1, period_start, 'UTC') AS period_start, model_id, tool_name,
           sum(request_count) AS request_count, sum(error_count) AS error_count, sum(request_tokens) AS request_tokens,
           sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens
    FROM usage_summaries WHERE period_type = 'hour' GROUP BY 1, 2, 3, 4
), sides AS (
    SELECT CASE WHEN v.left_value <> v.right_value THEN
               format('subscription %s, %s %s, %s%s', subscription_id, $1, to_char(period_start, 'YYYY-MM-DD'), model_id, tool_name)
           END AS key, v.*
    FROM hours h FULL JOIN (SELECT * FROM usage_summaries WHERE period_type = $1) p
         USING (subscription_id, period_start, model_id, tool_name)
    CROSS JOIN LATERAL (VALUES
        (1, 'requests', coalesce(h.request_count, 0), coalesce(p.request_count, 0)),
        (2, 'errors', coalesce(h.error_count, 0), coalesce(p.error_count, 0)),
        (3, 'request tokens', coalesce(h.request_tokens, 0), coalesce(p.request_tokens, 0)),
        (4, 'response tokens', coalesce(h.response_tokens, 0), coalesce(p.response_tokens, 0)),
        (5, 'cached tokens', coalesce(h.cached_tokens, 0), coalesce(p.cached_tokens, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: summaries_equal_totals
-- What everybody used is the sum of the summaries over all subscriptions, by hour, day and month, model and tool. Each length by itself: what
-- is added to the totals of hours is not what is added to those of days, and nothing else compares them.
WITH summed AS (
    SELECT period_type, period_start, model_id, tool_name, sum(request_count) AS requests, sum(error_count) AS errors,
           sum(request_tokens) AS request_tokens, sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens,
           sum(latency_sum_ms) AS latency_sum_ms, sum(latency_count) AS latencies
    FROM usage_summaries GROUP BY 1, 2, 3, 4
), totals AS (
    SELECT period_type, period_start, model_id, tool_name, sum(request_count) AS requests, sum(error_count) AS errors,
           sum(request_tokens) AS request_tokens, sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens,
           sum(latency_sum_ms) AS latency_sum_ms, sum(latency_count) AS latencies
    FROM usage_totals GROUP BY 1, 2, 3, 4
), sides AS (
    SELECT CASE WHEN v.left_value <> v.right_value THEN
               format('%s %s, %s%s', period_type, to_char(period_start, 'YYYY-MM-DD HH24'), model_id, tool_name)
           END AS key, v.*
    FROM summed s FULL JOIN totals t USING (period_type, period_start, model_id, tool_name)
    CROSS JOIN LATERAL (VALUES
        (1, 'requests', coalesce(s.requests, 0), coalesce(t.requests, 0)),
        (2, 'errors', coalesce(s.errors, 0), coalesce(t.errors, 0)),
        (3, 'request tokens', coalesce(s.request_tokens, 0), coalesce(t.request_tokens, 0)),
        (4, 'response tokens', coalesce(s.response_tokens, 0), coalesce(t.response_tokens, 0)),
        (5, 'cached tokens', coalesce(s.cached_tokens, 0), coalesce(t.cached_tokens, 0)),
        (6, 'latency ms', coalesce(s.latency_sum_ms, 0), coalesce(t.latency_sum_ms, 0)),
        (7, 'latencies', coalesce(s.latencies, 0), coalesce(t.latencies, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: hours_equal_uses
-- The hour summaries are the sums of the hours of their uses, by subscription, model and tool: of the hours that these are kept of.
WITH uses AS (
    SELECT subscription_id, hour AS period_start, model_id, tool_name, sum(request_count) AS requests,
           coalesce(sum(request_count) FILTER (WHERE failed), 0) AS errors, sum(request_tokens) AS request_tokens,
           sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens
    FROM usage_hours WHERE hour >= (SELECT since FROM usage_hours_kept) GROUP BY 1, 2, 3, 4
), sides AS (
    SELECT CASE WHEN v.left_value <> v.right_value THEN
               format('subscription %s, hour %s, %s%s', subscription_id, to_char(period_start, 'YYYY-MM-DD HH24'), model_id, tool_name)
           END AS key, v.*
    FROM (SELECT * FROM usage_summaries WHERE period_type = 'hour' AND period_start >= (SELECT since FROM usage_hours_kept)) h
    FULL JOIN uses u USING (subscription_id, period_start, model_id, tool_name)
    CROSS JOIN LATERAL (VALUES
        (1, 'requests', coalesce(h.request_count, 0), coalesce(u.requests, 0)),
        (2, 'errors', coalesce(h.error_count, 0), coalesce(u.errors, 0)),
        (3, 'request tokens', coalesce(h.request_tokens, 0), coalesce(u.request_tokens, 0)),
        (4, 'response tokens', coalesce(h.response_tokens, 0), coalesce(u.response_tokens, 0)),
        (5, 'cached tokens', coalesce(h.cached_tokens, 0), coalesce(u.cached_tokens, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: hours_equal_counters
-- What a quota is judged by is what was used in its period, [quota_period_start, reset_at).
WITH used AS (
    SELECT s.id, sum(h.request_count) AS requests, sum(h.total_tokens) AS tokens
    FROM subscriptions s
    JOIN usage_summaries h ON h.subscription_id = s.id AND h.period_type = 'hour'
     AND h.period_start >= s.quota_period_start AND h.period_start < coalesce(s.reset_at, 'infinity')
    GROUP BY s.id
), sides AS (
    SELECT 'subscription ' || s.id AS key, v.*
    FROM subscriptions s LEFT JOIN used u USING (id)
    CROSS JOIN LATERAL (VALUES
        (1, 'requests', coalesce(u.requests, 0), s.used_requests),
        (2, 'tokens', coalesce(u.tokens, 0), s.used_tokens)) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: log_equals_key_days
-- What a key's limit by day is judged by is what was used with it on that day. Of the days that are kept, without archived months and
-- without batches that the aggregator has not applied yet.
WITH log AS (
    SELECT subscription_id, api_key_id, (created_at AT TIME ZONE 'UTC')::date AS day, sum(quantity) AS requests, sum(total_tokens) AS tokens
    FROM usage_logs
    WHERE api_key_id IS NOT NULL AND created_at >= (SELECT since::timestamp AT TIME ZONE 'UTC' FROM api_key_days_kept)
      AND batch_id NOT IN (
        SELECT batch_id FROM usage_batches WHERE recorded_at >= (SELECT pruned_before FROM aggregator_inbox_watermark)
        EXCEPT SELECT batch_id FROM aggregator_inbox)
    GROUP BY 1, 2, 3
), days AS (
    SELECT subscription_id, api_key_id, day, requests, tokens FROM api_key_days
    WHERE day >= (SELECT since FROM api_key_days_kept)
      AND date_trunc('month', day::timestamp) AT TIME ZONE 'UTC' NOT IN (SELECT month FROM archived_months)
), sides AS (
    SELECT format('subscription %s, key %s, %s', subscription_id, api_key_id, day) AS key, v.*
    FROM log l FULL JOIN days d USING (subscription_id, api_key_id, day)
    CROSS JOIN LATERAL (VALUES
        (1, 'requests', coalesce(l.requests, 0), coalesce(d.requests, 0)),
        (2, 'tokens', coalesce(l.tokens, 0), coalesce(d.tokens, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: batches_equal_aggregator_inbox
-- Every usage.recorded message of every batch was applied by the aggregator, once. Of batches before the watermark, up to which the
-- inbox is pruned, that was seen when they were.
WITH inbox AS (SELECT batch_id, count(*) AS messages, sum(event_count) AS events FROM aggregator_inbox GROUP BY batch_id),
sides AS (
    SELECT 'batch ' || batch_id AS key, v.*
    FROM (SELECT * FROM usage_batches WHERE recorded_at >= (SELECT pruned_before FROM aggregator_inbox_watermark)) b
    FULL JOIN inbox i USING (batch_id)
    CROSS JOIN LATERAL (VALUES
        (1, 'messages', coalesce(b.message_count, 0)::numeric, coalesce(i.messages, 0)::numeric),
        (2, 'rows', coalesce(b.inserted + b.amended, 0)::numeric, coalesce(i.events, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: batches_equal_billing_inbox
-- Every usage.recorded message of every batch was rated by billing, once.
WITH inbox AS (SELECT batch_id, count(*) AS messages, sum(event_count) AS events FROM billing_inbox GROUP BY batch_id),
sides AS (
    SELECT 'batch ' || batch_id AS key, v.*
    FROM usage_batches b FULL JOIN inbox i USING (batch_id)
    CROSS JOIN LATERAL (VALUES
        (1, 'messages', coalesce(b.message_count, 0)::numeric, coalesce(i.messages, 0)::numeric),
        (2, 'rows', coalesce(b.inserted + b.amended, 0)::numeric, coalesce(i.events, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: log_equals_rated
-- All usage of the log was rated or is held, by everything that a price can distinguish. Batches that billing has not received yet are
-- left out; that there are none is another statement. Adjustments after a change of price sum to nothing here.
WITH log AS (
    SELECT subscription_id, date_trunc('hour', created_at, 'UTC') AS hour, coalesce(model_id, '') AS model_id,
           coalesce(tool_name, '') AS tool_name, coalesce(feature_type, '') AS feature_type, power_level, byok,
           CASE WHEN status_code < 400 THEN 2 ELSE status_code / 100 END AS status_class,
           sum(quantity) AS requests, coalesce(sum(quantity) FILTER (WHERE status_code >= 400), 0) AS errors,
           sum(request_tokens) AS request_tokens, sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens
    FROM usage_logs
    WHERE batch_id NOT IN (SELECT batch_id FROM usage_batches EXCEPT SELECT batch_id FROM billing_inbox)
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    UNION ALL
    SELECT subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class,
           requests, errors, request_tokens, response_tokens, cached_tokens
    FROM archived_usage
), rated AS (
    SELECT subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class::integer AS status_class,
           sum(requests) AS requests, sum(errors) AS errors, sum(request_tokens) AS request_tokens,
           sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens
    FROM rated_usage GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), sides AS (
    SELECT format('subscription %s, hour %s, %s%s, class %s', subscription_id, to_char(hour, 'YYYY-MM-DD HH24'), model_id, tool_name, status_class) AS key, v.*
    FROM log l FULL JOIN rated r USING (subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class)
    CROSS JOIN LATERAL (VALUES
        (1, 'requests', coalesce(l.requests, 0), coalesce(r.requests, 0)),
        (2, 'errors', coalesce(l.errors, 0), coalesce(r.errors, 0)),
        (3, 'request tokens', coalesce(l.request_tokens, 0), coalesce(r.request_tokens, 0)),
        (4, 'response tokens', coalesce(l.response_tokens, 0), coalesce(r.response_tokens, 0)),
        (5, 'cached tokens', coalesce(l.cached_tokens, 0), coalesce(r.cached_tokens, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: rated_equals_billed
-- Invariant 4, second part: all rated usage is invoiced, settled or still to be billed, line by line and settlement by settlement.
WITH rated AS (
    SELECT currency, invoice_line_id, settlement_id, sum(amount) AS amount FROM rated_usage
    WHERE amount IS NOT NULL GROUP BY currency, invoice_line_id, settlement_id
), billed AS (
    SELECT currency, usage_line_id AS invoice_line_id, NULL::uuid AS settlement_id, sum(exact_amount) AS amount
    FROM usage_lines GROUP BY currency, usage_line_id
    UNION ALL
    SELECT currency, NULL, id, rated_amount FROM credit_settlements
    UNION ALL
    SELECT currency, NULL, NULL, amount FROM rated WHERE invoice_line_id IS NULL AND settlement_id IS NULL
), sides AS (
    SELECT coalesce(r.currency, b.currency) AS currency,
           coalesce('line ' || coalesce(r.invoice_line_id, b.invoice_line_id), 'settlement ' || coalesce(r.settlement_id, b.settlement_id), 'unbilled') AS key,
           coalesce(r.amount, 0) AS left_value, coalesce(b.amount, 0) AS right_value
    FROM rated r FULL JOIN billed b
      ON (r.currency, coalesce(r.invoice_line_id, r.settlement_id, '00000000-0000-0000-0000-000000000000'))
       = (b.currency, coalesce(b.invoice_line_id, b.settlement_id, '00000000-0000-0000-0000-000000000000'))
)
SELECT currency AS measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY currency ORDER BY currency;

-- name: lines_equal_provenance
-- Every line of usage still says how many events are behind it, and the digest of its rated usage is the one that was stored with it.
WITH rated AS (
    SELECT invoice_line_id AS id, sum(requests) AS events, sum(rated_usage_digest(r))::text AS digest
    FROM rated_usage r WHERE invoice_line_id IS NOT NULL GROUP BY invoice_line_id
), sides AS (
    SELECT 'line ' || coalesce(l.id, r.id) AS key, coalesce(l.event_count, 0) AS left_value, coalesce(r.events, 0) AS right_value,
           l.checksum IS DISTINCT FROM r.digest AS changed
    FROM (SELECT * FROM usage_lines WHERE id = usage_line_id) l FULL JOIN rated r USING (id)
)
SELECT 'events' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE changed OR left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: reservations_equal_holds
-- What is held of each subscription's quotas is the sum of its open reservations.
WITH open AS (
    SELECT subscription_id, count(*) AS open, sum(requests) AS requests, sum(tokens) AS tokens
    FROM reservations WHERE state = 'held' GROUP BY subscription_id
), sides AS (
    SELECT 'subscription ' || subscription_id AS key, v.*
    FROM open r FULL JOIN reservation_holds h USING (subscription_id)
    CROSS JOIN LATERAL (VALUES
        (1, 'reservations', coalesce(r.open, 0), coalesce(h.open, 0)),
        (2, 'requests', coalesce(r.requests, 0), coalesce(h.requests, 0)),
        (3, 'tokens', coalesce(r.tokens, 0), coalesce(h.tokens, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: reserved_credits_equal_holds
-- What is held of each user's credits is the sum of the credits legs that are not released.
WITH open AS (SELECT user_id, sum(credits) AS credits FROM reservation_credits WHERE state <> 'released' GROUP BY user_id),
sides AS (
    SELECT 'user ' || user_id AS key, coalesce(r.credits, 0) AS left_value, coalesce(h.credits, 0) AS right_value
    FROM open r FULL JOIN credit_holds h USING (user_id)
)
SELECT 'credits' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: settlements_equal_ledger
-- Every settlement, and every fee of a prepaid subscription, is in the ledger with what it debited and what it booked as owed; no ledger
-- entry settles anything without one.
WITH entries AS (
    SELECT id AS transaction_id, user_id, -amount AS debited, owed_change AS owed FROM credit_transactions WHERE request ->> 'call' = 'settle'
), sides AS (
    SELECT coalesce(s.key, 'ledger entry ' || e.transaction_id) AS key, s.user_id <> e.user_id AS strange, v.*
    FROM (SELECT 'settlement ' || id AS key, user_id, transaction_id, debited, owed FROM credit_settlements WHERE amount <> 0
          UNION ALL
          SELECT 'charge ' || charge_key, user_id, transaction_id, debited, owed FROM credit_charges) s
    FULL JOIN entries e USING (transaction_id)
    CROSS JOIN LATERAL (VALUES
        (1, 'debited', coalesce(s.debited, 0), coalesce(e.debited, 0)),
        (2, 'owed', coalesce(s.owed, 0), coalesce(e.owed, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE strange OR left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: ledger_equals_balances
-- The balance of every account, and what it owes, is the sum of its ledger.
WITH ledger AS (SELECT user_id, sum(amount) AS amount, sum(owed_change) AS owed FROM credit_transactions GROUP BY user_id),
sides AS (
    SELECT 'user ' || user_id AS key, v.*
    FROM ledger l FULL JOIN user_credits c USING (user_id)
    CROSS JOIN LATERAL (VALUES
        (1, 'balance', coalesce(l.amount, 0), coalesce(c.balance, 0)),
        (2, 'owed', coalesce(l.owed, 0), coalesce(c.owed, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: ledger_is_chained
-- Every entry of a ledger begins with the balance that the one before it ended with, and none is missing.
WITH entries AS (
    SELECT user_id, sequence, balance_before, amount, balance_after, owed_change, owed_after,
           lag(balance_after, 1, 0::numeric) OVER w AS previous_balance, lag(owed_after, 1, 0::numeric) OVER w AS previous_owed,
           row_number() OVER w AS place
    FROM credit_transactions WINDOW w AS (PARTITION BY user_id ORDER BY sequence)
), judged AS (
    SELECT format('user %s, entry %s', user_id, sequence) AS key,
           sequence = place AND balance_before = previous_balance AND balance_before + amount = balance_after
               AND previous_owed + owed_change = owed_after AS chained
    FROM entries
)
SELECT 'entries' AS measure, count(*)::numeric AS left_value, count(*) FILTER (WHERE chained)::numeric AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE NOT chained))[1:5] AS differing
FROM judged;

-- name: grants_equal_balances
-- What remains of a user's grants of prepaid credits is the balance.
WITH granted AS (SELECT user_id, sum(remaining) AS remaining FROM credit_grants GROUP BY user_id),
sides AS (
    SELECT 'user ' || user_id AS key, coalesce(g.remaining, 0) AS left_value, coalesce(c.balance, 0) AS right_value
    FROM granted g FULL JOIN user_credits c USING (user_id)
)
SELECT 'credits' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: postings_equal_ledger
-- Every ledger entry is spread over grants of its user, whole.
WITH posted AS (
    SELECT p.transaction_id AS id, sum(p.amount) AS amount, count(DISTINCT g.user_id) AS users, min(g.user_id::text) AS user_id
    FROM credit_grant_postings p JOIN credit_grants g ON g.id = p.grant_id GROUP BY p.transaction_id
), sides AS (
    SELECT 'ledger entry ' || id AS key, coalesce(p.amount, 0) AS left_value, coalesce(t.amount, 0) AS right_value,
           p.users > 1 OR p.user_id <> t.user_id::text AS strange
    FROM posted p FULL JOIN credit_transactions t USING (id)
)
SELECT 'credits' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE strange OR left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: postings_equal_grants
-- What remains of every grant is what came in less what went.
WITH posted AS (SELECT grant_id AS id, sum(amount) AS amount FROM credit_grant_postings GROUP BY grant_id),
sides AS (
    SELECT 'grant ' || id AS key, coalesce(p.amount, 0) AS left_value, coalesce(g.remaining, 0) AS right_value
    FROM posted p FULL JOIN credit_grants g USING (id)
)
SELECT 'credits' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: applications_equal_money_grants
-- What is gone of every grant in money was applied to invoices, and not restored.
WITH applied AS (
    SELECT credit_id AS id, sum(CASE kind WHEN 'applied' THEN amount ELSE -amount END) AS amount FROM credit_applications GROUP BY credit_id
), sides AS (
    SELECT c.currency, 'grant ' || c.id AS key, coalesce(a.amount, 0) AS left_value, c.amount - c.remaining AS right_value
    FROM credits c LEFT JOIN applied a USING (id)
)
SELECT currency AS measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY currency ORDER BY currency;

-- name: invoices_equal_lines
-- The subtotal of every issued invoice is the sum of its rounded lines, and of the items that the customer reads; its exact subtotal
-- that of their exact amounts.
WITH lines AS (
    SELECT invoice_id, sum(amount) AS amount, sum(exact_amount) AS exact_amount, array_agg((id, amount)::text ORDER BY position) AS parts
    FROM invoice_lines GROUP BY invoice_id
), items AS (
    SELECT i.id AS invoice_id, array_agg(((item ->> 'id')::uuid, (item ->> 'amount')::numeric)::text ORDER BY place) AS parts
    FROM invoices i CROSS JOIN LATERAL jsonb_array_elements(i.items) WITH ORDINALITY e (item, place) GROUP BY i.id
), sides AS (
    SELECT i.currency, 'invoice ' || i.number AS key, i.subtotal AS left_value, coalesce(l.amount, 0) AS right_value,
           i.exact_subtotal <> coalesce(l.exact_amount, 0) OR l.parts IS DISTINCT FROM t.parts OR i.total <> i.subtotal + i.tax AS changed
    FROM invoices i LEFT JOIN lines l ON l.invoice_id = i.id LEFT JOIN items t ON t.invoice_id = i.id
    WHERE i.number IS NOT NULL
)
SELECT currency AS measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE changed OR left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY currency ORDER BY currency;

-- name: numbers_are_gapless
-- Every number that was taken, per entity, series and year, is on an invoice or on a credit note.
WITH taken AS (
    SELECT n.entity, s.number, invoice_number_text(n.entity, n.series, n.year, s.number) AS spelled
    FROM invoice_numbers n LEFT JOIN LATERAL generate_series(1, n.next - 1) AS s (number) ON true
), used AS (
    SELECT entity, number AS spelled FROM invoices WHERE number IS NOT NULL
    UNION ALL
    SELECT entity, number FROM credit_notes
), sides AS (
    SELECT coalesce(t.spelled, u.spelled) AS key, t.number IS NOT NULL AS taken, u.spelled IS NOT NULL AS used
    FROM (SELECT * FROM taken WHERE number IS NOT NULL) t FULL JOIN used u USING (entity, spelled)
)
SELECT 'numbers' AS measure, count(*) FILTER (WHERE taken)::numeric AS left_value, count(*) FILTER (WHERE used)::numeric AS right_value,
       (array_agg('number ' || key ORDER BY key) FILTER (WHERE taken <> used))[1:5] AS differing
FROM sides;

-- name: notes_equal_lines
-- Every credit note is the sum of its lines, takes back no more of a line than was invoiced, and is in what its invoice says was credited.
WITH lines AS (
    SELECT credit_note_id AS id, sum(amount) AS amount, sum(exact_amount) AS exact_amount FROM credit_note_lines GROUP BY credit_note_id
), over AS (
    SELECT n.invoice_id
    FROM credit_note_lines l JOIN credit_notes n ON n.id = l.credit_note_id JOIN invoice_lines i ON i.id = l.invoice_line_id
    GROUP BY n.invoice_id, i.id
    HAVING sum(l.amount) NOT BETWEEN least(i.amount, 0) AND greatest(i.amount, 0)
), sides AS (
    SELECT n.currency, 'credit note ' || n.number AS key, n.subtotal AS left_value, coalesce(l.amount, 0) AS right_value,
           n.exact_subtotal IS DISTINCT FROM l.exact_amount OR n.total <> n.subtotal + n.tax OR n.invoice_id IN (SELECT invoice_id FROM over) AS changed
    FROM credit_notes n LEFT JOIN lines l USING (id)
    UNION ALL
    SELECT i.currency, 'credited on invoice ' || coalesce(i.number, i.id::text), i.amount_credited, coalesce(sum(n.total), 0), false
    FROM invoices i LEFT JOIN credit_notes n ON n.invoice_id = i.id
    WHERE i.amount_credited <> 0 OR n.id IS NOT NULL
    GROUP BY i.id
)
SELECT currency AS measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE changed OR left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY currency ORDER BY currency;

-- name: set_offs_equal_lines
-- Every invoice line that sets off what a credit note gave is written down with the note's line, and no note's line is set off beyond what
-- it gave.
WITH lines AS (
    SELECT id, currency, exact_amount FROM invoice_lines WHERE kind = 'adjustment' AND dimensions ? 'credit_note'
), sides AS (
    SELECT coalesce(l.currency, b.currency) AS currency, 'line ' || coalesce(l.id, s.invoice_line_id) AS key,
           coalesce(l.exact_amount, 0) AS left_value, coalesce(s.amount, 0) AS right_value
    FROM lines l FULL JOIN (SELECT * FROM credit_set_offs WHERE invoice_line_id IS NOT NULL) s ON s.invoice_line_id = l.id
    LEFT JOIN invoice_lines b ON b.id = s.invoice_line_id
    UNION ALL
    SELECT n.currency, 'line of a credit note ' || n.id, 0, greatest(sum(s.amount) * sign(n.exact_amount) - abs(n.exact_amount), 0)
    FROM credit_set_offs s JOIN credit_note_lines n ON n.id = s.credit_note_line_id
    JOIN invoice_lines l ON l.id = s.invoice_line_id JOIN invoices i ON i.id = l.invoice_id
    WHERE i.status <> 'cancelled'
    GROUP BY n.id
)
SELECT currency AS measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY currency ORDER BY currency;

-- name: charges_credited_once
-- Of every charge of a plan of which a credit note took something back: what notes and later invoices (late usage, a change of plan) gave
-- back is at most what was charged, to a smallest unit for each line. Of what takes something off it is the other way round. A credit of a
-- change of plan belongs to the fee whose time it ends.
WITH charged AS MATERIALIZED (
    SELECT l.id, l.currency, l.subscription_id, l.period_start, l.period_end, split_part(l.charge_key, '#', 1) AS key,
           split_part(l.charge_key, ':' || l.subscription_id, 1) AS name, l.charge_key LIKE '%:credit' AS credits,
           l.exact_amount * CASE WHEN l.kind = 'discount' THEN -1 ELSE 1 END AS amount
    FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
    WHERE l.charge_key IS NOT NULL AND l.subscription_id IS NOT NULL AND i.number IS NOT NULL
), credited AS (
    SELECT DISTINCT ON (c.id) c.id, f.key
    FROM charged c JOIN charged f USING (subscription_id, period_end)
    WHERE c.credits AND NOT f.credits AND f.period_start < c.period_start AND f.name IN (c.name, regexp_replace(c.name, 'proration$', 'fee'))
    ORDER BY c.id, f.period_start DESC
), notes AS MATERIALIZED (
    SELECT l.invoice_line_id AS id, sum(l.exact_amount) AS amount, count(*) AS lines
    FROM credit_note_lines l JOIN credit_notes n ON n.id = l.credit_note_id WHERE n.kind IN ('correction', 'void') GROUP BY l.invoice_line_id
), set_off AS (
    SELECT nl.invoice_line_id AS id, sum(s.amount - coalesce(n.amount, 0)) AS amount, count(*) AS lines
    FROM credit_set_offs s JOIN credit_note_lines nl ON nl.id = s.credit_note_line_id
    JOIN invoice_lines l ON l.id = s.invoice_line_id JOIN invoices i ON i.id = l.invoice_id AND NOT i.rebilled
    LEFT JOIN notes n ON n.id = l.id
    GROUP BY nl.invoice_line_id
), families AS (
    SELECT c.currency, coalesce(p.key, c.key) AS key, sum(greatest(c.amount, 0)) AS charged,
           sum(CASE WHEN c.key LIKE 'discount%' OR c.key LIKE 'included%' THEN -1 ELSE 1 END * (coalesce(n.amount, 0) - coalesce(o.amount, 0)))
               - sum(least(c.amount, 0)) AS given,
           sum(1 + coalesce(n.lines, 0) + coalesce(o.lines, 0)) * power(10::numeric, -minor_units(c.currency)) AS rounding
    FROM charged c LEFT JOIN credited p USING (id) LEFT JOIN notes n USING (id) LEFT JOIN set_off o USING (id)
    GROUP BY c.currency, coalesce(p.key, c.key) HAVING count(n.id) > 0
)
SELECT currency AS measure, sum(given) AS left_value, sum(CASE WHEN given > charged + rounding THEN charged ELSE given END) AS right_value,
       (array_agg('charge ' || key ORDER BY key) FILTER (WHERE given > charged + rounding))[1:5] AS differing
FROM families GROUP BY currency ORDER BY currency;

-- name: log_equals_identities
-- Every row of the log is guarded once, at its own time: nothing can be stored a second time. Identities without a row are those of
-- archived months, and of voids, which leave a row of another id.
WITH guards AS (SELECT id, min(created_at) AS created_at, count(*) AS guards FROM usage_ids GROUP BY id),
judged AS (
    SELECT l.id, l.created_at, (g.guards = 1 AND g.created_at = l.created_at) IS TRUE AS guarded
    FROM usage_logs l LEFT JOIN guards g USING (id)
)
SELECT 'rows' AS measure, count(*)::numeric AS left_value, count(*) FILTER (WHERE guarded)::numeric AS right_value,
       (array_agg(format('event %s of %s', id, created_at)) FILTER (WHERE NOT guarded))[1:5] AS differing
FROM judged;

-- name: paid_equals_allocations
-- What is paid of invoices, and what payments that came pay, is what was allocated.
WITH sides AS (
    SELECT i.currency, 'paid of invoice ' || coalesce(i.number, i.id::text) AS key, i.amount_paid AS left_value,
           coalesce(sum(a.amount), 0) AS right_value
    FROM invoices i LEFT JOIN payment_allocations a ON a.invoice_id = i.id
    GROUP BY i.id
    UNION ALL
    SELECT p.currency, 'allocated of payment ' || p.id, p.allocated_amount,
           coalesce(sum(a.amount) FILTER (WHERE p.status IN ('completed', 'refunded')), 0)
    FROM payments p LEFT JOIN payment_allocations a ON a.payment_id = p.id
    GROUP BY p.id
)
SELECT currency AS measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY currency HAVING sum(left_value) <> 0 OR sum(right_value) <> 0 OR bool_or(left_value <> right_value) ORDER BY currency;

-- name: refunded_equals_refunds
-- What was given back of payments is the sum of their refunds that were made.
WITH sides AS (
    SELECT p.currency, 'refunded of payment ' || p.id AS key, p.refunded_amount AS left_value,
           coalesce(sum(r.amount) FILTER (WHERE r.status = 'completed'), 0) AS right_value
    FROM payments p LEFT JOIN payment_refunds r ON r.payment_id = p.id
    GROUP BY p.id
)
SELECT currency AS measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY currency ORDER BY currency;

-- name: packages_equal_purchases
-- Every package that was paid for is one purchase in the ledger, and every purchase that names a payment was paid for.
WITH paid AS (
    SELECT id, user_id, package_id FROM payments WHERE package_id IS NOT NULL AND status IN ('completed', 'refunded')
), bought AS (
    SELECT payment_id AS id, user_id, package_id, count(*) AS times FROM credit_transactions
    WHERE transaction_type = 'purchase' AND payment_id IS NOT NULL AND package_id IS NOT NULL GROUP BY payment_id, user_id, package_id
), sides AS (
    SELECT 'payment ' || coalesce(p.id, b.id) AS key, (p.id IS NOT NULL)::int AS left_value, coalesce(b.times, 0) AS right_value
    FROM paid p FULL JOIN bought b ON b.id = p.id AND b.user_id = p.user_id AND b.package_id = p.package_id
)
SELECT 'purchases' AS measure, coalesce(sum(left_value), 0)::numeric AS left_value, coalesce(sum(right_value), 0)::numeric AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: history_equals_payments
-- Customers are told of every payment and refund once, with its amount and what became of it.
WITH told AS (
    SELECT payment_id, refund_id, count(*) AS times, min(status) AS status, min(amount) AS amount FROM billing_history
    WHERE payment_id IS NOT NULL GROUP BY payment_id, refund_id
), sides AS (
    SELECT 'payment ' || p.id AS key, coalesce(t.times, 0) AS times,
           (t.status, t.amount) IS DISTINCT FROM
               (CASE p.status WHEN 'refunded' THEN 'completed' WHEN 'processing' THEN 'pending' ELSE p.status END, p.amount) AS changed
    FROM payments p LEFT JOIN told t ON t.payment_id = p.id AND t.refund_id IS NULL
    UNION ALL
    SELECT 'refund ' || r.id, coalesce(t.times, 0),
           (t.status, t.amount) IS DISTINCT FROM (CASE r.status WHEN 'completed' THEN 'refunded' ELSE r.status END, r.amount)
    FROM payment_refunds r LEFT JOIN told t ON t.refund_id = r.id
)
SELECT 'rows' AS measure, count(*)::numeric AS left_value, coalesce(sum(times), 0)::numeric AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE times <> 1 OR changed))[1:5] AS differing
FROM sides;

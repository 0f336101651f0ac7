-- The proofs of `tallystick reconcile`. Each query returns rows (measure, left_value, right_value, differing):
-- two sides that were written independently of each other, and the first keys in which they differ, NULL if none do.
-- All of them run in one snapshot. docs/reference/reconciliation.md lists them.

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
-- Every batch left as many rows in the log as it says, and no row is of a batch that does not exist.
WITH log AS (SELECT batch_id, count(*) AS rows FROM usage_logs GROUP BY batch_id),
sides AS (
    SELECT coalesce(b.batch_id, l.batch_id) AS batch_id, coalesce(b.inserted, 0) AS left_value, coalesce(l.rows, 0) AS right_value
    FROM usage_batches b FULL JOIN log l USING (batch_id)
)
SELECT 'rows' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg('batch ' || batch_id ORDER BY batch_id) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: batches_equal_quarantine
-- Every record that a batch refused is kept, and nothing else is in quarantine.
WITH kept AS (SELECT batch_id, count(*) AS records FROM quarantined_events GROUP BY batch_id),
sides AS (
    SELECT batch_id, coalesce(b.quarantined, 0) AS left_value, coalesce(k.records, 0) AS right_value
    FROM usage_batches b FULL JOIN kept k USING (batch_id)
)
SELECT 'records' AS measure, coalesce(sum(left_value), 0) AS left_value, coalesce(sum(right_value), 0) AS right_value,
       (array_agg('batch ' || batch_id ORDER BY batch_id) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides;

-- name: batches_equal_held
-- Every event that a batch held is kept, attributed since or not.
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

-- name: log_has_subscriptions
-- The log has no foreign keys: here is their proof.
WITH used AS (SELECT DISTINCT subscription_id FROM usage_logs)
SELECT 'subscriptions' AS measure, count(*)::numeric AS left_value, count(s.id)::numeric AS right_value,
       (array_agg('subscription ' || u.subscription_id ORDER BY u.subscription_id) FILTER (WHERE s.id IS NULL))[1:5] AS differing
FROM used u LEFT JOIN subscriptions s ON s.id = u.subscription_id;

-- name: log_equals_hours
-- Invariant 4, first part: the hour summaries are the log, by subscription, hour, model and tool.
WITH log AS (
    SELECT subscription_id, date_trunc('hour', created_at, 'UTC') AS period_start,
           coalesce(model_id, '') AS model_id, coalesce(tool_name, '') AS tool_name,
           count(*) AS requests, count(*) FILTER (WHERE status_code >= 400) AS errors,
           sum(request_tokens) AS request_tokens, sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens
    FROM usage_logs GROUP BY 1, 2, 3, 4
), sides AS (
    SELECT format('subscription %s, hour %s, %s%s', subscription_id, to_char(period_start, 'YYYY-MM-DD HH24'), model_id, tool_name) AS key, v.*
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
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- name: hours_equal_period
-- The day and month summaries ($1 is 'day' or 'month') are the sums of the hours, by subscription, model and tool.
WITH hours AS (
    SELECT subscription_id, date_trunc($1, period_start, 'UTC') AS period_start, model_id, tool_name,
           sum(request_count) AS request_count, sum(error_count) AS error_count, sum(request_tokens) AS request_tokens,
           sum(response_tokens) AS response_tokens, sum(cached_tokens) AS cached_tokens
    FROM usage_summaries WHERE period_type = 'hour' GROUP BY 1, 2, 3, 4
), sides AS (
    SELECT format('subscription %s, %s %s, %s%s', subscription_id, $1, to_char(period_start, 'YYYY-MM-DD'), model_id, tool_name) AS key, v.*
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
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
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

-- name: batches_equal_aggregator_inbox
-- Every usage.recorded message of every batch was applied by the aggregator, once.
WITH inbox AS (SELECT batch_id, count(*) AS messages, sum(event_count) AS events FROM aggregator_inbox GROUP BY batch_id),
sides AS (
    SELECT 'batch ' || batch_id AS key, v.*
    FROM usage_batches b FULL JOIN inbox i USING (batch_id)
    CROSS JOIN LATERAL (VALUES
        (1, 'messages', coalesce(b.message_count, 0)::numeric, coalesce(i.messages, 0)::numeric),
        (2, 'events', coalesce(b.inserted, 0)::numeric, coalesce(i.events, 0))) v (position, measure, left_value, right_value)
)
SELECT measure, sum(left_value) AS left_value, sum(right_value) AS right_value,
       (array_agg(key ORDER BY key) FILTER (WHERE left_value <> right_value))[1:5] AS differing
FROM sides GROUP BY measure, position ORDER BY position;

-- The SQL of rebuilding, in the order of its story: whom it concerns, what the log gives, in what that differs, what is written.
--
-- Parameters $1 to $5 are always the same selection: event times from $1 up to $2, subscriptions $3 (NULL: all), without $4, and
-- without the months $5, which are archived: the log does not have them.
-- Locks: subscriptions by id, then summaries by key, as in services/aggregator/queries.sql.

-- name: act_as_rebuild
-- Says for the audit trail who changes subscriptions in this transaction, and does not wait for a lock for ever.
SELECT set_config('tallystick.actor', 'rebuild', true), set_config('lock_timeout', '60s', true);

-- name: wait_for_archiving
-- No month leaves the log while this transaction reads it in several snapshots.
SELECT pg_advisory_xact_lock_shared(hashtextextended('tallystick.archive', 0));

-- name: pin_partitions
-- Comes first in a snapshot: a month that is being detached waits from here on.
SELECT count(*) FROM usage_logs WHERE false;

-- name: archived_months
-- Months from $1 up to $2 that are not in the log, but archived.
SELECT month FROM archived_months WHERE month >= $1 AND month < $2 ORDER BY month;

-- name: subscription_exists
-- Whether there is such a subscription.
SELECT EXISTS (SELECT FROM subscriptions WHERE id = $1);

-- name: lock_subscriptions
-- Takes subscriptions as the aggregator does before it writes their summaries. Whoever is applying usage of theirs ends first;
-- whoever comes later waits, with its inbox rows not committed. NO KEY: inserts that refer to a subscription go on.
SELECT id FROM subscriptions WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE;

-- name: partly_applied
-- Batches that were announced in several messages of which some are applied: which of their rows that concerns, nothing tells.
SELECT b.batch_id
FROM usage_batches b JOIN aggregator_inbox i USING (batch_id)
WHERE b.message_count > 1
GROUP BY b.batch_id, b.message_count
HAVING count(*) < b.message_count;

-- name: subscriptions_of_batches
-- Whose usage is in batches $4.
SELECT DISTINCT subscription_id
FROM usage_logs
WHERE created_at >= $1 AND created_at < $2 AND ($3::uuid[] IS NULL OR subscription_id = ANY($3)) AND batch_id = ANY($4::uuid[])
ORDER BY subscription_id;

-- name: note_applied
-- The batches that the aggregator has applied whole: for exactly these the summaries stand.
CREATE TEMPORARY TABLE applied_batches ON COMMIT DROP AS
SELECT b.batch_id
FROM usage_batches b LEFT JOIN (SELECT batch_id, count(*) AS messages FROM aggregator_inbox GROUP BY batch_id) i USING (batch_id)
WHERE i.messages >= b.message_count OR b.recorded_at < (SELECT pruned_before FROM aggregator_inbox_watermark);

-- name: create_shadow
-- The summaries as they are computed anew.
CREATE TEMPORARY TABLE rebuilt_summaries (LIKE usage_summaries INCLUDING DEFAULTS INCLUDING GENERATED) ON COMMIT DROP;

-- name: create_uses
-- The hours of each use as they are computed anew.
CREATE TEMPORARY TABLE rebuilt_uses (LIKE usage_hours) ON COMMIT DROP;

-- name: recompute_uses
-- What the log gives for each hour of each use.
-- A row that takes an event back counts -1. Latency buckets ($6: upper bounds, inclusive, ascending) as services/ingest/deltas.py counts them.
INSERT INTO rebuilt_uses (
    subscription_id, hour, api_key_id, kind, request_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count,
    byok, failed, model_id, tool_name, provider, feature_type, power_level, app_id, latency_histogram)
WITH used AS (
    SELECT subscription_id, date_trunc('hour', created_at, 'UTC') AS hour,
           coalesce(api_key_id, '00000000-0000-0000-0000-000000000000') AS api_key_id, coalesce(model_id, '') AS model_id,
           coalesce(tool_name, '') AS tool_name, coalesce(provider, '') AS provider, coalesce(feature_type, '') AS feature_type, power_level,
           byok, status_code >= 400 AS failed, coalesce(app_id, '') AS app_id, quantity, request_tokens, response_tokens, cached_tokens,
           latency_ms, width_bucket(latency_ms - 1, $6::integer[]) AS bucket
    FROM usage_logs
    WHERE created_at >= $1 AND created_at < $2
      AND ($3::uuid[] IS NULL OR subscription_id = ANY($3)) AND subscription_id <> ALL($4::uuid[])
      AND (cardinality($5::timestamptz[]) = 0 OR date_trunc('month', created_at, 'UTC') <> ALL($5))
      AND batch_id IN (SELECT batch_id FROM applied_batches)
), summed AS (
    SELECT subscription_id, hour, api_key_id, model_id, tool_name, provider, feature_type, power_level, byok, failed, app_id,
           sum(quantity) AS requests, sum(request_tokens)::bigint AS request_tokens, sum(response_tokens)::bigint AS response_tokens,
           sum(cached_tokens)::bigint AS cached_tokens, coalesce(sum(latency_ms * quantity), 0) AS latency_sum_ms,
           coalesce(sum(quantity) FILTER (WHERE latency_ms IS NOT NULL), 0) AS latency_count,
           ARRAY[coalesce(sum(quantity) FILTER (WHERE bucket = 0), 0), coalesce(sum(quantity) FILTER (WHERE bucket = 1), 0),
                 coalesce(sum(quantity) FILTER (WHERE bucket = 2), 0), coalesce(sum(quantity) FILTER (WHERE bucket = 3), 0),
                 coalesce(sum(quantity) FILTER (WHERE bucket = 4), 0), coalesce(sum(quantity) FILTER (WHERE bucket = 5), 0),
                 coalesce(sum(quantity) FILTER (WHERE bucket = 6), 0), coalesce(sum(quantity) FILTER (WHERE bucket = 7), 0),
                 coalesce(sum(quantity) FILTER (WHERE bucket = 8), 0), coalesce(sum(quantity) FILTER (WHERE bucket = 9), 0),
                 coalesce(sum(quantity) FILTER (WHERE bucket = 10), 0), coalesce(sum(quantity) FILTER (WHERE bucket = 11), 0)] AS histogram
    FROM used
    GROUP BY subscription_id, hour, api_key_id, model_id, tool_name, provider, feature_type, power_level, byok, failed, app_id
)
SELECT subscription_id, hour, api_key_id, usage_kind(model_id, tool_name, provider, feature_type, power_level, byok, failed, app_id),
       requests, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, byok, failed, model_id, tool_name, provider,
       feature_type, power_level, app_id, histogram
FROM summed;

-- name: recompute_hours
-- Hours of summaries, from those of uses.
INSERT INTO rebuilt_summaries (
    subscription_id, period_type, period_start, model_id, tool_name, request_count, error_count,
    request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
SELECT subscription_id, 'hour', hour, model_id, tool_name, sum(request_count)::bigint,
       coalesce(sum(request_count) FILTER (WHERE failed), 0)::bigint, sum(request_tokens)::bigint, sum(response_tokens)::bigint,
       sum(cached_tokens)::bigint, sum(latency_sum_ms)::bigint, sum(latency_count)::bigint,
       ARRAY[sum(latency_histogram[1])::bigint, sum(latency_histogram[2])::bigint, sum(latency_histogram[3])::bigint,
             sum(latency_histogram[4])::bigint, sum(latency_histogram[5])::bigint, sum(latency_histogram[6])::bigint,
             sum(latency_histogram[7])::bigint, sum(latency_histogram[8])::bigint, sum(latency_histogram[9])::bigint,
             sum(latency_histogram[10])::bigint, sum(latency_histogram[11])::bigint, sum(latency_histogram[12])::bigint]
FROM rebuilt_uses
GROUP BY subscription_id, hour, model_id, tool_name;

-- name: recompute_coarser
-- Days ($2) from hours ($1), months from days.
INSERT INTO rebuilt_summaries (
    subscription_id, period_type, period_start, model_id, tool_name, request_count, error_count,
    request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
SELECT subscription_id, $2::text, date_trunc($2::text, period_start, 'UTC') AS start, model_id, tool_name,
       sum(request_count)::bigint, sum(error_count)::bigint, sum(request_tokens)::bigint, sum(response_tokens)::bigint,
       sum(cached_tokens)::bigint, sum(latency_sum_ms)::bigint, sum(latency_count)::bigint,
       ARRAY[sum(latency_histogram[1])::bigint, sum(latency_histogram[2])::bigint, sum(latency_histogram[3])::bigint,
             sum(latency_histogram[4])::bigint, sum(latency_histogram[5])::bigint, sum(latency_histogram[6])::bigint,
             sum(latency_histogram[7])::bigint, sum(latency_histogram[8])::bigint, sum(latency_histogram[9])::bigint,
             sum(latency_histogram[10])::bigint, sum(latency_histogram[11])::bigint, sum(latency_histogram[12])::bigint]
FROM rebuilt_summaries
WHERE period_type = $1::text
GROUP BY subscription_id, start, model_id, tool_name;

-- name: analyze_shadow
-- Tells the planner how large the shadow is.
ANALYZE rebuilt_summaries, rebuilt_uses;

-- name: count_events
-- How many events the shadow adds up, less those that were taken back.
SELECT coalesce(sum(request_count), 0)::bigint FROM rebuilt_summaries WHERE period_type = 'hour';

-- name: create_differences
-- The keys whose stored figures are not the recomputed ones. `founded`: the log has usage for the key. Hours of uses are among them, as 'use',
-- with the rest of their key; what tells them apart is in `tool_name`.
CREATE TEMPORARY TABLE differing_summaries (
    subscription_id uuid, period_type text, period_start timestamptz, model_id text, tool_name text,
    stored jsonb, recomputed jsonb, founded boolean, api_key_id uuid, kind uuid
) ON COMMIT DROP;

-- name: find_differences
-- Compares the shadow with what is stored, key by key; a row that is missing counts as zeros ($6: a histogram of none).
INSERT INTO differing_summaries
SELECT subscription_id, period_type, period_start, model_id, tool_name,
       jsonb_build_object(
           'requests', coalesce(s.request_count, 0), 'errors', coalesce(s.error_count, 0),
           'request_tokens', coalesce(s.request_tokens, 0), 'response_tokens', coalesce(s.response_tokens, 0),
           'cached_tokens', coalesce(s.cached_tokens, 0), 'latency_sum_ms', coalesce(s.latency_sum_ms, 0),
           'latency_count', coalesce(s.latency_count, 0), 'latency_histogram', coalesce(s.latency_histogram, $6::bigint[])),
       jsonb_build_object(
           'requests', coalesce(r.request_count, 0), 'errors', coalesce(r.error_count, 0),
           'request_tokens', coalesce(r.request_tokens, 0), 'response_tokens', coalesce(r.response_tokens, 0),
           'cached_tokens', coalesce(r.cached_tokens, 0), 'latency_sum_ms', coalesce(r.latency_sum_ms, 0),
           'latency_count', coalesce(r.latency_count, 0), 'latency_histogram', coalesce(r.latency_histogram, $6)),
       r.request_count IS NOT NULL
FROM (SELECT * FROM usage_summaries
      WHERE period_start >= $1 AND period_start < $2
        AND ($3::uuid[] IS NULL OR subscription_id = ANY($3)) AND subscription_id <> ALL($4::uuid[])
        AND date_trunc('month', period_start, 'UTC') <> ALL($5::timestamptz[])) s
FULL JOIN rebuilt_summaries r USING (subscription_id, period_type, period_start, model_id, tool_name)
WHERE (coalesce(s.request_count, 0), coalesce(s.error_count, 0), coalesce(s.request_tokens, 0), coalesce(s.response_tokens, 0),
       coalesce(s.cached_tokens, 0), coalesce(s.latency_sum_ms, 0), coalesce(s.latency_count, 0), coalesce(s.latency_histogram, $6))
   <> (coalesce(r.request_count, 0), coalesce(r.error_count, 0), coalesce(r.request_tokens, 0), coalesce(r.response_tokens, 0),
       coalesce(r.cached_tokens, 0), coalesce(r.latency_sum_ms, 0), coalesce(r.latency_count, 0), coalesce(r.latency_histogram, $6));

-- name: find_use_differences
-- Compares hours of uses, of those that are kept, in the same way.
INSERT INTO differing_summaries
SELECT subscription_id, 'use', hour, '',
       concat_ws(', ', nullif(model_id, ''), nullif(tool_name, ''), 'key ' || nullif(api_key_id, '00000000-0000-0000-0000-000000000000'),
                 'provider ' || nullif(provider, ''), 'feature ' || nullif(feature_type, ''), power_level, CASE WHEN byok THEN 'byok' END,
                 CASE WHEN failed THEN 'failed' END, 'app ' || nullif(app_id, '')),
       jsonb_build_object(
           'requests', coalesce(u.request_count, 0), 'request_tokens', coalesce(u.request_tokens, 0),
           'response_tokens', coalesce(u.response_tokens, 0), 'cached_tokens', coalesce(u.cached_tokens, 0),
           'latency_sum_ms', coalesce(u.latency_sum_ms, 0), 'latency_count', coalesce(u.latency_count, 0),
           'latency_histogram', coalesce(u.latency_histogram, $6::bigint[])),
       jsonb_build_object(
           'requests', coalesce(r.request_count, 0), 'request_tokens', coalesce(r.request_tokens, 0),
           'response_tokens', coalesce(r.response_tokens, 0), 'cached_tokens', coalesce(r.cached_tokens, 0),
           'latency_sum_ms', coalesce(r.latency_sum_ms, 0), 'latency_count', coalesce(r.latency_count, 0),
           'latency_histogram', coalesce(r.latency_histogram, $6)),
       r.request_count IS NOT NULL, api_key_id, kind
FROM (SELECT * FROM usage_hours
      WHERE hour >= greatest($1, (SELECT since FROM usage_hours_kept)) AND hour < $2
        AND ($3::uuid[] IS NULL OR subscription_id = ANY($3)) AND subscription_id <> ALL($4::uuid[])
        AND date_trunc('month', hour, 'UTC') <> ALL($5::timestamptz[])) u
FULL JOIN (SELECT * FROM rebuilt_uses WHERE hour >= (SELECT since FROM usage_hours_kept)) r
     USING (subscription_id, hour, api_key_id, kind, model_id, tool_name, provider, feature_type, power_level, byok, failed, app_id)
WHERE (coalesce(u.request_count, 0), coalesce(u.request_tokens, 0), coalesce(u.response_tokens, 0), coalesce(u.cached_tokens, 0),
       coalesce(u.latency_sum_ms, 0), coalesce(u.latency_count, 0), coalesce(u.latency_histogram, $6))
   <> (coalesce(r.request_count, 0), coalesce(r.request_tokens, 0), coalesce(r.response_tokens, 0), coalesce(r.cached_tokens, 0),
       coalesce(r.latency_sum_ms, 0), coalesce(r.latency_count, 0), coalesce(r.latency_histogram, $6));

-- name: count_compared
-- How many summary rows are stored for the selection.
SELECT count(*) FROM usage_summaries
WHERE period_start >= $1 AND period_start < $2
  AND ($3::uuid[] IS NULL OR subscription_id = ANY($3)) AND subscription_id <> ALL($4::uuid[])
  AND date_trunc('month', period_start, 'UTC') <> ALL($5::timestamptz[]);

-- name: count_differences
-- How many summary rows differ, by the length of their period.
SELECT period_type, count(*) AS rows FROM differing_summaries GROUP BY period_type ORDER BY period_type;

-- name: differing_subscriptions
-- Whose summary rows differ.
SELECT DISTINCT subscription_id FROM differing_summaries ORDER BY subscription_id;

-- name: first_differences
-- The first $1 of the summary rows that differ, months first: they say most.
SELECT period_type, subscription_id, period_start, model_id, tool_name, stored, recomputed
FROM differing_summaries
ORDER BY CASE period_type WHEN 'month' THEN 1 WHEN 'day' THEN 2 WHEN 'hour' THEN 3 ELSE 4 END, subscription_id, period_start, model_id, tool_name
LIMIT $1;

-- name: negative_hours
-- The first $1 hours of the shadow, over by now, from which more was taken back than was used. Of the present hour that may be so for
-- a moment: a reversal can be applied before the event that it takes back.
SELECT subscription_id, period_start, model_id, tool_name,
       jsonb_build_object(
           'requests', request_count, 'errors', error_count, 'request_tokens', request_tokens, 'response_tokens', response_tokens,
           'cached_tokens', cached_tokens, 'latency_sum_ms', latency_sum_ms, 'latency_count', latency_count) AS figures
FROM rebuilt_summaries
WHERE period_type = 'hour' AND period_start < date_trunc('hour', now(), 'UTC')
  AND (least(request_count, error_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count) < 0
       OR greatest(error_count, latency_count) > request_count OR 0 > ANY (latency_histogram))
ORDER BY subscription_id, period_start, model_id, tool_name
LIMIT $1;

-- name: differing_counters
-- Counters that are not what was used in their quota period, of quota periods that meet the selection: its hours as recomputed,
-- those of the period that lie outside it as stored.
WITH met AS (
    SELECT id, quota_period_start AS from_hour, coalesce(reset_at, 'infinity') AS to_hour, used_requests, used_tokens
    FROM subscriptions
    WHERE quota_period_start < $2 AND coalesce(reset_at, 'infinity') > $1
      AND ($3::uuid[] IS NULL OR id = ANY($3)) AND id <> ALL($4::uuid[])
), hours AS (
    SELECT subscription_id, period_start, request_count, total_tokens FROM rebuilt_summaries WHERE period_type = 'hour'
    UNION ALL
    SELECT subscription_id, period_start, request_count, total_tokens FROM usage_summaries
    WHERE period_type = 'hour'
      AND (NOT (period_start >= $1 AND period_start < $2) OR date_trunc('month', period_start, 'UTC') = ANY($5::timestamptz[]))
      AND ($3::uuid[] IS NULL OR subscription_id = ANY($3))
), used AS (
    SELECT m.id, sum(h.request_count)::bigint AS requests, sum(h.total_tokens)::bigint AS tokens
    FROM met m JOIN hours h ON h.subscription_id = m.id AND h.period_start >= m.from_hour AND h.period_start < m.to_hour
    GROUP BY m.id
)
SELECT 'counter' AS period_type, m.id AS subscription_id, m.from_hour AS period_start, '' AS model_id, '' AS tool_name,
       jsonb_build_object('requests', m.used_requests, 'tokens', m.used_tokens) AS stored,
       jsonb_build_object('requests', coalesce(u.requests, 0), 'tokens', coalesce(u.tokens, 0)) AS recomputed
FROM met m LEFT JOIN used u USING (id)
WHERE (m.used_requests, m.used_tokens) <> (coalesce(u.requests, 0), coalesce(u.tokens, 0))
ORDER BY m.id;

-- name: create_key_days
-- The days of API keys as they are computed anew.
CREATE TEMPORARY TABLE rebuilt_key_days (LIKE api_key_days) ON COMMIT DROP;

-- name: recompute_key_days
-- What the log gives for each API key and UTC day, of the days that are kept.
INSERT INTO rebuilt_key_days (subscription_id, api_key_id, day, requests, tokens)
SELECT subscription_id, api_key_id, (created_at AT TIME ZONE 'UTC')::date, sum(quantity), sum(total_tokens)
FROM usage_logs
WHERE created_at >= greatest($1, (SELECT since::timestamp AT TIME ZONE 'UTC' FROM api_key_days_kept)) AND created_at < $2
  AND ($3::uuid[] IS NULL OR subscription_id = ANY($3)) AND subscription_id <> ALL($4::uuid[])
  AND (cardinality($5::timestamptz[]) = 0 OR date_trunc('month', created_at, 'UTC') <> ALL($5))
  AND api_key_id IS NOT NULL AND batch_id IN (SELECT batch_id FROM applied_batches)
GROUP BY 1, 2, 3;

-- name: differing_key_days
-- Days of API keys that are not what the log gives; one that is missing counts as zeros.
WITH stored AS (
    SELECT subscription_id, api_key_id, day, requests, tokens, day::timestamp AT TIME ZONE 'UTC' AS at FROM api_key_days
), kept AS (
    SELECT * FROM stored
    WHERE at >= $1 AND at < $2 AND day >= (SELECT since FROM api_key_days_kept)
      AND ($3::uuid[] IS NULL OR subscription_id = ANY($3)) AND subscription_id <> ALL($4::uuid[])
      AND date_trunc('month', at, 'UTC') <> ALL($5::timestamptz[])
)
SELECT 'key day' AS period_type, subscription_id, day::timestamp AT TIME ZONE 'UTC' AS period_start,
       '' AS model_id, 'key ' || api_key_id AS tool_name,
       jsonb_build_object('requests', coalesce(k.requests, 0), 'tokens', coalesce(k.tokens, 0)) AS stored,
       jsonb_build_object('requests', coalesce(r.requests, 0), 'tokens', coalesce(r.tokens, 0)) AS recomputed
FROM kept k FULL JOIN rebuilt_key_days r USING (subscription_id, api_key_id, day)
WHERE (coalesce(k.requests, 0), coalesce(k.tokens, 0)) <> (coalesce(r.requests, 0), coalesce(r.tokens, 0))
ORDER BY subscription_id, day, api_key_id;

-- name: delete_unfounded
-- Deletes summary rows for which the log has no usage.
DELETE FROM usage_summaries s
USING differing_summaries d
WHERE NOT d.founded
  AND (s.subscription_id, s.period_type, s.period_start, s.model_id, s.tool_name)
    = (d.subscription_id, d.period_type, d.period_start, d.model_id, d.tool_name);

-- name: replace_summaries
-- Makes the other rows that differ what the shadow says, in the order in which all lock them.
INSERT INTO usage_summaries (
    subscription_id, period_type, period_start, model_id, tool_name, request_count, error_count,
    request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
SELECT subscription_id, period_type, period_start, model_id, tool_name, r.request_count, r.error_count,
       r.request_tokens, r.response_tokens, r.cached_tokens, r.latency_sum_ms, r.latency_count, r.latency_histogram
FROM rebuilt_summaries r JOIN differing_summaries d USING (subscription_id, period_type, period_start, model_id, tool_name)
ORDER BY subscription_id, period_type, period_start, model_id, tool_name
ON CONFLICT (subscription_id, period_type, period_start, model_id, tool_name) DO UPDATE SET
    request_count = excluded.request_count, error_count = excluded.error_count,
    request_tokens = excluded.request_tokens, response_tokens = excluded.response_tokens,
    cached_tokens = excluded.cached_tokens, latency_sum_ms = excluded.latency_sum_ms,
    latency_count = excluded.latency_count, latency_histogram = excluded.latency_histogram, updated_at = now();

-- name: repair_totals
-- Makes what everybody used the sum of the summaries, whatever the trigger of these has done.
SELECT repair_usage_totals();

-- name: delete_unfounded_uses
-- Deletes hours of uses for which the log has none.
DELETE FROM usage_hours h
USING differing_summaries d
WHERE d.period_type = 'use' AND NOT d.founded
  AND (h.subscription_id, h.hour, h.api_key_id, h.kind) = (d.subscription_id, d.period_start, d.api_key_id, d.kind);

-- name: replace_uses
-- Makes the other hours of uses that differ what the log gives, in the order in which all lock them.
INSERT INTO usage_hours (
    subscription_id, hour, api_key_id, kind, request_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count,
    byok, failed, model_id, tool_name, provider, feature_type, power_level, app_id, latency_histogram)
SELECT r.subscription_id, r.hour, r.api_key_id, r.kind, r.request_count, r.request_tokens, r.response_tokens, r.cached_tokens,
       r.latency_sum_ms, r.latency_count, r.byok, r.failed, r.model_id, r.tool_name, r.provider, r.feature_type, r.power_level, r.app_id,
       r.latency_histogram
FROM rebuilt_uses r JOIN differing_summaries d
  ON d.period_type = 'use' AND d.founded
 AND (r.subscription_id, r.hour, r.api_key_id, r.kind) = (d.subscription_id, d.period_start, d.api_key_id, d.kind)
ORDER BY r.subscription_id, r.hour, r.api_key_id, r.kind
ON CONFLICT (subscription_id, hour, api_key_id, kind) DO UPDATE SET
    request_count = excluded.request_count, request_tokens = excluded.request_tokens, response_tokens = excluded.response_tokens,
    cached_tokens = excluded.cached_tokens, latency_sum_ms = excluded.latency_sum_ms, latency_count = excluded.latency_count,
    latency_histogram = excluded.latency_histogram;

-- name: replace_key_days
-- Makes days of API keys of locked subscriptions ($1), from $2 up to $3 but for months $4, what the log gives: those that it does not
-- have become zeros. Gateways hear of a key of today by its subscription's status.
WITH wanted AS (
    SELECT subscription_id, api_key_id, day, requests, tokens FROM rebuilt_key_days
    UNION ALL
    SELECT d.subscription_id, d.api_key_id, d.day, 0, 0 FROM api_key_days d
    WHERE d.subscription_id = ANY($1::uuid[]) AND d.day >= (SELECT since FROM api_key_days_kept)
      AND d.day::timestamp AT TIME ZONE 'UTC' >= $2 AND d.day::timestamp AT TIME ZONE 'UTC' < $3
      AND date_trunc('month', d.day::timestamp) AT TIME ZONE 'UTC' <> ALL($4::timestamptz[])
      AND NOT EXISTS (SELECT FROM rebuilt_key_days r WHERE (r.subscription_id, r.api_key_id, r.day) = (d.subscription_id, d.api_key_id, d.day))
), written AS (
    INSERT INTO api_key_days AS d (subscription_id, api_key_id, day, requests, tokens)
    SELECT * FROM wanted ORDER BY subscription_id, api_key_id, day
    ON CONFLICT (subscription_id, api_key_id, day) DO UPDATE SET requests = excluded.requests, tokens = excluded.tokens
    WHERE (d.requests, d.tokens) <> (excluded.requests, excluded.tokens)
    RETURNING d.subscription_id
)
UPDATE subscriptions SET status_version = status_version + 1 WHERE id IN (SELECT subscription_id FROM written);

-- name: set_counters
-- Makes counters of locked subscriptions what was used in their quota period; the trigger suspends and reactivates.
UPDATE subscriptions s SET used_requests = u.requests, used_tokens = u.tokens
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS u (id, requests, tokens)
WHERE s.id = u.id;

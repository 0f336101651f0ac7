-- The SQL of the aggregator, in the order of a slice's story: what is new, whom it concerns, what it adds;
-- then publication, and the work of the timers.
--
-- Locks are always taken in this order: position, inbox, subscriptions by id, totals by key, summaries by key, what reservations hold by subscription. Two aggregators that share
-- subscriptions, during a rebalance or because two source partitions name the same one, so wait for each other and never deadlock.

-- name: act_as_aggregator
-- Says for the audit trail who changes subscriptions in this transaction.
SELECT set_config('tallystick.actor', 'aggregator', true);

-- name: begin
-- Says for the audit trail who changes subscriptions, and keeps the inbox as it is until the transaction ends. Comes before the inbox
-- is asked, in a statement of its own: while the inbox is being pruned, a message might be in neither it nor below the watermark that
-- this transaction sees. Slices do not wait for each other.
SELECT set_config('tallystick.actor', 'aggregator', true),
       pg_advisory_xact_lock_shared(hashtextextended('tallystick.aggregator_inbox', 0));

-- name: receive
-- Notes messages as applied and returns those that were not noted before. A second transaction with the same message waits
-- here for the first to end: if that commits, the message is old, if it rolls back, it is new.
INSERT INTO aggregator_inbox (batch_id, part, event_count, by_app)
SELECT m.batch_id, m.part, m.event_count, m.by_app
FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::boolean[]) AS m (batch_id, part, event_count, by_app)
JOIN usage_batches b ON b.batch_id = m.batch_id AND b.recorded_at >= (SELECT pruned_before FROM aggregator_inbox_watermark)
ORDER BY m.batch_id, m.part
ON CONFLICT (batch_id, part) DO NOTHING
RETURNING batch_id, part;

-- name: lock_subscriptions
-- Takes subscriptions before their summaries are written. Whoever writes a subscription's summaries or counters holds its
-- row first: so slices, resets and rebuilds meet here, in the order of ids, and never crosswise among the rows below.
-- NO KEY: inserts that refer to a subscription go on.
SELECT id, status::text, suspended_reasons, quota_requests, quota_tokens, used_requests, used_tokens,
       quota_period_start, reset_at, status_version, status_published_version
FROM subscriptions
WHERE id = ANY($1::uuid[])
ORDER BY id
FOR NO KEY UPDATE;

-- name: add_totals
-- Adds what one partition ($1) adds over all subscriptions, in the order of keys, the histograms one behind the other in $13; comes before its
-- summaries, and says to their trigger that this is done. Nobody waits here: a partition's rows are written by whoever holds its position, and
-- in a rebalance the next one waits for that. Two clusters that have a partition of the number lock in the order of keys.
WITH said AS (SELECT set_config('tallystick.totals', 'added', true))
INSERT INTO usage_totals AS t (
    period_type, period_start, model_id, tool_name, partition, request_count, error_count,
    request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
SELECT a.period_type, a.period_start, a.model_id, a.tool_name, $1::int, a.request_count, a.error_count,
       a.request_tokens, a.response_tokens, a.cached_tokens, a.latency_sum_ms, a.latency_count, ($13::bigint[])[12 * a.row - 11 : 12 * a.row]
FROM said, unnest($2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
                  $10::bigint[], $11::bigint[], $12::bigint[]) WITH ORDINALITY
    AS a (period_type, period_start, model_id, tool_name, request_count, error_count,
          request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, row)
ON CONFLICT (period_type, period_start, model_id, tool_name, partition) DO UPDATE SET
    request_count = t.request_count + excluded.request_count,
    error_count = t.error_count + excluded.error_count,
    request_tokens = t.request_tokens + excluded.request_tokens,
    response_tokens = t.response_tokens + excluded.response_tokens,
    cached_tokens = t.cached_tokens + excluded.cached_tokens,
    latency_sum_ms = t.latency_sum_ms + excluded.latency_sum_ms,
    latency_count = t.latency_count + excluded.latency_count,
    latency_histogram = add_histograms(t.latency_histogram, excluded.latency_histogram);

-- name: add_summaries
-- Adds figures, which usage that is taken back makes negative, to hour ($4), day ($5) and month rows ($6), each where it is not NULL: mostly
-- the same to all three. They are places in $15, where the times are. Rows come in the order in which all lock them; the histograms, of 12
-- buckets each, one behind the other in $14.
-- They are added to the hour of a use as well, where there is one: of kind $16, the place in $18 to $25 of what tells kinds apart, which is
-- hashed once for all that share it; below zero where only that is to be added to, and the hour is another's. Those rows lock in any order:
-- who writes one is who holds the row of its hour in usage_summaries.
WITH added AS MATERIALIZED (
    SELECT *
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::integer[], $6::integer[], $7::bigint[], $8::bigint[],
                $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $16::integer[], $17::uuid[])
        WITH ORDINALITY AS a (subscription_id, model_id, tool_name, hour, day, month, request_count, error_count, request_tokens,
                              response_tokens, cached_tokens, latency_sum_ms, latency_count, kind, api_key_id, row)
), kinds AS MATERIALIZED (
    SELECT k.*, usage_kind(model_id, tool_name, provider, feature_type, power_level, byok, failed, app_id) AS kind
    FROM unnest($18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::boolean[], $24::boolean[], $25::text[]) WITH ORDINALITY
        AS k (model_id, tool_name, provider, feature_type, power_level, byok, failed, app_id, number)
), uses AS (
    INSERT INTO usage_hours AS h (
        subscription_id, hour, api_key_id, kind, request_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms,
        latency_count, byok, failed, model_id, tool_name, provider, feature_type, power_level, app_id, latency_histogram)
    SELECT a.subscription_id, ($15::timestamptz[])[a.hour], coalesce(a.api_key_id, '00000000-0000-0000-0000-000000000000'), k.kind, a.request_count, a.request_tokens, a.response_tokens, a.cached_tokens,
           a.latency_sum_ms, a.latency_count, k.byok, k.failed, k.model_id, k.tool_name, k.provider, k.feature_type, k.power_level, k.app_id,
           ($14::bigint[])[12 * a.row - 11 : 12 * a.row]
    FROM added a JOIN kinds k ON k.number = abs(a.kind)
    ON CONFLICT (subscription_id, hour, api_key_id, kind) DO UPDATE SET
        request_count = h.request_count + excluded.request_count,
        request_tokens = h.request_tokens + excluded.request_tokens,
        response_tokens = h.response_tokens + excluded.response_tokens,
        cached_tokens = h.cached_tokens + excluded.cached_tokens,
        latency_sum_ms = h.latency_sum_ms + excluded.latency_sum_ms,
        latency_count = h.latency_count + excluded.latency_count,
        latency_histogram = add_histograms(h.latency_histogram, excluded.latency_histogram)
)
INSERT INTO usage_summaries AS s (
    subscription_id, period_type, period_start, model_id, tool_name, request_count, error_count,
    request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
SELECT a.subscription_id, p.type, ($15::timestamptz[])[p.start], a.model_id, a.tool_name, a.request_count, a.error_count,
       a.request_tokens, a.response_tokens, a.cached_tokens, a.latency_sum_ms, a.latency_count, ($14::bigint[])[12 * a.row - 11 : 12 * a.row]
FROM added a
CROSS JOIN LATERAL (VALUES ('hour', CASE WHEN a.kind < 0 THEN NULL ELSE a.hour END), ('day', a.day), ('month', a.month)) AS p (type, start)
WHERE p.start IS NOT NULL
ON CONFLICT (subscription_id, period_type, period_start, model_id, tool_name) DO UPDATE SET
    request_count = s.request_count + excluded.request_count,
    error_count = s.error_count + excluded.error_count,
    request_tokens = s.request_tokens + excluded.request_tokens,
    response_tokens = s.response_tokens + excluded.response_tokens,
    cached_tokens = s.cached_tokens + excluded.cached_tokens,
    latency_sum_ms = s.latency_sum_ms + excluded.latency_sum_ms,
    latency_count = s.latency_count + excluded.latency_count,
    latency_histogram = add_histograms(s.latency_histogram, excluded.latency_histogram),
    updated_at = now();

-- name: count_usage
-- Adds usage of the current quota period to the counters of locked subscriptions; the trigger decides who is suspended. updated_at is
-- set here, so that no trigger has to be called for it.
UPDATE subscriptions s
SET used_requests = s.used_requests + u.requests, used_tokens = s.used_tokens + u.tokens, updated_at = now()
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS u (id, requests, tokens)
WHERE s.id = u.id
RETURNING s.id, s.status::text, s.suspended_reasons, s.quota_requests, s.quota_tokens, s.used_requests, s.used_tokens,
          s.quota_period_start, s.reset_at, s.status_version, s.status_published_version;

-- name: settle_reservations
-- Gives back what reservations ($2) of subscriptions ($1) hold of quotas; returns of how many. The usage that named them is in the counters.
SELECT settle_reserved_quota($1::uuid[], $2::uuid[], $3);

-- name: roll_quota_periods
-- Starts a new quota period for locked subscriptions: the counters become what its hours hold already; the trigger
-- reactivates whom only the old period's usage had suspended.
UPDATE subscriptions s
SET quota_period_start = p.period_start, reset_at = p.reset_at, used_requests = h.requests, used_tokens = h.tokens
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS p (id, period_start, reset_at)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(request_count), 0)::bigint AS requests, coalesce(sum(total_tokens), 0)::bigint AS tokens
    FROM usage_summaries
    WHERE subscription_id = p.id AND period_type = 'hour' AND period_start >= p.period_start AND period_start < p.reset_at) h
WHERE s.id = p.id
RETURNING s.id, s.status::text, s.suspended_reasons, s.quota_requests, s.quota_tokens, s.used_requests, s.used_tokens,
          s.quota_period_start, s.reset_at, s.status_version, s.status_published_version;

-- name: raise_thresholds
-- Tells a user that a percentage of a quota is used, once in each quota period: `cause` is the key. Returns what is new.
INSERT INTO billing_alerts (id, user_id, subscription_id, type, cause, threshold, current_value, message, metadata)
SELECT t.id, s.user_id, s.id, 'usage_threshold',
       format('%s, %s %% of %s, period from %s', s.id, t.percent, t.dimension,
              to_char(s.quota_period_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24"Z"')),
       t.percent,
       CASE WHEN t.quota > 0 THEN round(t.used::numeric * 100 / t.quota, 2) ELSE 100 END,
       format('%s %% of the quota of %s %s are used: %s.', t.percent, t.quota, t.dimension, t.used),
       jsonb_build_object('dimension', t.dimension, 'quota', t.quota, 'used', t.used,
                          'period_start', s.quota_period_start, 'reset_at', s.reset_at)
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::int[], $5::bigint[], $6::bigint[])
    AS t (id, subscription_id, dimension, percent, used, quota)
JOIN subscriptions s ON s.id = t.subscription_id
ON CONFLICT (user_id, type, cause) DO NOTHING
RETURNING id, user_id, subscription_id, threshold::int AS percent, message, metadata->>'dimension' AS dimension,
          (metadata->>'quota')::bigint AS quota, (metadata->>'used')::bigint AS used;

-- name: add_observations
-- Adds what one partition ($1) saw of providers. Failures at the end of a minute go on until a later observation has a success.
INSERT INTO provider_observations AS p (
    provider, minute, partition, request_count, error_count, rate_limited_count,
    latency_sum_ms, latency_count, latency_histogram, last_success_at, last_failure_at, trailing_failures)
SELECT o.provider, o.minute, $1::int, o.request_count, o.error_count, o.rate_limited_count,
       o.latency_sum_ms, o.latency_count, o.histogram::bigint[], o.last_success_at, o.last_failure_at, o.trailing_failures
FROM unnest($2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[],
            $10::timestamptz[], $11::timestamptz[], $12::bigint[])
    AS o (provider, minute, request_count, error_count, rate_limited_count, latency_sum_ms, latency_count, histogram,
          last_success_at, last_failure_at, trailing_failures)
ON CONFLICT (provider, minute, partition) DO UPDATE SET
    request_count = p.request_count + excluded.request_count,
    error_count = p.error_count + excluded.error_count,
    rate_limited_count = p.rate_limited_count + excluded.rate_limited_count,
    latency_sum_ms = p.latency_sum_ms + excluded.latency_sum_ms,
    latency_count = p.latency_count + excluded.latency_count,
    latency_histogram = add_histograms(p.latency_histogram, excluded.latency_histogram),
    last_success_at = greatest(p.last_success_at, excluded.last_success_at),
    last_failure_at = greatest(p.last_failure_at, excluded.last_failure_at),
    trailing_failures = excluded.trailing_failures
        + CASE WHEN excluded.last_success_at IS NULL THEN p.trailing_failures ELSE 0 END;

-- name: count_key_days
-- Adds what API keys used by UTC day. Returns the subscriptions, which are locked, of keys that reached their limit of a day that is not
-- over at $6, or came back below it: gateways have to hear of it.
WITH used AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::date[], $4::bigint[], $5::bigint[]) AS u (subscription_id, api_key_id, day, requests, tokens)
), added AS (
    INSERT INTO api_key_days AS d (subscription_id, api_key_id, day, requests, tokens)
    SELECT subscription_id, api_key_id, day, requests, tokens FROM used ORDER BY subscription_id, api_key_id, day
    ON CONFLICT (subscription_id, api_key_id, day)
    DO UPDATE SET requests = d.requests + excluded.requests, tokens = d.tokens + excluded.tokens
    RETURNING d.subscription_id, d.api_key_id, d.day, d.requests
), crossed AS (
    SELECT DISTINCT a.subscription_id
    FROM added a JOIN used u USING (subscription_id, api_key_id, day) JOIN api_keys k ON k.id = a.api_key_id
    WHERE a.day >= ($6::timestamptz AT TIME ZONE 'UTC')::date
      AND (a.requests >= k.quota_requests_per_day) <> (a.requests - u.requests >= k.quota_requests_per_day)
)
UPDATE subscriptions s SET status_version = s.status_version + 1 FROM crossed c WHERE s.id = c.subscription_id
RETURNING s.id;

-- name: touch_api_keys
-- Says when keys were last used, to the minute: an exact time would rewrite every busy key with every slice. SKIP LOCKED:
-- whoever holds a key's row is changing it, and the next slice says it again.
WITH stale AS (
    SELECT k.id, u.used_at
    FROM api_keys k JOIN unnest($1::uuid[], $2::timestamptz[]) AS u (id, used_at) ON u.id = k.id
    WHERE k.last_used_at IS NULL OR k.last_used_at <= u.used_at - interval '1 minute'
    ORDER BY k.id
    FOR NO KEY UPDATE OF k SKIP LOCKED
)
UPDATE api_keys k SET last_used_at = stale.used_at FROM stale WHERE k.id = stale.id;

-- name: become_only_one
-- Takes a named lock until the transaction ends, if nobody has it: work that one worker at a time has to do.
SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0));

-- name: anything_unpublished
-- Whether a subscription changed that gateways have not heard of. Asked often: an index that is nearly always empty answers. The order
-- makes the planner take it, who thinks that a third of all rows match: for EXISTS it reads the whole table, to the end where none does.
SELECT (SELECT id FROM subscriptions WHERE status_version > status_published_version ORDER BY id LIMIT 1) IS NOT NULL;

-- name: unpublished_statuses
-- The state of subscriptions whose last change is not published. Without locks: whatever changes now has a higher version
-- and comes next time.
SELECT s.id, s.status::text, s.suspended_reasons, s.quota_requests, s.quota_tokens, s.used_requests, s.used_tokens,
       CASE WHEN s.billing_mode = 'prepaid' THEN coalesce(c.balance, 0) END AS credits,
       s.reset_at, s.status_version, statement_timestamp() AS as_of,
       ARRAY(SELECT k.id FROM api_keys k JOIN api_key_days d ON (d.subscription_id, d.api_key_id) = (k.subscription_id, k.id)
             WHERE k.subscription_id = s.id AND k.is_active AND d.day >= $2 AND d.requests >= k.quota_requests_per_day
             ORDER BY d.day, k.id) AS exhausted_keys,
       ARRAY(SELECT d.day FROM api_keys k JOIN api_key_days d ON (d.subscription_id, d.api_key_id) = (k.subscription_id, k.id)
             WHERE k.subscription_id = s.id AND k.is_active AND d.day >= $2 AND d.requests >= k.quota_requests_per_day
             ORDER BY d.day, k.id) AS exhausted_days
FROM subscriptions s
LEFT JOIN user_credits c ON c.user_id = s.user_id
WHERE s.status_version > s.status_published_version
ORDER BY s.id
LIMIT $1;

-- name: mark_published
-- Notes which versions the broker has acknowledged. Rows are locked in the order in which slices lock them.
WITH published AS MATERIALIZED (
    SELECT s.id, p.version
    FROM subscriptions s JOIN unnest($1::uuid[], $2::bigint[]) AS p (id, version) ON p.id = s.id
    ORDER BY s.id
    FOR NO KEY UPDATE OF s
)
UPDATE subscriptions s SET status_published_version = greatest(s.status_published_version, p.version)
FROM published p WHERE s.id = p.id;

-- name: publish_again
-- Forgets that subscriptions were published. See status.py for the one case in which that is needed.
WITH doubtful AS MATERIALIZED (
    SELECT id FROM subscriptions WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE
)
UPDATE subscriptions s SET status_published_version = -1 FROM doubtful d WHERE s.id = d.id;

-- name: lock_due_subscriptions
-- Takes at most $2 subscriptions whose quota period is over at $1. SKIP LOCKED: whoever holds one is counting its usage,
-- and so rolls it, or will be through before the timer comes again.
SELECT id, status::text, suspended_reasons, quota_requests, quota_tokens, used_requests, used_tokens,
       quota_period_start, reset_at, status_version, status_published_version
FROM subscriptions
WHERE reset_at <= $1 AND status NOT IN ('cancelled', 'expired')
ORDER BY id
LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED;

-- name: count_due_subscriptions
-- Subscriptions whose quota period was over at $1 and that nobody has rolled.
SELECT count(*) FROM subscriptions WHERE reset_at <= $1 AND status NOT IN ('cancelled', 'expired');

-- name: recent_observations
-- What was seen of each provider in the $1 minutes up to its last one. The recursion hops from provider to provider
-- along the primary key, instead of reading days of minutes to learn the few names.
WITH RECURSIVE known (provider) AS (
    (SELECT provider FROM provider_observations ORDER BY provider LIMIT 1)
    UNION ALL
    SELECT (SELECT o.provider FROM provider_observations o WHERE o.provider > k.provider ORDER BY o.provider LIMIT 1)
    FROM known k WHERE k.provider IS NOT NULL
)
SELECT o.provider, o.minute, o.request_count, o.error_count, o.rate_limited_count, o.latency_sum_ms, o.latency_count,
       o.latency_histogram, o.last_success_at, o.last_failure_at, o.trailing_failures
FROM known k
CROSS JOIN LATERAL (SELECT max(minute) AS last_minute FROM provider_observations WHERE provider = k.provider) l
JOIN provider_observations o ON o.provider = k.provider AND o.minute > l.last_minute - make_interval(mins => $1)
WHERE k.provider IS NOT NULL
ORDER BY o.provider, o.minute, o.partition;

-- name: store_provider_health
-- Replaces the verdict on each provider.
INSERT INTO provider_health (
    provider, status, request_count, error_count, rate_limited_count, success_rate, avg_latency_ms, p95_latency_ms,
    consecutive_failures, rate_limited, last_success_at, last_failure_at, window_start, window_end)
SELECT h.provider, h.status, h.request_count, h.error_count, h.rate_limited_count, h.success_rate, h.avg_latency_ms, h.p95_latency_ms,
       h.consecutive_failures, h.rate_limited_count > 0, h.last_success_at, h.last_failure_at, h.window_start, h.window_end
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::numeric[], $7::numeric[], $8::int[], $9::bigint[],
            $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[])
    AS h (provider, status, request_count, error_count, rate_limited_count, success_rate, avg_latency_ms, p95_latency_ms,
          consecutive_failures, last_success_at, last_failure_at, window_start, window_end)
ON CONFLICT (provider) DO UPDATE SET
    status = excluded.status, request_count = excluded.request_count, error_count = excluded.error_count,
    rate_limited_count = excluded.rate_limited_count, success_rate = excluded.success_rate,
    avg_latency_ms = excluded.avg_latency_ms, p95_latency_ms = excluded.p95_latency_ms,
    consecutive_failures = excluded.consecutive_failures, rate_limited = excluded.rate_limited,
    last_success_at = greatest(provider_health.last_success_at, excluded.last_success_at),
    last_failure_at = greatest(provider_health.last_failure_at, excluded.last_failure_at),
    window_start = excluded.window_start, window_end = excluded.window_end, updated_at = now();

-- name: forget_observations
-- Deletes observations of minutes before $1: nothing looks back that far.
DELETE FROM provider_observations WHERE minute < $1;

-- name: lock_inbox
-- Waits until no slice asks the inbox, and lets none until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('tallystick.aggregator_inbox', 0));

-- name: prunable_before
-- Up to where the inbox can be pruned: past at most $2 batches recorded before $1, and not past one that was not applied whole.
WITH next AS (
    SELECT b.recorded_at, b.message_count > (SELECT count(*) FROM aggregator_inbox i WHERE i.batch_id = b.batch_id) AS open
    FROM usage_batches b
    WHERE b.recorded_at >= (SELECT pruned_before FROM aggregator_inbox_watermark) AND b.recorded_at < $1
    ORDER BY b.recorded_at
    LIMIT $2
)
SELECT least(min(recorded_at) FILTER (WHERE open), CASE WHEN count(*) < $2 THEN $1::timestamptz ELSE max(recorded_at) END) FROM next;

-- name: prune_inbox
-- Forgets the messages of batches between the watermark and $1.
DELETE FROM aggregator_inbox i USING usage_batches b
WHERE b.batch_id = i.batch_id AND b.recorded_at < $1
  AND b.recorded_at >= (SELECT pruned_before FROM aggregator_inbox_watermark);

-- name: raise_watermark
-- From now on the messages of batches before $1 are duplicates.
UPDATE aggregator_inbox_watermark SET pruned_before = $1 WHERE pruned_before < $1;

-- name: expire_reservations
-- Gives back what is due at $1 of the reservations of at most $2 subscriptions; returns of how many, and how many reservations.
SELECT subscriptions, expired FROM expire_reservations($1, $2);

-- name: open_reservations
-- How many reservations are open.
SELECT coalesce(sum(open), 0)::bigint FROM reservation_holds WHERE open > 0;

-- name: forget_reservations
-- Forgets finished reservations that were made before $1, at most $2; returns how many.
SELECT forget_reservations($1, $2);

-- name: forget_key_days
-- Deletes the days of API keys before $1.
DELETE FROM api_key_days WHERE day < $1;

-- name: keep_key_days
-- From now on the days of API keys are complete from $1 on.
UPDATE api_key_days_kept SET since = $1 WHERE since < $1;

-- name: refresh_usage_summary
-- Brings the materialized view llm_usage_summary up to date.
SELECT refresh_usage_summary();

-- The SQL of usage. {usage_logs} and {rated_usage} are the tables, or what a tenant sees of them; $1 are always the
-- subscriptions that are meant (NULL: all of them).

-- name: subscriptions
-- The subscriptions of user $1 (NULL: anybody's), or the one ($2) of them, if it is theirs.
SELECT id FROM subscriptions WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::uuid IS NULL OR id = $2) ORDER BY id;

-- name: time_zone
-- The time zone of a user; NULL where none is set.
SELECT time_zone FROM users WHERE id = $1;

-- name: series
-- Usage by bucket and by model or subscription ($8; NULL: by bucket alone). $2 to $6 say which summaries: runs of a kind, of
-- times, added or taken off, for which bucket (NULL: that of the summary's own time); $7 are the beginnings of the buckets. Each run is asked
-- for by itself, so that it is read through the key.
SELECT u.bucket, u.name, sum(sign * u.requests)::bigint AS request_count, sum(sign * u.errors)::bigint AS error_count,
       sum(sign * u.request_tokens)::bigint AS request_tokens, sum(sign * u.response_tokens)::bigint AS response_tokens,
       sum(sign * u.cached_tokens)::bigint AS cached_tokens, sum(sign * u.latency_sum_ms)::bigint AS latency_sum_ms,
       sum(sign * u.latency_count)::bigint AS latency_count,
       ARRAY[sum(sign * h1), sum(sign * h2), sum(sign * h3), sum(sign * h4), sum(sign * h5), sum(sign * h6), sum(sign * h7), sum(sign * h8),
             sum(sign * h9), sum(sign * h10), sum(sign * h11), sum(sign * h12)]::bigint[] AS histogram
FROM unnest($2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::integer[]) AS run (period_type, starts, ends, sign, bucket)
CROSS JOIN LATERAL (
    SELECT coalesce(run.bucket, width_bucket(s.period_start, $7::timestamptz[]) - 1) AS bucket,
           CASE $8::text WHEN 'model' THEN CASE WHEN s.model_id <> '' THEN s.model_id ELSE 'tool:' || s.tool_name END
                         WHEN 'subscription' THEN s.subscription_id::text END AS name,
           sum(s.request_count) AS requests, sum(s.error_count) AS errors, sum(s.request_tokens) AS request_tokens,
           sum(s.response_tokens) AS response_tokens, sum(s.cached_tokens) AS cached_tokens, sum(s.latency_sum_ms) AS latency_sum_ms,
           sum(s.latency_count) AS latency_count,
           sum(s.latency_histogram[1]) AS h1, sum(s.latency_histogram[2]) AS h2, sum(s.latency_histogram[3]) AS h3,
           sum(s.latency_histogram[4]) AS h4, sum(s.latency_histogram[5]) AS h5, sum(s.latency_histogram[6]) AS h6,
           sum(s.latency_histogram[7]) AS h7, sum(s.latency_histogram[8]) AS h8, sum(s.latency_histogram[9]) AS h9,
           sum(s.latency_histogram[10]) AS h10, sum(s.latency_histogram[11]) AS h11, sum(s.latency_histogram[12]) AS h12
    FROM usage_summaries s
    WHERE ($1::uuid[] IS NULL OR s.subscription_id = ANY($1)) AND s.period_type = run.period_type
      AND s.period_start >= run.starts AND s.period_start < run.ends
    GROUP BY 1, 2
) u
GROUP BY u.bucket, u.name
HAVING sum(sign * u.requests) <> 0 OR sum(sign * (u.request_tokens + u.response_tokens)) <> 0
ORDER BY u.bucket, u.name;

-- name: series_of_everybody
-- The same of all subscriptions, by bucket and by model ($7; NULL: by bucket alone), from what everybody used; its parameters are those of `series`
-- without the subscriptions.
SELECT u.bucket, u.name, sum(sign * u.requests)::bigint AS request_count, sum(sign * u.errors)::bigint AS error_count,
       sum(sign * u.request_tokens)::bigint AS request_tokens, sum(sign * u.response_tokens)::bigint AS response_tokens,
       sum(sign * u.cached_tokens)::bigint AS cached_tokens, sum(sign * u.latency_sum_ms)::bigint AS latency_sum_ms,
       sum(sign * u.latency_count)::bigint AS latency_count,
       ARRAY[sum(sign * h1), sum(sign * h2), sum(sign * h3), sum(sign * h4), sum(sign * h5), sum(sign * h6), sum(sign * h7), sum(sign * h8),
             sum(sign * h9), sum(sign * h10), sum(sign * h11), sum(sign * h12)]::bigint[] AS histogram
FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::integer[]) AS run (period_type, starts, ends, sign, bucket)
CROSS JOIN LATERAL (
    SELECT coalesce(run.bucket, width_bucket(s.period_start, $6::timestamptz[]) - 1) AS bucket,
           CASE $7::text WHEN 'model' THEN CASE WHEN s.model_id <> '' THEN s.model_id ELSE 'tool:' || s.tool_name END END AS name,
           sum(s.request_count) AS requests, sum(s.error_count) AS errors, sum(s.request_tokens) AS request_tokens,
           sum(s.response_tokens) AS response_tokens, sum(s.cached_tokens) AS cached_tokens, sum(s.latency_sum_ms) AS latency_sum_ms,
           sum(s.latency_count) AS latency_count,
           sum(s.latency_histogram[1]) AS h1, sum(s.latency_histogram[2]) AS h2, sum(s.latency_histogram[3]) AS h3,
           sum(s.latency_histogram[4]) AS h4, sum(s.latency_histogram[5]) AS h5, sum(s.latency_histogram[6]) AS h6,
           sum(s.latency_histogram[7]) AS h7, sum(s.latency_histogram[8]) AS h8, sum(s.latency_histogram[9]) AS h9,
           sum(s.latency_histogram[10]) AS h10, sum(s.latency_histogram[11]) AS h11, sum(s.latency_histogram[12]) AS h12
    FROM usage_totals s
    WHERE s.period_type = run.period_type AND s.period_start >= run.starts AND s.period_start < run.ends
    GROUP BY 1, 2
) u
GROUP BY u.bucket, u.name
HAVING sum(sign * u.requests) <> 0 OR sum(sign * (u.request_tokens + u.response_tokens)) <> 0
ORDER BY u.bucket, u.name;

-- name: hours_missing_until
-- From when on usage_hours is complete, if that is after $1.
SELECT since FROM usage_hours_kept WHERE since > $1::timestamptz;

-- name: series_of_hours
-- The same by what summaries do not keep ($5), from the hours of uses of [$2, $3), buckets that begin at $4.
SELECT width_bucket(h.hour, $4::timestamptz[]) - 1 AS bucket,
       nullif(CASE $5::text WHEN 'provider' THEN h.provider WHEN 'key' THEN nullif(h.api_key_id, '00000000-0000-0000-0000-000000000000')::text
                            WHEN 'feature' THEN h.feature_type WHEN 'power_level' THEN h.power_level WHEN 'app' THEN h.app_id END, '') AS name,
       sum(h.request_count)::bigint AS request_count, coalesce(sum(h.request_count) FILTER (WHERE h.failed), 0)::bigint AS error_count,
       sum(h.request_tokens)::bigint AS request_tokens, sum(h.response_tokens)::bigint AS response_tokens,
       sum(h.cached_tokens)::bigint AS cached_tokens, sum(h.latency_sum_ms)::bigint AS latency_sum_ms,
       sum(h.latency_count)::bigint AS latency_count,
       ARRAY[sum(h.latency_histogram[1]), sum(h.latency_histogram[2]), sum(h.latency_histogram[3]), sum(h.latency_histogram[4]),
             sum(h.latency_histogram[5]), sum(h.latency_histogram[6]), sum(h.latency_histogram[7]), sum(h.latency_histogram[8]),
             sum(h.latency_histogram[9]), sum(h.latency_histogram[10]), sum(h.latency_histogram[11]),
             sum(h.latency_histogram[12])]::bigint[] AS histogram
FROM usage_hours h
WHERE ($1::uuid[] IS NULL OR h.subscription_id = ANY($1)) AND h.hour >= $2 AND h.hour < $3
GROUP BY 1, 2
HAVING sum(h.request_count) <> 0 OR sum(h.request_tokens + h.response_tokens) <> 0
ORDER BY 1, 2;

-- name: series_of_log
-- The same from the log, where usage_hours does not reach back so far: events of [$2, $3), buckets that begin at $4; $6 are the bounds of the histogram.
SELECT width_bucket(date_trunc('hour', l.created_at, 'UTC'), $4::timestamptz[]) - 1 AS bucket,
       CASE $5::text WHEN 'provider' THEN l.provider WHEN 'key' THEN l.api_key_id::text WHEN 'feature' THEN l.feature_type
                     WHEN 'power_level' THEN l.power_level WHEN 'app' THEN l.app_id END AS name,
       sum(l.quantity)::bigint AS request_count, coalesce(sum(l.quantity) FILTER (WHERE l.status_code >= 400), 0)::bigint AS error_count,
       sum(l.request_tokens)::bigint AS request_tokens, sum(l.response_tokens)::bigint AS response_tokens,
       sum(l.cached_tokens)::bigint AS cached_tokens, coalesce(sum(l.quantity * l.latency_ms), 0)::bigint AS latency_sum_ms,
       coalesce(sum(l.quantity) FILTER (WHERE l.latency_ms IS NOT NULL), 0)::bigint AS latency_count,
       ARRAY[coalesce(sum(l.quantity) FILTER (WHERE place = 0), 0), coalesce(sum(l.quantity) FILTER (WHERE place = 1), 0),
             coalesce(sum(l.quantity) FILTER (WHERE place = 2), 0), coalesce(sum(l.quantity) FILTER (WHERE place = 3), 0),
             coalesce(sum(l.quantity) FILTER (WHERE place = 4), 0), coalesce(sum(l.quantity) FILTER (WHERE place = 5), 0),
             coalesce(sum(l.quantity) FILTER (WHERE place = 6), 0), coalesce(sum(l.quantity) FILTER (WHERE place = 7), 0),
             coalesce(sum(l.quantity) FILTER (WHERE place = 8), 0), coalesce(sum(l.quantity) FILTER (WHERE place = 9), 0),
             coalesce(sum(l.quantity) FILTER (WHERE place = 10), 0), coalesce(sum(l.quantity) FILTER (WHERE place = 11), 0)]::bigint[] AS histogram
FROM {usage_logs} l CROSS JOIN LATERAL width_bucket(l.latency_ms - 1, $6::integer[]) AS place  -- the bounds are inclusive
WHERE ($1::uuid[] IS NULL OR l.subscription_id = ANY($1)) AND l.created_at >= $2 AND l.created_at < $3
GROUP BY 1, 2
ORDER BY 1, 2;

-- name: archived
-- Which months of [$1, $2) are not in the log any more.
SELECT month FROM archived_months WHERE month >= date_trunc('month', $1::timestamptz, 'UTC') AND month < $2::timestamptz ORDER BY month;

-- name: analytics_by_model
-- Usage of [$2, $3) by model or tool and by currency, with what it was rated at. $4 to $7 are the runs of
-- summaries that make it up, added or taken off.
WITH used AS (
    SELECT CASE WHEN u.model_id <> '' THEN u.model_id ELSE 'tool:' || u.tool_name END AS name, s.currency,
           sum(sign * u.requests) AS requests, sum(sign * u.errors) AS errors, sum(sign * u.request_tokens) AS request_tokens,
           sum(sign * u.response_tokens) AS response_tokens, sum(sign * u.cached_tokens) AS cached_tokens,
           sum(sign * u.latency_sum_ms) AS latency_sum_ms, sum(sign * u.latency_count) AS latency_count
    FROM unnest($4::text[], $5::timestamptz[], $6::timestamptz[], $7::bigint[]) AS run (period_type, starts, ends, sign)
    CROSS JOIN LATERAL (
        SELECT m.subscription_id, m.model_id, m.tool_name, sum(m.request_count) AS requests, sum(m.error_count) AS errors,
               sum(m.request_tokens) AS request_tokens, sum(m.response_tokens) AS response_tokens, sum(m.cached_tokens) AS cached_tokens,
               sum(m.latency_sum_ms) AS latency_sum_ms, sum(m.latency_count) AS latency_count
        FROM usage_summaries m
        WHERE ($1::uuid[] IS NULL OR m.subscription_id = ANY($1)) AND m.period_type = run.period_type
          AND m.period_start >= run.starts AND m.period_start < run.ends
        GROUP BY m.subscription_id, m.model_id, m.tool_name
    ) u
    JOIN subscriptions s ON s.id = u.subscription_id
    GROUP BY 1, 2
    HAVING sum(sign * u.requests) <> 0 OR sum(sign * (u.request_tokens + u.response_tokens)) <> 0
), rated AS (
    SELECT CASE WHEN r.model_id <> '' THEN r.model_id ELSE 'tool:' || r.tool_name END AS name, s.currency, sum(r.amount) AS amount,
           sum(r.requests) FILTER (WHERE r.byok) AS byok, sum(r.requests) FILTER (WHERE r.amount IS NULL) AS unrated
    FROM {rated_usage} r JOIN subscriptions s ON s.id = r.subscription_id
    WHERE ($1::uuid[] IS NULL OR r.subscription_id = ANY($1)) AND r.hour >= $2 AND r.hour < $3
    GROUP BY 1, 2
)
SELECT u.name, u.currency, u.requests::bigint AS request_count, u.errors::bigint AS error_count, coalesce(r.byok, 0)::bigint AS byok_count,
       coalesce(r.unrated, 0)::bigint AS unrated_count, u.request_tokens::bigint AS prompt_tokens, u.response_tokens::bigint AS completion_tokens,
       u.cached_tokens::bigint AS cached_tokens, r.amount AS total_cost, u.latency_sum_ms::bigint AS latency_sum_ms,
       u.latency_count::bigint AS latency_count
FROM used u LEFT JOIN rated r USING (name, currency)
ORDER BY u.requests DESC, u.name, u.currency;

-- name: analytics_by_rating
-- Usage of [$2, $3) by feature or power level ($4) and by currency, as it was rated.
SELECT CASE $4::text WHEN 'feature' THEN nullif(r.feature_type, '') WHEN 'power_level' THEN r.power_level END AS name, s.currency,
       sum(r.requests)::bigint AS request_count, sum(r.errors)::bigint AS error_count,
       coalesce(sum(r.requests) FILTER (WHERE r.byok), 0)::bigint AS byok_count,
       coalesce(sum(r.requests) FILTER (WHERE r.amount IS NULL), 0)::bigint AS unrated_count,
       sum(r.request_tokens)::bigint AS prompt_tokens, sum(r.response_tokens)::bigint AS completion_tokens,
       sum(r.cached_tokens)::bigint AS cached_tokens, sum(r.amount) AS total_cost, NULL::bigint AS latency_sum_ms, NULL::bigint AS latency_count
FROM {rated_usage} r JOIN subscriptions s ON s.id = r.subscription_id
WHERE ($1::uuid[] IS NULL OR r.subscription_id = ANY($1)) AND r.hour >= $2 AND r.hour < $3
GROUP BY 1, 2
ORDER BY 3 DESC, 1, 2;

-- name: analytics_of_hours
-- Usage of [$2, $3) by provider, key or app ($4) and by currency, from the hours of uses; its worth is by the prices in force at its hours.
-- What prices say of hours between two of their changes is the same for all of them, and asked once.
WITH turns AS MATERIALIZED (
    SELECT ARRAY(SELECT DISTINCT turn.at FROM model_prices p CROSS JOIN LATERAL (VALUES (p.valid_from), (p.valid_to)) AS turn (at)
                 WHERE turn.at > $2 AND turn.at < $3 ORDER BY turn.at) AS at
), hours AS (
    SELECT nullif(CASE $4::text WHEN 'provider' THEN h.provider WHEN 'key' THEN nullif(h.api_key_id, '00000000-0000-0000-0000-000000000000')::text
                                WHEN 'app' THEN h.app_id END, '') AS name,
           s.currency, width_bucket(h.hour, (SELECT at FROM turns)) AS turn, min(h.hour) AS hour, h.model_id, h.tool_name, h.feature_type,
           h.power_level, h.byok, h.failed, sum(h.request_count)::bigint AS requests, sum(h.request_tokens)::bigint AS request_tokens,
           sum(h.response_tokens)::bigint AS response_tokens, sum(h.cached_tokens)::bigint AS cached_tokens,
           sum(h.latency_sum_ms)::bigint AS latency_sum_ms, sum(h.latency_count)::bigint AS latency_count
    FROM usage_hours h JOIN subscriptions s ON s.id = h.subscription_id
    WHERE ($1::uuid[] IS NULL OR h.subscription_id = ANY($1)) AND h.hour >= $2 AND h.hour < $3
    GROUP BY 1, 2, 3, 5, 6, 7, 8, 9, 10
), worth AS (
    SELECT h.*, usage_amount(nullif(h.model_id, ''), nullif(h.tool_name, ''), nullif(h.feature_type, ''), h.currency, h.hour, h.power_level,
                             h.byok, h.failed, h.requests, h.request_tokens, h.cached_tokens, h.response_tokens) AS amount
    FROM hours h
)
SELECT name, currency, sum(requests)::bigint AS request_count, coalesce(sum(requests) FILTER (WHERE failed), 0)::bigint AS error_count,
       coalesce(sum(requests) FILTER (WHERE byok), 0)::bigint AS byok_count,
       coalesce(sum(requests) FILTER (WHERE amount IS NULL), 0)::bigint AS unrated_count, sum(request_tokens)::bigint AS prompt_tokens,
       sum(response_tokens)::bigint AS completion_tokens, sum(cached_tokens)::bigint AS cached_tokens, sum(amount) AS total_cost,
       sum(latency_sum_ms)::bigint AS latency_sum_ms, sum(latency_count)::bigint AS latency_count
FROM worth
GROUP BY name, currency
HAVING sum(requests) <> 0 OR sum(request_tokens + response_tokens) <> 0
ORDER BY 3 DESC, 1, 2;

-- name: analytics_of_log
-- The same from the log, where usage_hours does not reach back so far; its worth is by the prices in force at its hours.
WITH hours AS (
    SELECT CASE $4::text WHEN 'provider' THEN l.provider WHEN 'key' THEN l.api_key_id::text WHEN 'app' THEN l.app_id END AS name,
           s.currency, date_trunc('hour', l.created_at, 'UTC') AS hour, l.model_id, l.tool_name, l.feature_type, l.power_level, l.byok,
           l.status_code >= 400 AS failed, sum(l.quantity)::bigint AS requests, sum(l.request_tokens)::bigint AS request_tokens,
           sum(l.response_tokens)::bigint AS response_tokens, sum(l.cached_tokens)::bigint AS cached_tokens,
           coalesce(sum(l.quantity * l.latency_ms), 0)::bigint AS latency_sum_ms,
           coalesce(sum(l.quantity) FILTER (WHERE l.latency_ms IS NOT NULL), 0)::bigint AS latency_count
    FROM {usage_logs} l JOIN subscriptions s ON s.id = l.subscription_id
    WHERE ($1::uuid[] IS NULL OR l.subscription_id = ANY($1)) AND l.created_at >= $2 AND l.created_at < $3
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
), worth AS (
    SELECT h.*, usage_amount(h.model_id, h.tool_name, h.feature_type, h.currency, h.hour, h.power_level, h.byok, h.failed,
                             h.requests, h.request_tokens, h.cached_tokens, h.response_tokens) AS amount
    FROM hours h
)
SELECT name, currency, sum(requests)::bigint AS request_count, coalesce(sum(requests) FILTER (WHERE failed), 0)::bigint AS error_count,
       coalesce(sum(requests) FILTER (WHERE byok), 0)::bigint AS byok_count,
       coalesce(sum(requests) FILTER (WHERE amount IS NULL), 0)::bigint AS unrated_count, sum(request_tokens)::bigint AS prompt_tokens,
       sum(response_tokens)::bigint AS completion_tokens, sum(cached_tokens)::bigint AS cached_tokens, sum(amount) AS total_cost,
       sum(latency_sum_ms)::bigint AS latency_sum_ms, sum(latency_count)::bigint AS latency_count
FROM worth
GROUP BY name, currency
ORDER BY 3 DESC, 1, 2;

-- name: newest
-- When the oldest event of a page of the newest was; the page's parameters are those of `events`. The newest of each subscription are read
-- through its index, and then the newest of all. To be asked of the table and without sorting: a view with a security barrier has no order
-- that an index gave it, and the planner, which knows how many events a subscription has on average, sorts all of a busy one.
SELECT min(found.created_at)
FROM (
    SELECT e.created_at
    FROM unnest($1::uuid[]) AS wanted (id)
    CROSS JOIN LATERAL (
        SELECT l.created_at, l.id
        FROM usage_logs l
        WHERE l.subscription_id = wanted.id
          AND ($2::text IS NULL OR l.model_id = $2) AND ($3::text IS NULL OR l.provider = $3) AND ($4::uuid IS NULL OR l.api_key_id = $4)
          AND ($5::text IS NULL OR l.app_id = $5) AND ($6::boolean IS NULL OR (l.status_code >= 400) = $6)
          AND l.created_at >= coalesce($7::timestamptz, '-infinity') AND l.created_at < coalesce($8::timestamptz, 'infinity')
          AND ($9::timestamptz IS NULL OR (l.created_at, l.id) < ($9, $10::uuid))
        ORDER BY l.created_at DESC, l.id DESC
        LIMIT $11
    ) e
    ORDER BY e.created_at DESC, e.id DESC
    LIMIT $11
) found;

-- name: events
-- Events, the newest first: of models $2, provider $3, key $4, app $5, failed or not ($6), of [$7, $8), after ($9, $10), at most $11. The range should
-- hold little more than that: `newest` says where it begins.
SELECT l.id, l.created_at, l.ingested_at, l.subscription_id, l.api_key_id, l.source, l.request_id, l.model_id, l.tool_name, l.provider,
       l.request_tokens, l.response_tokens, l.cached_tokens, l.total_tokens, l.tokens_returned, l.latency_ms, l.status_code,
       l.error_message, l.power_level, l.byok, l.feature_type, l.library_id, l.app_id, l.session_id, l.end_user, l.quantity, l.corrects
FROM {usage_logs} l
WHERE l.subscription_id = ANY($1::uuid[])
  AND ($2::text IS NULL OR l.model_id = $2) AND ($3::text IS NULL OR l.provider = $3) AND ($4::uuid IS NULL OR l.api_key_id = $4)
  AND ($5::text IS NULL OR l.app_id = $5) AND ($6::boolean IS NULL OR (l.status_code >= 400) = $6)
  AND l.created_at >= $7::timestamptz AND l.created_at < coalesce($8::timestamptz, 'infinity')
  AND ($9::timestamptz IS NULL OR (l.created_at, l.id) < ($9, $10::uuid))
ORDER BY l.created_at DESC, l.id DESC
LIMIT $11;

-- migrate:up
-- Usage is signed: a row of usage_logs may take an event back (quantity -1, tokens negated), and what is derived from the log sums.

-- ---------------------------------------------------------------------------------------------------------------------
-- What is always true of sums
-- ---------------------------------------------------------------------------------------------------------------------

-- A reversal may be applied before the event that it takes back: they may have come through different partitions. Until both are in,
-- a sum can be negative, and hold more errors than requests. `tallystick verify` tells of an hour that stays so.
ALTER TABLE usage_summaries DROP CONSTRAINT usage_summaries_check;
ALTER TABLE subscriptions
    DROP CONSTRAINT subscriptions_used_requests_check,
    DROP CONSTRAINT subscriptions_used_tokens_check;

COMMENT ON COLUMN usage_summaries.request_count IS 'Events less those that were taken back.';
COMMENT ON COLUMN subscriptions.used_requests IS 'Events of the quota period less those that were taken back; below zero only until the event to a reversal arrives.';
COMMENT ON COLUMN subscriptions.used_tokens IS 'Their tokens.';

-- Bucket by bucket, spelled out: a third of the time that unnesting takes, and it is inlined. A test holds it to the number of buckets.
CREATE FUNCTION add_histograms(a bigint[], b bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN ARRAY[
    a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5], a[6] + b[6],
    a[7] + b[7], a[8] + b[8], a[9] + b[9], a[10] + b[10], a[11] + b[11], a[12] + b[12]];

COMMENT ON FUNCTION add_histograms IS 'The sum of two latency histograms.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Views and functions that counted rows
-- ---------------------------------------------------------------------------------------------------------------------

DROP VIEW active_subscriptions;  -- its columns begin with those of subscriptions, which may have grown
CREATE VIEW active_subscriptions AS
SELECT s.*, u.username, u.email, m.name AS model_name, m.provider, p.name AS plan_name,
       s.quota_requests - greatest(0, least(s.used_requests, s.quota_requests)) AS remaining_requests,
       s.quota_tokens - greatest(0, least(s.used_tokens, s.quota_tokens)) AS remaining_tokens
FROM subscriptions s
JOIN users u ON u.id = s.user_id
LEFT JOIN models m ON m.id = s.model_id
LEFT JOIN plans p ON p.id = s.plan_id
WHERE s.status IN ('active', 'trialing') AND (s.expires_at IS NULL OR s.expires_at > now());

COMMENT ON VIEW active_subscriptions IS 'Subscriptions that may be used now, and what remains of their quotas (NULL: unlimited).';

CREATE OR REPLACE VIEW llm_usage_log AS
SELECT l.id, l.request_id, l.session_id, s.user_id, l.subscription_id, l.api_key_id, l.app_id, l.end_user, l.feature_type,
       l.provider, l.model_id AS model,
       l.request_tokens AS prompt_tokens, l.response_tokens AS completion_tokens, l.cached_tokens, l.total_tokens,
       usage_amount(l.model_id, l.tool_name, l.feature_type, s.currency, l.created_at, l.power_level, l.byok, l.status_code >= 400,
                    l.quantity, l.request_tokens, l.cached_tokens, l.response_tokens) AS credits_used,
       s.currency, l.power_level, l.byok AS is_byok, l.latency_ms,
       CASE WHEN l.quantity > 0 THEN round(l.response_tokens * 1000.0 / nullif(l.latency_ms, 0), 2) END AS tokens_per_second,
       l.status_code < 400 AS success, l.status_code,
       CASE WHEN l.status_code < 400 THEN NULL
            WHEN l.status_code IN (401, 403) THEN 'authentication'
            WHEN l.status_code IN (408, 504) THEN 'timeout'
            WHEN l.status_code = 429 THEN 'rate_limited'
            WHEN l.status_code < 500 THEN 'invalid_request'
            ELSE 'provider_error' END AS error_category,
       l.error_message, l.metadata, l.created_at, l.quantity
FROM usage_logs l
JOIN subscriptions s ON s.id = l.subscription_id
WHERE l.model_id IS NOT NULL;

COMMENT ON COLUMN llm_usage_log.quantity IS '1: a request; -1: it is taken back, with negative tokens and credits.';

CREATE OR REPLACE VIEW documentation_usage_logs AS
SELECT l.id, s.user_id, l.api_key_id, l.tool_name, l.library_id, l.metadata ->> 'query' AS query, l.tokens_returned,
       l.latency_ms AS response_time_ms, l.created_at, l.quantity
FROM usage_logs l
JOIN subscriptions s ON s.id = l.subscription_id
WHERE l.tool_name IS NOT NULL;

COMMENT ON COLUMN documentation_usage_logs.quantity IS '1: a call; -1: it is taken back.';

CREATE OR REPLACE FUNCTION update_usage_summary() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- shared.contracts.LATENCY_BUCKETS_MS; a test compares them.
    bounds  CONSTANT integer[] := ARRAY[50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200];
    counted bigint[] := array_fill(0::bigint, ARRAY[cardinality(bounds) + 1]);
BEGIN
    IF NEW.latency_ms IS NOT NULL THEN
        counted[width_bucket(NEW.latency_ms - 1, bounds) + 1] := NEW.quantity;  -- upper bounds are inclusive
    END IF;
    INSERT INTO usage_summaries AS s (subscription_id, period_type, period_start, model_id, tool_name, request_count, error_count,
                                      request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
    SELECT NEW.subscription_id, period_type, date_trunc(period_type, NEW.created_at, 'UTC'), coalesce(NEW.model_id, ''), coalesce(NEW.tool_name, ''),
           NEW.quantity, CASE WHEN NEW.status_code >= 400 THEN NEW.quantity ELSE 0 END, NEW.request_tokens, NEW.response_tokens, NEW.cached_tokens,
           coalesce(NEW.latency_ms, 0) * NEW.quantity, CASE WHEN NEW.latency_ms IS NULL THEN 0 ELSE NEW.quantity END, counted
    FROM unnest(ARRAY['day', 'hour', 'month']) period_type  -- in the order of the key
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

    UPDATE subscriptions
    SET used_requests = used_requests + NEW.quantity, used_tokens = used_tokens + NEW.request_tokens + NEW.response_tokens
    WHERE id = NEW.subscription_id AND NEW.created_at >= quota_period_start AND (reset_at IS NULL OR NEW.created_at < reset_at);
    RETURN NULL;
END $$;

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_usage_summary without reading the whole log
-- ---------------------------------------------------------------------------------------------------------------------

-- What one subscription used of one model of one provider in one UTC day. Computed from the log for days that changed, so archived
-- months keep theirs.
CREATE TABLE llm_usage_days (
    subscription_id uuid    NOT NULL,
    usage_date      date    NOT NULL,
    provider        text    NOT NULL,
    model_id        text    NOT NULL,
    requests        bigint  NOT NULL,
    failed          bigint  NOT NULL,
    byok            bigint  NOT NULL,
    request_tokens  bigint  NOT NULL,
    response_tokens bigint  NOT NULL,
    cached_tokens   bigint  NOT NULL,
    latency_sum_ms  bigint  NOT NULL,
    latency_count   bigint  NOT NULL,
    timed_tokens    bigint  NOT NULL,
    currency        varchar(3) NOT NULL,
    amount          numeric,
    PRIMARY KEY (subscription_id, usage_date, provider, model_id)
);

COMMENT ON TABLE  llm_usage_days IS 'Requests to models per subscription, UTC day, provider and model: the ground of llm_usage_summary. Written by refresh_usage_summary().';
COMMENT ON COLUMN llm_usage_days.byok IS 'Requests on the tenant''s own provider key.';
COMMENT ON COLUMN llm_usage_days.timed_tokens IS 'Response tokens of requests that reported how long they took.';
COMMENT ON COLUMN llm_usage_days.amount IS 'What it is worth by the prices in force at its hours, in currency, unrounded; NULL without a price. For display.';

CREATE TABLE llm_usage_refreshes (
    id        boolean     PRIMARY KEY DEFAULT true CHECK (id),
    begun_at  timestamptz NOT NULL DEFAULT '-infinity',
    whole_at  timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO llm_usage_refreshes DEFAULT VALUES;

COMMENT ON TABLE  llm_usage_refreshes IS 'Up to when refresh_usage_summary() has looked for days that changed. One row.';
COMMENT ON COLUMN llm_usage_refreshes.begun_at IS 'When the last refresh began.';
COMMENT ON COLUMN llm_usage_refreshes.whole_at IS 'When the last one began that looked at days of any age.';

DROP MATERIALIZED VIEW llm_usage_summary;
CREATE MATERIALIZED VIEW llm_usage_summary AS
SELECT d.usage_date, s.user_id, d.provider, d.model_id AS model, d.currency,
       sum(d.requests)::bigint AS request_count,
       sum(d.requests - d.failed)::bigint AS success_count,
       sum(d.failed)::bigint AS error_count,
       sum(d.byok)::bigint AS byok_count,
       sum(d.request_tokens)::bigint AS prompt_tokens, sum(d.response_tokens)::bigint AS completion_tokens, sum(d.cached_tokens)::bigint AS cached_tokens,
       sum(d.request_tokens + d.response_tokens)::bigint AS total_tokens,
       sum(d.amount) AS total_cost,
       round(sum(d.latency_sum_ms) / nullif(sum(d.latency_count), 0), 3) AS avg_latency_ms,
       round(sum(d.timed_tokens) * 1000 / nullif(sum(d.latency_sum_ms), 0), 2) AS tokens_per_second,
       round(sum(d.requests - d.failed) / nullif(sum(d.requests), 0), 4) AS success_rate
FROM llm_usage_days d
JOIN subscriptions s ON s.id = d.subscription_id
GROUP BY d.usage_date, s.user_id, d.provider, d.model_id, d.currency;

-- REFRESH … CONCURRENTLY needs it; it serves one user's days, too.
CREATE UNIQUE INDEX llm_usage_summary_key ON llm_usage_summary (user_id, usage_date, provider, model, currency);

COMMENT ON MATERIALIZED VIEW llm_usage_summary IS 'Requests to models per user, provider, model and UTC day, as of the last refresh_usage_summary(), which reads the days that changed since.';

CREATE OR REPLACE FUNCTION refresh_usage_summary() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    -- A day's summary says when the transaction began that changed it; it may have committed later, by less than this.
    overlap CONSTANT interval := interval '15 minutes';
    -- Events come no later than the late window. What is older changes seldom (a void, an archive restored): looked for once a day.
    recent  CONSTANT interval := interval '40 days';
    last    llm_usage_refreshes;
    oldest  timestamptz := date_trunc('day', now(), 'UTC') - recent;
BEGIN
    SELECT * INTO last FROM llm_usage_refreshes FOR UPDATE;  -- one refresh at a time
    IF last.whole_at < now() - interval '1 day' THEN
        last.begun_at := last.whole_at;
        oldest := '-infinity';
    END IF;
    WITH touched AS MATERIALIZED (
        SELECT DISTINCT u.subscription_id, u.period_start
        FROM usage_summaries u
        WHERE u.period_type = 'day' AND u.period_start >= oldest AND u.model_id <> ''
          AND (u.updated_at >= last.begun_at - overlap
               OR EXISTS (SELECT FROM model_prices p
                          WHERE p.created_at >= last.begun_at - overlap AND p.model_id = u.model_id
                            AND p.valid_from < u.period_start + interval '1 day' AND (p.valid_to IS NULL OR p.valid_to > u.period_start)))
    ), hours AS (
        SELECT l.subscription_id, t.period_start, l.provider, l.model_id, date_trunc('hour', l.created_at, 'UTC') AS hour,
               l.power_level, l.byok, l.status_code >= 400 AS failed,
               sum(l.quantity) AS requests, sum(l.request_tokens)::bigint AS request_tokens, sum(l.cached_tokens)::bigint AS cached_tokens,
               sum(l.response_tokens)::bigint AS response_tokens,
               coalesce(sum(l.latency_ms * l.quantity), 0) AS latency_sum_ms,
               coalesce(sum(l.quantity) FILTER (WHERE l.latency_ms IS NOT NULL), 0) AS latency_count,
               coalesce(sum(l.response_tokens) FILTER (WHERE l.latency_ms > 0), 0) AS timed_tokens
        FROM touched t
        JOIN usage_logs l ON l.subscription_id = t.subscription_id
         AND l.created_at >= t.period_start AND l.created_at < t.period_start + interval '1 day'
        WHERE l.model_id IS NOT NULL
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    )
    INSERT INTO llm_usage_days AS d (
        subscription_id, usage_date, provider, model_id, requests, failed, byok, request_tokens, response_tokens, cached_tokens,
        latency_sum_ms, latency_count, timed_tokens, currency, amount)
    SELECT h.subscription_id, (h.period_start AT TIME ZONE 'UTC')::date, coalesce(h.provider, ''), h.model_id,
           sum(h.requests), coalesce(sum(h.requests) FILTER (WHERE h.failed), 0), coalesce(sum(h.requests) FILTER (WHERE h.byok), 0),
           sum(h.request_tokens), sum(h.response_tokens), sum(h.cached_tokens), sum(h.latency_sum_ms), sum(h.latency_count), sum(h.timed_tokens),
           s.currency,
           sum(usage_amount(h.model_id, NULL, NULL, s.currency, h.hour, h.power_level, h.byok, h.failed,
                            h.requests, h.request_tokens, h.cached_tokens, h.response_tokens))
    FROM hours h JOIN subscriptions s ON s.id = h.subscription_id
    GROUP BY h.subscription_id, h.period_start, coalesce(h.provider, ''), h.model_id, s.currency
    ON CONFLICT (subscription_id, usage_date, provider, model_id) DO UPDATE SET
        requests = excluded.requests, failed = excluded.failed, byok = excluded.byok, request_tokens = excluded.request_tokens,
        response_tokens = excluded.response_tokens, cached_tokens = excluded.cached_tokens, latency_sum_ms = excluded.latency_sum_ms,
        latency_count = excluded.latency_count, timed_tokens = excluded.timed_tokens, currency = excluded.currency, amount = excluded.amount;

    UPDATE llm_usage_refreshes
    SET begun_at = now(), whole_at = CASE WHEN oldest = '-infinity' THEN now() ELSE whole_at END;

    IF (SELECT relispopulated FROM pg_class WHERE oid = 'llm_usage_summary'::regclass) THEN
        REFRESH MATERIALIZED VIEW CONCURRENTLY llm_usage_summary;  -- its readers go on reading
    ELSE
        REFRESH MATERIALIZED VIEW llm_usage_summary;
    END IF;
END $$;

COMMENT ON FUNCTION refresh_usage_summary IS 'Brings llm_usage_summary up to date: computes the days anew whose summaries changed since the last time.';

SELECT apply_role_rights();

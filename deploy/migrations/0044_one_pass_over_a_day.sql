-- migrate:up
-- What a refresh of llm_usage_summary reads of the log is looked up by subscription where that is little, and read in one pass where it is
-- not. A subscription's events of a day lie between those of all others: where most of a day is read, looking them up fetched nearly
-- every page of the log once for each subscription, in a transaction that kept updates of all summaries from being tidied up for as long.

CREATE OR REPLACE FUNCTION refresh_usage_summary() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    -- A day's summary says when the transaction began that changed it; it may have committed later, by less than this.
    overlap CONSTANT interval := interval '15 minutes';
    -- Events come no later than the late window. What is older changes seldom (a void, an archive restored): looked for once a day.
    recent  CONSTANT interval := interval '40 days';
    last    llm_usage_refreshes;
    oldest  timestamptz := date_trunc('day', now(), 'UTC') - recent;
    owners  uuid[];
    days    timestamptz[];
    events  numeric;
    pages   bigint;
    looked_up CONSTANT text[] := ARRAY[current_setting('enable_nestloop'), current_setting('enable_mergejoin')];
BEGIN
    SELECT * INTO last FROM llm_usage_refreshes FOR UPDATE;  -- one refresh at a time
    IF last.whole_at < now() - interval '1 day' THEN
        last.begun_at := last.whole_at;
        oldest := '-infinity';
    END IF;

    SELECT array_agg(t.subscription_id), array_agg(t.period_start), sum(t.events) INTO owners, days, events
    FROM (SELECT u.subscription_id, u.period_start, sum(u.request_count) AS events
          FROM usage_summaries u
          WHERE u.period_type = 'day' AND u.period_start >= oldest AND u.model_id <> ''
            AND (u.updated_at >= last.begun_at - overlap
                 OR EXISTS (SELECT FROM model_prices p
                            WHERE p.created_at >= last.begun_at - overlap AND p.model_id = u.model_id
                              AND p.valid_from < u.period_start + interval '1 day' AND (p.valid_to IS NULL OR p.valid_to > u.period_start)))
          GROUP BY u.subscription_id, u.period_start) t;

    -- An event that is looked up costs about a page; in one pass, every page of the months costs less than that.
    SELECT sum(pg_relation_size(i.inhrelid)) / current_setting('block_size')::bigint INTO pages
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'usage_logs'::regclass
      AND c.relname IN (SELECT 'usage_logs_' || to_char(day AT TIME ZONE 'UTC', 'YYYY_MM') FROM unnest(days) AS day);
    IF events > pages THEN
        PERFORM set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true);
    END IF;

    -- EXECUTE: planned anew each time, by how many subscriptions there are.
    EXECUTE $insert$
    WITH hours AS (
        SELECT l.subscription_id, t.period_start, l.provider, l.model_id, date_trunc('hour', l.created_at, 'UTC') AS hour,
               l.power_level, l.byok, l.status_code >= 400 AS failed,
               sum(l.quantity) AS requests, sum(l.request_tokens)::bigint AS request_tokens, sum(l.cached_tokens)::bigint AS cached_tokens,
               sum(l.response_tokens)::bigint AS response_tokens,
               coalesce(sum(l.latency_ms * l.quantity), 0) AS latency_sum_ms,
               coalesce(sum(l.quantity) FILTER (WHERE l.latency_ms IS NOT NULL), 0) AS latency_count,
               coalesce(sum(l.response_tokens) FILTER (WHERE l.latency_ms > 0), 0) AS timed_tokens
        FROM unnest($1, $2) AS t (subscription_id, period_start)
        JOIN usage_logs l ON l.subscription_id = t.subscription_id
         AND l.created_at >= t.period_start AND l.created_at < t.period_start + interval '1 day'
        WHERE l.model_id IS NOT NULL AND l.created_at >= $3 AND l.created_at < $4
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
        latency_count = excluded.latency_count, timed_tokens = excluded.timed_tokens, currency = excluded.currency, amount = excluded.amount
    $insert$ USING owners, days, (SELECT min(day) FROM unnest(days) AS day), (SELECT max(day) + interval '1 day' FROM unnest(days) AS day);
    PERFORM set_config('enable_nestloop', looked_up[1], true), set_config('enable_mergejoin', looked_up[2], true);

    UPDATE llm_usage_refreshes
    SET begun_at = now(), whole_at = CASE WHEN oldest = '-infinity' THEN now() ELSE whole_at END;

    IF (SELECT relispopulated FROM pg_class WHERE oid = 'llm_usage_summary'::regclass) THEN
        REFRESH MATERIALIZED VIEW CONCURRENTLY llm_usage_summary;  -- its readers go on reading
    ELSE
        REFRESH MATERIALIZED VIEW llm_usage_summary;
    END IF;
END $$;

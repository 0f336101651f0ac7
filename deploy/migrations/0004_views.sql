-- migrate:up
-- The seeds' other shapes of the same facts, as views; their functions over usage; what protects usage from deletion; and
-- row-level security for tenants.

-- ---------------------------------------------------------------------------------------------------------------------
-- Schema and server
-- ---------------------------------------------------------------------------------------------------------------------

CREATE VIEW schema_version AS
SELECT version, name AS description, applied_at FROM schema_migrations;

COMMENT ON VIEW schema_version IS 'The migrations that this database has had.';

CREATE VIEW database_connections AS
SELECT pid, usename, application_name, client_addr, state, query_start, query
FROM pg_stat_activity WHERE datname = current_database();

COMMENT ON VIEW database_connections IS 'Who is connected to this database, and since when with what.';

CREATE VIEW database_table_sizes AS
SELECT schemaname, relname AS tablename, pg_total_relation_size(relid) AS bytes, pg_size_pretty(pg_total_relation_size(relid)) AS size, n_live_tup AS rows_estimated
FROM pg_stat_user_tables;

COMMENT ON VIEW database_table_sizes IS 'How large each table is, with its indexes.';

CREATE VIEW database_index_usage AS
SELECT schemaname, relname AS tablename, indexrelname AS indexname, idx_scan AS scans, idx_tup_read AS tuples_read, pg_relation_size(indexrelid) AS bytes
FROM pg_stat_user_indexes;

COMMENT ON VIEW database_index_usage IS 'How often each index was used since the statistics were reset, and what it costs in bytes.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Subscriptions and prices
-- ---------------------------------------------------------------------------------------------------------------------

CREATE VIEW active_subscriptions AS
SELECT s.*, u.username, u.email, m.name AS model_name, m.provider, p.name AS plan_name,
       s.quota_requests - least(s.used_requests, s.quota_requests) AS remaining_requests,
       s.quota_tokens - least(s.used_tokens, s.quota_tokens) AS remaining_tokens
FROM subscriptions s
JOIN users u ON u.id = s.user_id
LEFT JOIN models m ON m.id = s.model_id
LEFT JOIN plans p ON p.id = s.plan_id
WHERE s.status IN ('active', 'trialing') AND (s.expires_at IS NULL OR s.expires_at > now());

COMMENT ON VIEW active_subscriptions IS 'Subscriptions that may be used now, and what remains of their quotas (NULL: unlimited).';

CREATE VIEW current_model_prices AS
SELECT * FROM model_prices WHERE valid_from <= now() AND (valid_to IS NULL OR valid_to > now());

COMMENT ON VIEW current_model_prices IS 'The price versions in force now.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Usage in the shapes of the seeds
-- ---------------------------------------------------------------------------------------------------------------------

CREATE VIEW usage_statistics AS
SELECT s.user_id, nullif(u.model_id, '') AS model_id, nullif(u.tool_name, '') AS tool_name, u.period_start AS usage_date,
       sum(u.request_count)::bigint AS request_count, sum(u.total_tokens)::bigint AS total_tokens,
       round(sum(u.latency_sum_ms) / nullif(sum(u.latency_count), 0), 3) AS avg_latency_ms,
       sum(u.error_count)::bigint AS error_count
FROM usage_summaries u
JOIN subscriptions s ON s.id = u.subscription_id
WHERE u.period_type = 'day'
GROUP BY s.user_id, u.model_id, u.tool_name, u.period_start;

COMMENT ON VIEW usage_statistics IS 'Usage per user, model or tool, and UTC day, from the day summaries.';

-- A body that is parsed here and now, not text: a materialized view is refreshed with an empty search_path.
-- The same rule as services/billing/rating, for what is only shown: linear in its quantities, so sums may be rated. A test
-- holds the two together. What is billed is rated_usage.
CREATE FUNCTION usage_amount(
    p_model text, p_tool text, p_feature text, p_currency text, p_at timestamptz, p_power_level text, p_byok boolean, p_failed boolean,
    p_requests bigint, p_request_tokens bigint, p_cached_tokens bigint, p_response_tokens bigint
) RETURNS numeric LANGUAGE sql STABLE RETURN (
    SELECT CASE
        WHEN p_byok OR (p_failed AND NOT p.bill_errors) THEN 0
        ELSE (p_requests * p.price_per_request
              + 0.001 * ((p_request_tokens - p_cached_tokens) * p.input_price_per_1k
                         + p_cached_tokens * p.cached_input_price_per_1k
                         + p_response_tokens * p.output_price_per_1k))
             * (SELECT cost_multiplier FROM power_level_configs WHERE power_level = p_power_level) END
    FROM model_prices p
    WHERE p.currency = p_currency AND p.valid_from <= p_at AND (p.valid_to IS NULL OR p_at < p.valid_to)
      AND CASE WHEN p_model IS NOT NULL THEN p.model_id = p_model ELSE p.tool_name = p_tool OR p.feature_type = p_feature END
    ORDER BY p.tool_name IS NULL
    LIMIT 1
);

COMMENT ON FUNCTION usage_amount IS 'What usage at a time is worth by the price then in force; NULL without one. For display: what was billed is rated_usage.';

CREATE VIEW llm_usage_log AS
SELECT l.id, l.request_id, l.session_id, s.user_id, l.subscription_id, l.api_key_id, l.app_id, l.end_user, l.feature_type,
       l.provider, l.model_id AS model,
       l.request_tokens AS prompt_tokens, l.response_tokens AS completion_tokens, l.cached_tokens, l.total_tokens,
       usage_amount(l.model_id, l.tool_name, l.feature_type, s.currency, l.created_at, l.power_level, l.byok, l.status_code >= 400,
                    1, l.request_tokens, l.cached_tokens, l.response_tokens) AS credits_used,
       s.currency, l.power_level, l.byok AS is_byok, l.latency_ms,
       round(l.response_tokens * 1000.0 / nullif(l.latency_ms, 0), 2) AS tokens_per_second,
       l.status_code < 400 AS success, l.status_code,
       CASE WHEN l.status_code < 400 THEN NULL
            WHEN l.status_code IN (401, 403) THEN 'authentication'
            WHEN l.status_code IN (408, 504) THEN 'timeout'
            WHEN l.status_code = 429 THEN 'rate_limited'
            WHEN l.status_code < 500 THEN 'invalid_request'
            ELSE 'provider_error' END AS error_category,
       l.error_message, l.metadata, l.created_at
FROM usage_logs l
JOIN subscriptions s ON s.id = l.subscription_id
WHERE l.model_id IS NOT NULL;

COMMENT ON VIEW llm_usage_log IS 'Every request to a model, in the words of a credit system.';
COMMENT ON COLUMN llm_usage_log.credits_used IS 'What the request is worth by the price in force at its time, unrounded; NULL without a price.';

CREATE MATERIALIZED VIEW llm_usage_summary AS
WITH hours AS (
    SELECT s.user_id, s.currency, l.provider, l.model_id, date_trunc('hour', l.created_at, 'UTC') AS hour,
           l.power_level, l.byok, l.status_code >= 400 AS failed,
           count(*) AS requests, sum(l.request_tokens)::bigint AS request_tokens, sum(l.cached_tokens)::bigint AS cached_tokens,
           sum(l.response_tokens)::bigint AS response_tokens,
           sum(l.latency_ms)::bigint AS latency_sum_ms, count(l.latency_ms) AS latency_count,
           sum(l.response_tokens) FILTER (WHERE l.latency_ms > 0) AS timed_tokens
    FROM usage_logs l
    JOIN subscriptions s ON s.id = l.subscription_id
    WHERE l.model_id IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
)
SELECT (date_trunc('day', hour, 'UTC') AT TIME ZONE 'UTC')::date AS usage_date, user_id, coalesce(provider, '') AS provider, model_id AS model, currency,
       sum(requests)::bigint AS request_count,
       coalesce(sum(requests) FILTER (WHERE NOT failed), 0)::bigint AS success_count,
       coalesce(sum(requests) FILTER (WHERE failed), 0)::bigint AS error_count,
       coalesce(sum(requests) FILTER (WHERE byok), 0)::bigint AS byok_count,
       sum(request_tokens)::bigint AS prompt_tokens, sum(response_tokens)::bigint AS completion_tokens, sum(cached_tokens)::bigint AS cached_tokens,
       sum(request_tokens + response_tokens)::bigint AS total_tokens,
       sum(usage_amount(model_id, NULL, NULL, currency, hour, power_level, byok, failed, requests, request_tokens, cached_tokens, response_tokens)) AS total_cost,
       round(sum(latency_sum_ms) / nullif(sum(latency_count), 0), 3) AS avg_latency_ms,
       round(sum(timed_tokens) * 1000 / nullif(sum(latency_sum_ms), 0), 2) AS tokens_per_second,
       round(coalesce(sum(requests) FILTER (WHERE NOT failed), 0) / sum(requests), 4) AS success_rate
FROM hours
GROUP BY 1, 2, 3, 4, 5;

-- REFRESH … CONCURRENTLY needs it; it serves one user's days, too.
CREATE UNIQUE INDEX llm_usage_summary_key ON llm_usage_summary (user_id, usage_date, provider, model, currency);

COMMENT ON MATERIALIZED VIEW llm_usage_summary IS 'Requests to models per user, provider, model and UTC day, as of the last refresh_usage_summary(), which reads the whole log.';

CREATE FUNCTION refresh_usage_summary() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT relispopulated FROM pg_class WHERE oid = 'llm_usage_summary'::regclass) THEN
        REFRESH MATERIALIZED VIEW CONCURRENTLY llm_usage_summary;  -- its readers go on reading
    ELSE
        REFRESH MATERIALIZED VIEW llm_usage_summary;
    END IF;
END $$;

COMMENT ON FUNCTION refresh_usage_summary IS 'Brings llm_usage_summary up to date.';

CREATE VIEW user_usage_metrics AS
SELECT md5(concat_ws('/', r.user_id, r.feature_type, r.currency, date_trunc('day', r.hour, 'UTC')))::uuid AS id,
       r.user_id, sum(r.requests)::bigint AS request_count, sum(r.request_tokens + r.response_tokens)::bigint AS total_tokens,
       coalesce(sum(r.amount), 0) AS total_cost, r.currency, nullif(r.feature_type, '') AS feature_type,
       date_trunc('day', r.hour, 'UTC') AS created_at
FROM rated_usage r
GROUP BY r.user_id, r.feature_type, r.currency, date_trunc('day', r.hour, 'UTC');

COMMENT ON VIEW user_usage_metrics IS 'Usage and its cost per user, feature (chat, completion, analysis, …) and UTC day, as rated.';
COMMENT ON COLUMN user_usage_metrics.created_at IS 'Start of the day, UTC.';

CREATE VIEW documentation_usage_logs AS
SELECT l.id, s.user_id, l.api_key_id, l.tool_name, l.library_id, l.metadata ->> 'query' AS query, l.tokens_returned,
       l.latency_ms AS response_time_ms, l.created_at
FROM usage_logs l
JOIN subscriptions s ON s.id = l.subscription_id
WHERE l.tool_name IS NOT NULL;

COMMENT ON VIEW documentation_usage_logs IS 'Every call of a tool (resolve-library-id, query-docs, …), in the words of the documentation server.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Functions of the seeds over users and usage
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION get_user_stats()
RETURNS TABLE (total_users bigint, active_users_today bigint, new_users_this_week bigint, total_usage_metrics bigint) LANGUAGE sql STABLE AS $$
    SELECT (SELECT count(*) FROM users),
           (SELECT count(*) FROM users WHERE last_login_at >= date_trunc('day', now(), 'UTC')),
           (SELECT count(*) FROM users WHERE created_at >= date_trunc('day', now(), 'UTC') - interval '7 days'),
           (SELECT count(*) FROM user_usage_metrics)
$$;

COMMENT ON FUNCTION get_user_stats IS 'How many users there are, logged in since midnight UTC, signed up in the last seven days.';

CREATE FUNCTION get_user_activity_summary(user_uuid uuid)
RETURNS TABLE (total_actions bigint, actions_this_week bigint, last_activity timestamptz, most_common_action text) LANGUAGE sql STABLE AS $$
    SELECT count(*), count(*) FILTER (WHERE created_at >= date_trunc('day', now(), 'UTC') - interval '7 days'), max(created_at),
           (SELECT action FROM user_activity WHERE user_id = user_uuid GROUP BY action ORDER BY count(*) DESC, max(created_at) DESC, action LIMIT 1)
    FROM user_activity WHERE user_id = user_uuid
$$;

COMMENT ON FUNCTION get_user_activity_summary IS 'What a user did in the portal: how often, when last, what mostly.';

-- The aggregator keeps summaries and counters; this does the same for rows imported by hand: make it an AFTER INSERT
-- trigger of a table shaped like usage_logs, import, take it away. On the hot table it would cost 99 % of the rate, and
-- rows that ingest writes would be counted twice.
CREATE FUNCTION update_usage_summary() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- shared.contracts.LATENCY_BUCKETS_MS; a test compares them.
    bounds  CONSTANT integer[] := ARRAY[50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200];
    counted bigint[] := array_fill(0::bigint, ARRAY[cardinality(bounds) + 1]);
BEGIN
    IF NEW.latency_ms IS NOT NULL THEN
        counted[width_bucket(NEW.latency_ms - 1, bounds) + 1] := 1;  -- upper bounds are inclusive
    END IF;
    INSERT INTO usage_summaries AS s (subscription_id, period_type, period_start, model_id, tool_name, request_count, error_count,
                                      request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
    SELECT NEW.subscription_id, period_type, date_trunc(period_type, NEW.created_at, 'UTC'), coalesce(NEW.model_id, ''), coalesce(NEW.tool_name, ''),
           1, (NEW.status_code >= 400)::integer, NEW.request_tokens, NEW.response_tokens, NEW.cached_tokens,
           coalesce(NEW.latency_ms, 0), (NEW.latency_ms IS NOT NULL)::integer, counted
    FROM unnest(ARRAY['day', 'hour', 'month']) period_type  -- in the order of the key
    ON CONFLICT (subscription_id, period_type, period_start, model_id, tool_name) DO UPDATE SET
        request_count = s.request_count + excluded.request_count,
        error_count = s.error_count + excluded.error_count,
        request_tokens = s.request_tokens + excluded.request_tokens,
        response_tokens = s.response_tokens + excluded.response_tokens,
        cached_tokens = s.cached_tokens + excluded.cached_tokens,
        latency_sum_ms = s.latency_sum_ms + excluded.latency_sum_ms,
        latency_count = s.latency_count + excluded.latency_count,
        latency_histogram = ARRAY(SELECT had + more FROM unnest(s.latency_histogram, excluded.latency_histogram)
                                  WITH ORDINALITY bucket (had, more, place) ORDER BY place),
        updated_at = now();

    UPDATE subscriptions SET used_requests = used_requests + 1, used_tokens = used_tokens + NEW.request_tokens + NEW.response_tokens
    WHERE id = NEW.subscription_id AND NEW.created_at >= quota_period_start AND (reset_at IS NULL OR NEW.created_at < reset_at);
    RETURN NULL;
END $$;

COMMENT ON FUNCTION update_usage_summary IS 'Trigger for imports by hand: adds an inserted row to hour, day and month summaries and to the quota counters.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Usage outlives who used
-- ---------------------------------------------------------------------------------------------------------------------

-- The hot tables have no foreign keys, so RESTRICT is said here.
CREATE FUNCTION protect_used_subscription() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM usage_summaries WHERE subscription_id = OLD.id)
        OR EXISTS (SELECT FROM rated_usage WHERE subscription_id = OLD.id)
        OR EXISTS (SELECT FROM usage_logs WHERE subscription_id = OLD.id) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS012',
            MESSAGE = format('subscription %s has usage and cannot be deleted', OLD.id),
            HINT = 'Cancel it; anonymise_user() erases a person.';
    END IF;
    RETURN OLD;
END $$;

COMMENT ON FUNCTION protect_used_subscription IS 'Trigger: a subscription that was used is never deleted (TS012).';

CREATE TRIGGER protect_used_subscriptions BEFORE DELETE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION protect_used_subscription();

CREATE FUNCTION anonymise_user(p_user uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM subscriptions WHERE user_id = p_user AND status NOT IN ('cancelled', 'expired')) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS012', MESSAGE = format('user %s still has subscriptions', p_user), HINT = 'Cancel them first.';
    END IF;
    UPDATE users SET username = 'erased-' || id, email = 'erased-' || id || '@erased.invalid', full_name = NULL, avatar_url = NULL,
        password_hash = NULL, oauth_id = NULL, is_active = false, notification_preferences = '{}', anonymised_at = coalesce(anonymised_at, now())
    WHERE id = p_user;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'TS005', MESSAGE = format('there is no user %s', p_user);
    END IF;
    DELETE FROM sessions WHERE user_id = p_user;
    DELETE FROM bridge_tokens WHERE user_id = p_user;
    DELETE FROM sync_logs WHERE user_id = p_user;
    DELETE FROM user_activity WHERE user_id = p_user;
    DELETE FROM admin_notes WHERE user_id = p_user;
    DELETE FROM user_provider_keys WHERE user_id = p_user;
    UPDATE api_keys SET name = NULL, revoked_at = coalesce(revoked_at, now()) WHERE user_id = p_user;
    UPDATE payment_methods SET is_default = false, provider_method_id = 'erased-' || id, last_four = NULL, brand = NULL,
        expiry_month = NULL, expiry_year = NULL, metadata = '{}' WHERE user_id = p_user;
END $$;

COMMENT ON FUNCTION anonymise_user IS 'Erases who a user was; usage, ledger, invoices, payments and the audit trail stay.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Row-level security
-- ---------------------------------------------------------------------------------------------------------------------

-- For the role that answers tenants: SET LOCAL ROLE tallystick_tenant; SET LOCAL app.current_user_id = '…'. Without the
-- setting it sees nothing. The owner, as which migrations and services connect, is not subject to it (no FORCE). The
-- tables of usage are left out: COPY FROM is refused under row-level security, and tenants have no right to them at all.

CREATE FUNCTION app_current_user_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT nullif(current_setting('app.current_user_id', true), '')::uuid
$$;

COMMENT ON FUNCTION app_current_user_id IS 'The tenant of this transaction (setting app.current_user_id); NULL without one, and then nothing is visible.';

-- SECURITY DEFINER: a policy on users that itself read users would recurse for ever.
CREATE FUNCTION app_current_user_is_admin() RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT EXISTS (SELECT FROM users WHERE id = app_current_user_id() AND is_active AND 'admin' = ANY (roles))
$$;

COMMENT ON FUNCTION app_current_user_is_admin IS 'Whether the tenant of this transaction is an administrator: by role, whatever the tier.';

DO $$
DECLARE
    tenant_table text;
BEGIN
    BEGIN
        CREATE ROLE tallystick_tenant NOLOGIN;
    EXCEPTION
        WHEN duplicate_object OR unique_violation THEN NULL;  -- roles belong to the server: another database made it
        WHEN insufficient_privilege THEN
            RAISE NOTICE 'role tallystick_tenant is not created: % may not create roles; grant its rights to a role of your own', current_user;
    END;
    FOREACH tenant_table IN ARRAY ARRAY[
        'users', 'sessions', 'user_activity', 'subscriptions', 'api_keys', 'user_provider_keys', 'user_credits', 'credit_transactions',
        'credits', 'invoices', 'invoice_lines', 'payments', 'payment_methods', 'billing_alerts', 'billing_history']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY user_own_data ON %I USING (%s)', tenant_table, CASE tenant_table
            WHEN 'users' THEN 'id = app_current_user_id()'
            WHEN 'invoice_lines' THEN 'invoice_id IN (SELECT id FROM invoices WHERE user_id = app_current_user_id())'
            ELSE 'user_id = app_current_user_id()' END);
        EXECUTE format('CREATE POLICY admin_all_data ON %I USING ((SELECT app_current_user_is_admin()))', tenant_table);
        IF to_regrole('tallystick_tenant') IS NOT NULL THEN
            EXECUTE format('GRANT SELECT ON %I TO tallystick_tenant', tenant_table);
        END IF;
    END LOOP;
END $$;

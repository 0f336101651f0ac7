-- migrate:up
-- What was used in each hour by app, provider, API key, feature and power level: questions about these read it in place of the log.

-- What tells uses of one hour and key from each other, as one short name: eight texts in an index would be most of it, and two kilobytes
-- of names are more than an index holds.
CREATE FUNCTION usage_kind(
    model_id text, tool_name text, provider text, feature_type text, power_level text, byok boolean, failed boolean, app_id text
) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE RETURN encode(substr(sha256(convert_to(
    length(model_id) || ':' || model_id || length(tool_name) || ':' || tool_name || length(provider) || ':' || provider
    || length(feature_type) || ':' || feature_type || length(power_level) || ':' || power_level
    || CASE WHEN byok THEN 't' ELSE 'f' END || CASE WHEN failed THEN 't' ELSE 'f' END || app_id, 'UTF8')), 1, 16), 'hex')::uuid;

COMMENT ON FUNCTION usage_kind IS 'A short name of what tells uses of one subscription, hour and API key from each other (usage_hours.kind): the first half of a SHA-256.';

-- As lean as summaries: no second index, room in the page for HOT updates. No errors: the requests of what failed are those.
-- No CHECK that hours are whole: the same ones are in usage_summaries, which has it, and it is a tenth of what a row costs.
CREATE TABLE usage_hours (
    subscription_id   uuid   NOT NULL,
    hour              timestamptz NOT NULL,
    api_key_id        uuid   NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    kind              uuid   NOT NULL,
    request_count     bigint NOT NULL,
    request_tokens    bigint NOT NULL,
    response_tokens   bigint NOT NULL,
    cached_tokens     bigint NOT NULL,
    latency_sum_ms    bigint NOT NULL,
    latency_count     bigint NOT NULL,
    byok              boolean NOT NULL,
    failed            boolean NOT NULL,
    model_id          text   NOT NULL,
    tool_name         text   NOT NULL,
    provider          text   NOT NULL,
    feature_type      text   NOT NULL,
    power_level       text   NOT NULL,
    app_id            text   NOT NULL,
    latency_histogram bigint[] NOT NULL,
    PRIMARY KEY (subscription_id, hour, api_key_id, kind)
) WITH (fillfactor = 50);

COMMENT ON TABLE  usage_hours IS 'Usage per subscription, UTC hour, API key, model or tool, provider, feature, power level and app: derived from usage_logs. Written by the aggregator.';
COMMENT ON COLUMN usage_hours.api_key_id IS 'The API key; all zeros where none was named.';
COMMENT ON COLUMN usage_hours.kind IS 'usage_kind() of the columns that tell the uses of an hour and key apart.';
COMMENT ON COLUMN usage_hours.request_count IS 'Events less those that were taken back.';
COMMENT ON COLUMN usage_hours.failed IS 'Whether the status code was 400 or more.';
COMMENT ON COLUMN usage_hours.latency_histogram IS 'Counts per latency bucket, as in usage_summaries.';

CREATE TABLE usage_hours_kept (
    id    boolean PRIMARY KEY DEFAULT true CHECK (id),
    since timestamptz NOT NULL
);
COMMENT ON TABLE usage_hours_kept IS 'From which hour on usage_hours is complete. One row. Written by the aggregator.';

-- Workers of the version before go on for as long as somebody likes: their aggregator does not write usage_hours, and messages of their
-- ingest do not say which app it was. Each message that is applied so moves the hour from which on usage_hours is complete. An event may lie
-- ahead of now by some minutes; with an hour to spare none lies behind the mark.
ALTER TABLE aggregator_inbox ADD COLUMN by_app boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN aggregator_inbox.by_app IS 'Whether the message told usage apart by app and went into usage_hours; false of those that the version before sent or applied.';

CREATE FUNCTION note_missing_hours() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE usage_hours_kept SET since = date_trunc('hour', now(), 'UTC') + interval '2 hours'
    WHERE since < date_trunc('hour', now(), 'UTC') + interval '2 hours';
    RETURN NULL;
END $$;
COMMENT ON FUNCTION note_missing_hours IS 'Trigger: usage_hours is complete only behind the hours of a message that did not go into it.';

CREATE TRIGGER note_missing_hours AFTER INSERT ON aggregator_inbox
    FOR EACH ROW WHEN (NOT NEW.by_app) EXECUTE FUNCTION note_missing_hours();

-- Comes last: whoever was applying messages without the trigger has ended.
INSERT INTO usage_hours_kept (since)
SELECT CASE WHEN EXISTS (SELECT FROM usage_logs) THEN date_trunc('hour', now(), 'UTC') + interval '2 hours' ELSE '-infinity' END;

-- Imports by hand as well: with its hours of uses.
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

    INSERT INTO usage_hours AS h (subscription_id, hour, api_key_id, kind, byok, failed, model_id, tool_name, provider, feature_type,
                                  power_level, app_id, request_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms,
                                  latency_count, latency_histogram)
    SELECT NEW.subscription_id, date_trunc('hour', NEW.created_at, 'UTC'),
           coalesce(NEW.api_key_id, '00000000-0000-0000-0000-000000000000'),
           usage_kind(model_id, tool_name, provider, feature_type, NEW.power_level, NEW.byok, failed, app_id), NEW.byok, failed, model_id,
           tool_name, provider, feature_type, NEW.power_level, app_id, NEW.quantity, NEW.request_tokens, NEW.response_tokens,
           NEW.cached_tokens, coalesce(NEW.latency_ms, 0) * NEW.quantity, CASE WHEN NEW.latency_ms IS NULL THEN 0 ELSE NEW.quantity END, counted
    FROM (SELECT coalesce(NEW.model_id, '') AS model_id, coalesce(NEW.tool_name, '') AS tool_name, coalesce(NEW.provider, '') AS provider,
                 coalesce(NEW.feature_type, '') AS feature_type, coalesce(NEW.app_id, '') AS app_id, NEW.status_code >= 400 AS failed) used
    ON CONFLICT (subscription_id, hour, api_key_id, kind) DO UPDATE SET
        request_count = h.request_count + excluded.request_count,
        request_tokens = h.request_tokens + excluded.request_tokens,
        response_tokens = h.response_tokens + excluded.response_tokens,
        cached_tokens = h.cached_tokens + excluded.cached_tokens,
        latency_sum_ms = h.latency_sum_ms + excluded.latency_sum_ms,
        latency_count = h.latency_count + excluded.latency_count,
        latency_histogram = add_histograms(h.latency_histogram, excluded.latency_histogram);

    UPDATE subscriptions
    SET used_requests = used_requests + NEW.quantity, used_tokens = used_tokens + NEW.request_tokens + NEW.response_tokens
    WHERE id = NEW.subscription_id AND NEW.created_at >= quota_period_start AND (reset_at IS NULL OR NEW.created_at < reset_at);
    RETURN NULL;
END $$;

ALTER TABLE usage_hours ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_own_data ON usage_hours USING
    (subscription_id = ANY (ARRAY(SELECT id FROM subscriptions WHERE user_id = (SELECT app_current_user_id()))));

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_aggregator', 'usage_hours', 'SELECT', NULL),
    ('tallystick_aggregator', 'usage_hours', 'INSERT', NULL),
    ('tallystick_aggregator', 'usage_hours', 'UPDATE',
     '{request_count,request_tokens,response_tokens,cached_tokens,latency_sum_ms,latency_count,latency_histogram}'),
    ('tallystick_aggregator', 'usage_hours_kept', 'SELECT', NULL),
    ('tallystick_aggregator', 'usage_hours_kept', 'UPDATE', '{since}'),
    ('tallystick_tenant', 'usage_hours_kept', 'SELECT', NULL),
    ('tallystick_billing', 'usage_hours', 'SELECT', NULL),
    ('tallystick_billing', 'usage_hours_kept', 'SELECT', NULL);
SELECT apply_role_rights();

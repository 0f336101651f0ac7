-- migrate:up
-- What everybody used, by hour, day and month and by model: the sums of usage_summaries over all subscriptions, added up as usage comes. What
-- administrators and finance ask about everybody read day rows of every subscription, and took longer with every customer.

CREATE TABLE usage_totals (
    period_type       text    NOT NULL CHECK (period_type IN ('hour', 'day', 'month')),
    period_start      timestamptz NOT NULL,
    model_id          text    NOT NULL,
    tool_name         text    NOT NULL,
    partition         integer NOT NULL,
    request_count     bigint  NOT NULL,
    error_count       bigint  NOT NULL,
    request_tokens    bigint  NOT NULL,
    response_tokens   bigint  NOT NULL,
    cached_tokens     bigint  NOT NULL,
    latency_sum_ms    bigint  NOT NULL,
    latency_count     bigint  NOT NULL,
    latency_histogram bigint[] NOT NULL,
    PRIMARY KEY (period_type, period_start, model_id, tool_name, partition),
    CONSTRAINT period_is_aligned CHECK (period_start = date_trunc(period_type, period_start, 'UTC'))
) WITH (fillfactor = 50);

COMMENT ON TABLE  usage_totals IS 'usage_summaries summed over all subscriptions, in parts: what everybody used is the sum over partition. Written by the aggregator.';
COMMENT ON COLUMN usage_totals.partition IS 'Partition of usage.recorded whose slices added it: keeps two aggregators from fighting over one row; -1: what anybody else changed.';
COMMENT ON COLUMN usage_totals.request_count IS 'May be negative: a part may take back what another one counted.';

-- One text for both that execute it: only the trigger itself sees its transition tables.
CREATE FUNCTION usage_totals_statement(changes text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT format($statement$
        INSERT INTO usage_totals AS t (
            period_type, period_start, model_id, tool_name, partition, request_count, error_count, request_tokens, response_tokens, cached_tokens,
            latency_sum_ms, latency_count, latency_histogram)
        SELECT period_type, period_start, model_id, tool_name, -1, requests, errors, request_tokens, response_tokens, cached_tokens,
               latency_sum_ms, latency_count, histogram
        FROM (
            SELECT c.period_type, c.period_start, c.model_id, c.tool_name, sum(sign * c.request_count)::bigint AS requests,
                   sum(sign * c.error_count)::bigint AS errors, sum(sign * c.request_tokens)::bigint AS request_tokens,
                   sum(sign * c.response_tokens)::bigint AS response_tokens, sum(sign * c.cached_tokens)::bigint AS cached_tokens,
                   sum(sign * c.latency_sum_ms)::bigint AS latency_sum_ms, sum(sign * c.latency_count)::bigint AS latency_count,
                   ARRAY[sum(sign * c.latency_histogram[1]), sum(sign * c.latency_histogram[2]), sum(sign * c.latency_histogram[3]),
                         sum(sign * c.latency_histogram[4]), sum(sign * c.latency_histogram[5]), sum(sign * c.latency_histogram[6]),
                         sum(sign * c.latency_histogram[7]), sum(sign * c.latency_histogram[8]), sum(sign * c.latency_histogram[9]),
                         sum(sign * c.latency_histogram[10]), sum(sign * c.latency_histogram[11]),
                         sum(sign * c.latency_histogram[12])]::bigint[] AS histogram
            FROM (%s) c (sign, period_type, period_start, model_id, tool_name, request_count, error_count, request_tokens, response_tokens,
                         cached_tokens, latency_sum_ms, latency_count, latency_histogram)
            GROUP BY 1, 2, 3, 4
        ) summed
        WHERE 0 <> ANY (ARRAY[requests, errors, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count] || histogram)
        ORDER BY 1, 2, 3, 4
        ON CONFLICT (period_type, period_start, model_id, tool_name, partition) DO UPDATE SET
            request_count = t.request_count + excluded.request_count,
            error_count = t.error_count + excluded.error_count,
            request_tokens = t.request_tokens + excluded.request_tokens,
            response_tokens = t.response_tokens + excluded.response_tokens,
            cached_tokens = t.cached_tokens + excluded.cached_tokens,
            latency_sum_ms = t.latency_sum_ms + excluded.latency_sum_ms,
            latency_count = t.latency_count + excluded.latency_count,
            latency_histogram = add_histograms(t.latency_histogram, excluded.latency_histogram)
    $statement$, (
        SELECT string_agg(format(
            'SELECT %s, period_type, period_start, model_id, tool_name, request_count, error_count, request_tokens, response_tokens, '
            'cached_tokens, latency_sum_ms, latency_count, latency_histogram FROM %I', one[1], one[2]), ' UNION ALL ')
        FROM (SELECT string_to_array(each, ' ') AS one FROM string_to_table(changes, ', ') each) named))
$$;

COMMENT ON FUNCTION usage_totals_statement IS 'The statement that adds tables of the columns of usage_summaries to the part -1 of usage_totals, such as: 1 added, -1 removed.';

-- Whoever adds a slice adds its totals itself, beforehand, and says so (tallystick.totals): that costs a few rows. Anybody else that changes
-- summaries – an aggregator of the version before, a rebuild, somebody by hand – is followed here. The lock: two that lock rows of the part -1
-- in the order of what was inserted, and then of what was updated, would wait for each other crosswise.
CREATE FUNCTION keep_usage_totals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('tallystick.usage_totals', 0));
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM usage_totals;
    ELSE
        EXECUTE usage_totals_statement(CASE TG_OP WHEN 'INSERT' THEN '1 added' WHEN 'DELETE' THEN '-1 removed' ELSE '1 added, -1 removed' END);
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION keep_usage_totals IS 'Trigger: adds what changed of usage_summaries to usage_totals, unless who changed it has done so.';

-- One snapshot sees both or neither of what a slice adds to summaries and totals: so the difference stays what it is while slices go on. What
-- the part -1 gets beside them waits for the lock, which is taken before the snapshot.
CREATE FUNCTION repair_usage_totals() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    repaired bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('tallystick.usage_totals', 0));
    EXECUTE usage_totals_statement('1 usage_summaries, -1 usage_totals');
    GET DIAGNOSTICS repaired = ROW_COUNT;
    RETURN repaired;
END $$;

COMMENT ON FUNCTION repair_usage_totals IS 'Adds to usage_totals what it lacks of the sums of usage_summaries, or has too much; returns how many rows that concerns. While slices go on.';

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_aggregator', 'usage_totals', 'SELECT', NULL),
    ('tallystick_aggregator', 'usage_totals', 'INSERT', NULL),
    ('tallystick_aggregator', 'usage_totals', 'UPDATE',
     '{request_count,error_count,request_tokens,response_tokens,cached_tokens,latency_sum_ms,latency_count,latency_histogram}'),
    ('tallystick_billing', 'usage_totals', 'SELECT', NULL);
SELECT apply_role_rights();

-- From here on to the end, slices wait.
CREATE TRIGGER total_new_summaries AFTER INSERT ON usage_summaries REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT WHEN (current_setting('tallystick.totals', true) IS DISTINCT FROM 'added') EXECUTE FUNCTION keep_usage_totals();
CREATE TRIGGER total_changed_summaries AFTER UPDATE ON usage_summaries REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT WHEN (current_setting('tallystick.totals', true) IS DISTINCT FROM 'added') EXECUTE FUNCTION keep_usage_totals();
CREATE TRIGGER total_deleted_summaries AFTER DELETE ON usage_summaries REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT WHEN (current_setting('tallystick.totals', true) IS DISTINCT FROM 'added') EXECUTE FUNCTION keep_usage_totals();
CREATE TRIGGER total_truncated_summaries AFTER TRUNCATE ON usage_summaries FOR EACH STATEMENT EXECUTE FUNCTION keep_usage_totals();
SELECT repair_usage_totals();

-- migrate:up
-- The pipeline's own tables: the log, its positions and outboxes, what was refused or held, and what is derived from the log.
-- Each table is written by one service, named in its comment.

-- ---------------------------------------------------------------------------------------------------------------------
-- The hot table
-- ---------------------------------------------------------------------------------------------------------------------

-- No foreign keys (one halves the rate; ingest checks ids per batch, `tallystick reconcile` finds orphans), no per-row
-- triggers, no DEFAULT partition (it would block DETACH CONCURRENTLY). The key leads with time, so that inserts land on
-- the right edge of the index, and contains subscription_id, so that the table can be distributed by it.
CREATE TABLE usage_logs (
    created_at       timestamptz NOT NULL,
    id               uuid        NOT NULL,
    subscription_id  uuid        NOT NULL,
    api_key_id       uuid,
    batch_id         uuid        NOT NULL,
    model_id         text,
    tool_name        text,
    provider         text,
    request_tokens   bigint      NOT NULL DEFAULT 0 CHECK (request_tokens BETWEEN 0 AND 9007199254740991),
    response_tokens  bigint      NOT NULL DEFAULT 0 CHECK (response_tokens BETWEEN 0 AND 9007199254740991),
    cached_tokens    bigint      NOT NULL DEFAULT 0,
    total_tokens     bigint      GENERATED ALWAYS AS (request_tokens + response_tokens) STORED,
    tokens_returned  bigint      CHECK (tokens_returned BETWEEN 0 AND 9007199254740991),
    latency_ms       integer     CHECK (latency_ms >= 0),
    status_code      smallint    NOT NULL DEFAULT 200 CHECK (status_code BETWEEN 100 AND 599),
    error_message    text,
    power_level      text        NOT NULL DEFAULT 'balanced',
    byok             boolean     NOT NULL DEFAULT false,
    feature_type     text,
    library_id       text,
    reservation_id   text,
    app_id           text,
    session_id       text,
    end_user         text,
    source           text        NOT NULL,
    request_id       text        NOT NULL,
    metadata         jsonb,
    ingested_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (created_at, id, subscription_id),
    CHECK (cached_tokens BETWEEN 0 AND request_tokens),
    CHECK (model_id IS NOT NULL OR tool_name IS NOT NULL)
) PARTITION BY RANGE (created_at);

CREATE INDEX idx_usage_logs_subscription ON usage_logs (subscription_id, created_at);

COMMENT ON TABLE  usage_logs IS 'Every accepted usage event, once; never updated or deleted. Written by ingest.';
COMMENT ON COLUMN usage_logs.created_at IS 'Event time as the gateway reported it (CloudEvents time), UTC, microseconds.';
COMMENT ON COLUMN usage_logs.id IS 'UUIDv5 of (source, request_id): the identity of the event.';
COMMENT ON COLUMN usage_logs.batch_id IS 'The usage_batches row whose transaction stored this event: the way back to broker offsets.';
COMMENT ON COLUMN usage_logs.request_id IS 'CloudEvents id as the gateway sent it; unique together with source.';
COMMENT ON COLUMN usage_logs.ingested_at IS 'When the row was stored; created_at is when the usage happened.';

-- Makes the monthly partition that holds `at`, if it is missing, and returns its name. The table is built beside the
-- parent and attached, so that readers and writers of other months are not locked out. Safe under concurrency: the
-- advisory lock serialises two callers that both find it missing.
CREATE FUNCTION ensure_usage_partition(at timestamptz) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    month_start timestamptz := date_trunc('month', at, 'UTC');
    month_end   timestamptz := (date_trunc('month', at AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    partition   text := 'usage_logs_' || to_char(at AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN partition;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('tallystick.usage_partition', 0));
    -- Not to_regclass: its answer is remembered from before the wait. This statement has a snapshot of its own.
    IF NOT EXISTS (SELECT FROM pg_class WHERE relname = partition AND pg_table_is_visible(oid)) THEN
        EXECUTE format('CREATE TABLE %I (LIKE usage_logs INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)', partition);
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (created_at >= %L AND created_at < %L)',
                       partition, partition || '_range', month_start, month_end);
        EXECUTE format('ALTER TABLE usage_logs ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, month_start, month_end);
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', partition, partition || '_range');
    END IF;
    RETURN partition;
END $$;

COMMENT ON FUNCTION ensure_usage_partition IS 'Makes the monthly partition of usage_logs that holds a time, if missing.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Ingest: positions, batches, refused and held input, outbox
-- ---------------------------------------------------------------------------------------------------------------------

-- The CHECK is invariant 3 of the architecture: every offset that was passed is accounted for.
CREATE TABLE ingest_positions (
    cluster       text    NOT NULL,
    topic         text    NOT NULL,
    partition     integer NOT NULL,
    epoch         integer NOT NULL DEFAULT 0,
    start_offset  bigint  NOT NULL,
    next_offset   bigint  NOT NULL,
    inserted      bigint  NOT NULL DEFAULT 0,
    duplicates    bigint  NOT NULL DEFAULT 0,
    quarantined   bigint  NOT NULL DEFAULT 0,
    held          bigint  NOT NULL DEFAULT 0,
    gaps          bigint  NOT NULL DEFAULT 0,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster, topic, partition, epoch),
    CONSTRAINT every_offset_accounted CHECK (next_offset - start_offset = inserted + duplicates + quarantined + held + gaps),
    CHECK (start_offset >= 0 AND inserted >= 0 AND duplicates >= 0 AND quarantined >= 0 AND held >= 0 AND gaps >= 0)
) WITH (fillfactor = 50);

COMMENT ON TABLE  ingest_positions IS 'Next offset to read of each source partition, committed with the effects of all offsets before it. Written by ingest.';
COMMENT ON COLUMN ingest_positions.epoch IS 'Life of the topic: raised by an operator when a topic was recreated, so that its offsets start anew.';
COMMENT ON COLUMN ingest_positions.gaps IS 'Offsets that held no record for us: transaction markers, compacted records, loss accepted by an operator.';

CREATE TABLE usage_batches (
    batch_id      uuid    PRIMARY KEY,
    kind          text    NOT NULL CHECK (kind IN ('kafka', 'held', 'replay')),
    cluster       text    NOT NULL,
    topic         text    NOT NULL,
    partition     integer NOT NULL,
    epoch         integer NOT NULL DEFAULT 0,
    first_offset  bigint,
    next_offset   bigint,
    inserted      bigint  NOT NULL CHECK (inserted >= 0),
    duplicates    bigint  NOT NULL CHECK (duplicates >= 0),
    quarantined   bigint  NOT NULL CHECK (quarantined >= 0),
    held          bigint  NOT NULL CHECK (held >= 0),
    gaps          bigint  NOT NULL CHECK (gaps >= 0),
    message_count integer NOT NULL CHECK (message_count >= 0),
    recorded_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT kafka_batch_has_offsets CHECK ((kind = 'kafka') = (first_offset IS NOT NULL AND next_offset IS NOT NULL)),
    CONSTRAINT every_offset_accounted CHECK
        (kind <> 'kafka' OR next_offset - first_offset = inserted + duplicates + quarantined + held + gaps),
    CONSTRAINT rows_are_announced CHECK ((inserted > 0) = (message_count > 0))
);

CREATE INDEX idx_usage_batches_origin ON usage_batches (cluster, topic, partition, epoch, first_offset);
CREATE INDEX idx_usage_batches_recorded ON usage_batches USING brin (recorded_at);

COMMENT ON TABLE  usage_batches IS 'One row for each committed ingest transaction and source partition. Written by ingest.';
COMMENT ON COLUMN usage_batches.message_count IS 'How many usage.recorded messages announce this batch; every consumer must have applied that many.';

CREATE TABLE quarantined_events (
    id            uuid    PRIMARY KEY,
    reason        text    NOT NULL,
    detail        text    NOT NULL,
    cluster       text    NOT NULL,
    topic         text    NOT NULL,
    partition     integer NOT NULL,
    epoch         integer NOT NULL,
    record_offset bigint  NOT NULL,
    record_key    bytea,
    record_value  bytea,
    record_headers jsonb  NOT NULL DEFAULT '[]',
    published_at  timestamptz,
    batch_id      uuid    NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT now(),
    resolution    text    CHECK (resolution IN ('replayed', 'discarded')),
    resolved_at   timestamptz,
    resolved_by   text,
    resolved_why  text,
    CHECK ((resolution IS NULL) = (resolved_at IS NULL)),
    UNIQUE (cluster, topic, partition, epoch, record_offset)
);

CREATE INDEX idx_quarantined_events_open ON quarantined_events (reason, quarantined_at) WHERE resolution IS NULL;

COMMENT ON TABLE  quarantined_events IS 'Rejected records: original bytes, reason and origin, until somebody replays or discards them. Written by ingest.';
COMMENT ON COLUMN quarantined_events.record_headers IS 'The headers as a JSON list of [name, base64 of the value or null].';
COMMENT ON COLUMN quarantined_events.published_at IS 'Time of the Kafka record (broker or producer time), not of the usage.';

CREATE TABLE held_events (
    id              uuid    PRIMARY KEY,
    reason          text    NOT NULL CHECK (reason IN ('unknown_subscription', 'unknown_api_key')),
    subscription_id uuid,
    api_key_id      uuid,
    api_key_hash    text,
    occurred_at     timestamptz NOT NULL,
    cluster         text    NOT NULL,
    topic           text    NOT NULL,
    partition       integer NOT NULL,
    epoch           integer NOT NULL,
    record_offset   bigint  NOT NULL,
    record_key      bytea,
    record_value    bytea   NOT NULL,
    record_headers  jsonb   NOT NULL DEFAULT '[]',
    batch_id        uuid    NOT NULL,
    held_at         timestamptz NOT NULL DEFAULT now(),
    attributed_at   timestamptz,
    attributed_batch_id uuid,
    CHECK ((attributed_at IS NULL) = (attributed_batch_id IS NULL)),
    CHECK (subscription_id IS NOT NULL OR api_key_id IS NOT NULL OR api_key_hash IS NOT NULL),
    UNIQUE (cluster, topic, partition, epoch, record_offset)
);

CREATE INDEX idx_held_events_subscription ON held_events (subscription_id) WHERE attributed_at IS NULL;
CREATE INDEX idx_held_events_api_key ON held_events (api_key_id) WHERE attributed_at IS NULL;
CREATE INDEX idx_held_events_api_key_hash ON held_events (api_key_hash) WHERE attributed_at IS NULL;

COMMENT ON TABLE held_events IS 'Valid events of a subscription or key that is not known yet, kept whole until it is. Written by ingest.';

-- Outboxes: a message is written in the transaction of its effect, published after it, and deleted when the broker has
-- acknowledged it. What is here is what still has to be published. One table for each writing service, one shape.
CREATE TABLE ingest_outbox (
    id         uuid    PRIMARY KEY,
    topic      text    NOT NULL,
    partition  integer,
    key        bytea,
    value      bytea,
    headers    jsonb   NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
-- Messages are read once and deleted: compressing a hundred kilobytes of JSON for that costs more than the space.
ALTER TABLE ingest_outbox ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE TABLE aggregator_outbox (LIKE ingest_outbox INCLUDING ALL);
CREATE TABLE billing_outbox (LIKE ingest_outbox INCLUDING ALL);

COMMENT ON TABLE ingest_outbox IS 'Messages committed but not yet acknowledged by the broker. Written by ingest.';
COMMENT ON TABLE aggregator_outbox IS 'Messages committed but not yet acknowledged by the broker. Written by the aggregator.';
COMMENT ON TABLE billing_outbox IS 'Messages committed but not yet acknowledged by the broker. Written by billing.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Aggregator: summaries, position, inbox, provider observations
-- ---------------------------------------------------------------------------------------------------------------------

-- Lean on purpose: no surrogate id, no second index on columns that change, room in the page for HOT updates.
CREATE TABLE usage_summaries (
    subscription_id   uuid   NOT NULL,
    period_type       text   NOT NULL CHECK (period_type IN ('hour', 'day', 'month')),
    period_start      timestamptz NOT NULL,
    model_id          text   NOT NULL DEFAULT '',
    tool_name         text   NOT NULL DEFAULT '',
    request_count     bigint NOT NULL DEFAULT 0,
    error_count       bigint NOT NULL DEFAULT 0,
    request_tokens    bigint NOT NULL DEFAULT 0,
    response_tokens   bigint NOT NULL DEFAULT 0,
    cached_tokens     bigint NOT NULL DEFAULT 0,
    total_tokens      bigint GENERATED ALWAYS AS (request_tokens + response_tokens) STORED,
    latency_sum_ms    bigint NOT NULL DEFAULT 0,
    latency_count     bigint NOT NULL DEFAULT 0,
    latency_histogram bigint[] NOT NULL,
    avg_latency_ms    numeric GENERATED ALWAYS AS
        (CASE WHEN latency_count > 0 THEN round(latency_sum_ms::numeric / latency_count, 3) END) STORED,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription_id, period_type, period_start, model_id, tool_name),
    CONSTRAINT period_is_aligned CHECK (period_start = date_trunc(period_type, period_start, 'UTC')),
    CHECK (error_count <= request_count AND latency_count <= request_count)
) WITH (fillfactor = 50);

CREATE INDEX idx_usage_summaries_period ON usage_summaries (period_type, period_start);

COMMENT ON TABLE  usage_summaries IS 'Usage per subscription, model or tool, and UTC hour, day or month: derived from usage_logs. Written by the aggregator.';
COMMENT ON COLUMN usage_summaries.latency_histogram IS 'Counts per latency bucket; the upper bounds are shared.contracts.LATENCY_BUCKETS_MS, the last bucket is open.';
COMMENT ON COLUMN usage_summaries.latency_count IS 'Events that reported a latency; those that did not are not in the average.';

CREATE TABLE aggregator_positions (
    cluster       text    NOT NULL,
    topic         text    NOT NULL,
    partition     integer NOT NULL,
    epoch         integer NOT NULL DEFAULT 0,
    start_offset  bigint  NOT NULL,
    next_offset   bigint  NOT NULL,
    applied       bigint  NOT NULL DEFAULT 0,
    duplicates    bigint  NOT NULL DEFAULT 0,
    gaps          bigint  NOT NULL DEFAULT 0,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster, topic, partition, epoch),
    CONSTRAINT every_offset_accounted CHECK (next_offset - start_offset = applied + duplicates + gaps)
) WITH (fillfactor = 50);

COMMENT ON TABLE aggregator_positions IS 'Next usage.recorded offset of each partition, committed with its effects. Written by the aggregator.';

CREATE TABLE aggregator_inbox (
    batch_id    uuid    NOT NULL,
    part        integer NOT NULL,
    event_count bigint  NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, part)
);

COMMENT ON TABLE aggregator_inbox IS 'usage.recorded messages that were applied: a message that comes twice is applied once. Written by the aggregator.';

CREATE TABLE provider_observations (
    provider          text    NOT NULL,
    minute            timestamptz NOT NULL CHECK (minute = date_trunc('minute', minute, 'UTC')),
    partition         integer NOT NULL,
    request_count     bigint  NOT NULL,
    error_count       bigint  NOT NULL,
    rate_limited_count bigint NOT NULL,
    latency_sum_ms    bigint  NOT NULL,
    latency_count     bigint  NOT NULL,
    latency_histogram bigint[] NOT NULL,
    last_success_at   timestamptz,
    last_failure_at   timestamptz,
    trailing_failures bigint  NOT NULL,
    PRIMARY KEY (provider, minute, partition)
) WITH (fillfactor = 50);

COMMENT ON TABLE  provider_observations IS 'What each source partition saw of a provider, by minute of event time: the ground of provider_health. Written by the aggregator.';
COMMENT ON COLUMN provider_observations.partition IS 'Source partition: keeps two aggregators from fighting over one row.';
COMMENT ON COLUMN provider_observations.trailing_failures IS 'Failures since the last success in this minute and partition.';

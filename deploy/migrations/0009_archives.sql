-- migrate:up
-- Months of usage_logs that were archived, what they summed to, and what must not be archived. The command `tallystick partitions`
-- writes these tables with the rights of the owner, because it detaches, drops and attaches partitions; it is a capability of ingest.

CREATE TABLE usage_archives (
    month       timestamptz PRIMARY KEY CHECK (month = date_trunc('month', month, 'UTC')),
    state       text        NOT NULL CHECK (state IN ('archiving', 'archived', 'restored')),
    file        text,
    sha256      text        CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    manifest    jsonb,
    begun_at    timestamptz NOT NULL DEFAULT now(),
    archived_at timestamptz,
    restored_at timestamptz,
    CONSTRAINT archived_has_manifest CHECK (state = 'archiving' OR num_nulls(file, sha256, manifest, archived_at) = 0),
    CONSTRAINT restored_has_time CHECK (state <> 'restored' OR restored_at IS NOT NULL)
);

COMMENT ON TABLE  usage_archives IS 'Months of usage_logs that were, or are being, moved to a file. Written by ingest''s partitions command.';
COMMENT ON COLUMN usage_archives.state IS 'archiving: closed to new rows, perhaps detached already; archived: only the file has it; restored: in usage_logs again.';

-- By everything that a summary or a price distinguishes, so that both proofs of reconciliation stay exact.
CREATE TABLE usage_archive_sums (
    month           timestamptz NOT NULL REFERENCES usage_archives (month) ON DELETE CASCADE,
    subscription_id uuid        NOT NULL,
    hour            timestamptz NOT NULL,
    model_id        text        NOT NULL,
    tool_name       text        NOT NULL,
    feature_type    text        NOT NULL,
    power_level     text        NOT NULL,
    byok            boolean     NOT NULL,
    status_class    integer     NOT NULL,
    requests        bigint      NOT NULL,
    errors          bigint      NOT NULL,
    request_tokens  bigint      NOT NULL,
    response_tokens bigint      NOT NULL,
    cached_tokens   bigint      NOT NULL,
    PRIMARY KEY (month, subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class)
);

COMMENT ON TABLE usage_archive_sums IS 'What the rows of archived months sum to. Written by ingest''s partitions command.';

CREATE TABLE usage_archive_batches (
    month    timestamptz NOT NULL REFERENCES usage_archives (month) ON DELETE CASCADE,
    batch_id uuid        NOT NULL,
    rows     bigint      NOT NULL CHECK (rows > 0),
    PRIMARY KEY (month, batch_id)
);

COMMENT ON TABLE usage_archive_batches IS 'How many rows of archived months came with which batch. Written by ingest''s partitions command.';

CREATE TABLE usage_holds (
    id              uuid        PRIMARY KEY,
    held_from       timestamptz NOT NULL,
    held_to         timestamptz NOT NULL,
    subscription_id uuid,
    why             text        NOT NULL CHECK (why <> ''),
    placed_at       timestamptz NOT NULL DEFAULT now(),
    released_at     timestamptz,
    released_why    text,
    CHECK (held_from < held_to),
    CHECK ((released_at IS NULL) = (released_why IS NULL))
);

COMMENT ON TABLE  usage_holds IS 'Legal holds: usage of these times is not moved out of the database. Written by ingest''s partitions command.';
COMMENT ON COLUMN usage_holds.subscription_id IS 'Whose usage is held; NULL: everybody''s. A month is kept whole either way.';

-- Which months of usage_logs are not part of it, as the snapshot of the asking statement has it: DETACH CONCURRENTLY and ATTACH take
-- effect by snapshot, so in one snapshot a month is either in the log or in these sums, never in both and never in none.
CREATE VIEW archived_months AS
SELECT a.month
FROM usage_archives a
WHERE a.state <> 'restored' AND a.manifest IS NOT NULL
  AND NOT EXISTS (
    SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'usage_logs'::regclass AND NOT i.inhdetachpending
      AND c.relname = 'usage_logs_' || to_char(a.month AT TIME ZONE 'UTC', 'YYYY_MM'));

COMMENT ON VIEW archived_months IS 'Months whose usage is not in usage_logs, but archived.';

CREATE VIEW archived_usage AS
SELECT subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class,
       requests, errors, request_tokens, response_tokens, cached_tokens
FROM usage_archive_sums WHERE month IN (SELECT month FROM archived_months);

COMMENT ON VIEW archived_usage IS 'What the log side of a proof adds for months that are archived.';

CREATE VIEW archived_batches AS
SELECT batch_id, sum(rows)::bigint AS rows FROM usage_archive_batches WHERE month IN (SELECT month FROM archived_months) GROUP BY batch_id;

COMMENT ON VIEW archived_batches IS 'Rows of each batch that are archived.';

-- Attaches the table of a month, filled or not, to usage_logs. The CHECK spares reading its rows while the lock is held.
CREATE FUNCTION attach_usage_partition(at timestamptz) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    month_start timestamptz := date_trunc('month', at, 'UTC');
    month_end   timestamptz := (date_trunc('month', at AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    partition   text := 'usage_logs_' || to_char(at AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (created_at >= %L AND created_at < %L)',
                   partition, partition || '_range', month_start, month_end);
    EXECUTE format('ALTER TABLE usage_logs ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, month_start, month_end);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', partition, partition || '_range');
    RETURN partition;
END $$;

COMMENT ON FUNCTION attach_usage_partition IS 'Makes the table of a month a partition of usage_logs.';

-- As before, but a month that is archived is not made anew: NULL. Ingest then refuses its events with the reason, so that none is
-- counted beside an archive that may have it already.
CREATE OR REPLACE FUNCTION ensure_usage_partition(at timestamptz) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    partition text := 'usage_logs_' || to_char(at AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    IF EXISTS (SELECT FROM usage_archives WHERE month = date_trunc('month', at, 'UTC') AND state <> 'restored') THEN
        RETURN NULL;
    END IF;
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN partition;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('tallystick.usage_partition', 0));
    -- Not to_regclass: its answer is remembered from before the wait. This statement has a snapshot of its own.
    IF NOT EXISTS (SELECT FROM pg_class WHERE relname = partition AND pg_table_is_visible(oid)) THEN
        EXECUTE format('CREATE TABLE %I (LIKE usage_logs INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)', partition);
        PERFORM attach_usage_partition(at);
    END IF;
    RETURN partition;
END $$;

COMMENT ON FUNCTION ensure_usage_partition IS 'Makes the monthly partition of usage_logs that holds a time, if missing, and returns its name; NULL if that month is archived.';

-- Rights: reconciliation (billing) reads the sums; ingest tells an archived month by the function. Applied after this migration.
INSERT INTO role_rights (role, object, privilege) VALUES
    ('tallystick_billing', 'archived_usage', 'SELECT'),
    ('tallystick_billing', 'archived_batches', 'SELECT'),
    ('tallystick_billing', 'archived_months', 'SELECT');
SELECT apply_role_rights();

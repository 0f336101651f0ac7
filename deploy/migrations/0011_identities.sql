-- migrate:up
-- The identity of every stored event, for longer than the log itself: the same (source, id) is never counted twice, at whatever time and
-- for whomever it comes again. The log's own key leads with the event's time, so that it alone finds only what comes again unchanged.
--
-- Ids are hashes, so an index of them is written all over. That is dear once it is large: after a checkpoint, the first change of a page
-- writes the page. So identities lie in generations by the time when they were *stored*: the newest is written to, and a unique key; earlier
-- ones are only read, and dropped whole when they are old. docs/decisions/0010-identities-in-generations.md has the figures.

CREATE TABLE usage_id_generations (
    generation smallint    PRIMARY KEY CHECK (generation > 0),
    begun_at   timestamptz NOT NULL DEFAULT now(),
    closed_at  timestamptz,
    CHECK (closed_at >= begun_at)
);
CREATE UNIQUE INDEX usage_id_generations_one_open ON usage_id_generations ((closed_at IS NULL)) WHERE closed_at IS NULL;

COMMENT ON TABLE  usage_id_generations IS 'The partitions of usage_ids: one open, the others only read. Changed by keep_usage_ids() alone.';
COMMENT ON COLUMN usage_id_generations.closed_at IS 'When the next one began: every identity in this one was stored before.';

CREATE TABLE usage_ids (
    created_at timestamptz NOT NULL,
    id         uuid        NOT NULL,
    row_id     uuid,
    generation smallint    NOT NULL
) PARTITION BY LIST (generation);

COMMENT ON TABLE  usage_ids IS 'Every identity that was ever stored, once: what usage_logs may hold only once, at any age. Written by ingest.';
COMMENT ON COLUMN usage_ids.created_at IS 'When the event happened: where its row is in usage_logs, or was before its month was archived.';
COMMENT ON COLUMN usage_ids.id IS 'UUIDv5 of (source, CloudEvents id), as usage_logs.id; or the id that the reversal of an event has.';
COMMENT ON COLUMN usage_ids.row_id IS 'The row that the event left, where that has another id: a void leaves the reversal of another event. NULL: its own.';

-- Made beside usage_ids and attached, which waits for no reader: a proof or a dump may be at work on it for long.
CREATE FUNCTION begin_usage_id_generation(number smallint, at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    partition text := 'usage_ids_' || number;
BEGIN
    INSERT INTO usage_id_generations (generation, begun_at) VALUES (number, at);
    EXECUTE format('CREATE TABLE %I (LIKE usage_ids)', partition);
    -- Not a key of usage_ids: that would have to contain the generation. Unique across generations it is by the order of things, see below.
    EXECUTE format('CREATE UNIQUE INDEX %I ON %I (id)', partition || '_key', partition);
    EXECUTE format('ALTER TABLE usage_ids ATTACH PARTITION %I FOR VALUES IN (%s)', partition, number);
END $$;

COMMENT ON FUNCTION begin_usage_id_generation IS 'Makes the partition of a generation of usage_ids, unique by id.';

-- Whoever stores identities asks first which generation is open, and keeps the answer true until its transaction ends: a generation is
-- closed only when nobody writes to it. So the identities of earlier ones are all committed, and can be looked up; those of the open one
-- are guarded by its unique key. Without the lock, one worker could store an identity in the old generation while another one, who does
-- not see that yet, stores it in the new one.
CREATE FUNCTION write_usage_ids() RETURNS TABLE (generation smallint, earlier boolean) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('tallystick.usage_ids', 0));
    -- A statement of its own: its snapshot is from after the wait.
    RETURN QUERY SELECT max(g.generation), count(*) > 1 FROM usage_id_generations g;
END $$;

COMMENT ON FUNCTION write_usage_ids IS 'The generation of usage_ids that is open until the transaction ends, and whether there are earlier ones to look into.';

-- Closes the open generation when it is older than `turn_after`; else drops closed ones of which every identity has been guarded for
-- `guard_for`, 400 days at least, and no row is in usage_logs any more. Ingest calls it by a timer: what has to wait comes next time.
CREATE FUNCTION keep_usage_ids(at timestamptz, turn_after interval, guard_for interval) RETURNS TABLE (begun smallint, dropped smallint[]) LANGUAGE plpgsql AS $$
DECLARE
    newest   usage_id_generations;
    old      smallint;
    last_row timestamptz;
BEGIN
    IF guard_for < interval '400 days' THEN
        RAISE EXCEPTION 'identities are guarded for 400 days at least, not for %', guard_for;
    END IF;
    dropped := '{}';
    SELECT * INTO newest FROM usage_id_generations WHERE closed_at IS NULL;
    IF newest.begun_at + turn_after <= at THEN
        PERFORM set_config('lock_timeout', '5s', true);  -- a batch in flight ends soon; others wait behind this one meanwhile
        PERFORM pg_advisory_xact_lock(hashtextextended('tallystick.usage_ids', 0));
        UPDATE usage_id_generations g SET closed_at = at WHERE g.generation = newest.generation AND g.closed_at IS NULL;
        IF FOUND THEN  -- else another worker was quicker
            begun := newest.generation + 1;
            PERFORM begin_usage_id_generation(begun, at);
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    FOR old IN SELECT g.generation FROM usage_id_generations g WHERE g.closed_at + guard_for <= at ORDER BY 1 LOOP
        SELECT max(i.created_at) INTO last_row FROM usage_ids i WHERE i.generation = old;
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
            WHERE h.inhparent = 'usage_logs'::regclass
              AND c.relname <= 'usage_logs_' || to_char(last_row AT TIME ZONE 'UTC', 'YYYY_MM'));
        PERFORM set_config('lock_timeout', '1s', true);  -- batches wait behind this one, and it behind whoever reads
        EXECUTE format('DROP TABLE %I', 'usage_ids_' || old);
        DELETE FROM usage_id_generations g WHERE g.generation = old;
        dropped := dropped || old;
    END LOOP;
    RETURN NEXT;
END $$;

COMMENT ON FUNCTION keep_usage_ids IS 'Begins a new generation of usage_ids when the open one is old enough, and drops those that guard nothing any more.';

-- Guards every row of a month that is not guarded yet: of a month that is restored, or was written before there was this table. Where an
-- identity is in the log twice, the row that was stored first is the guarded one; `tallystick reconcile` shows the other.
CREATE FUNCTION guard_usage_ids(at timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    open_generation smallint := (SELECT w.generation FROM write_usage_ids() w);
    month_start     timestamptz := date_trunc('month', at, 'UTC');
    month_end       timestamptz := (date_trunc('month', at AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    guarded         bigint;
BEGIN
    INSERT INTO usage_ids (created_at, id, generation)
    SELECT DISTINCT ON (l.id) l.created_at, l.id, open_generation
    FROM usage_logs l
    WHERE l.created_at >= month_start AND l.created_at < month_end AND NOT EXISTS (SELECT FROM usage_ids i WHERE i.id = l.id)
    ORDER BY l.id, l.ingested_at
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS guarded = ROW_COUNT;
    RETURN guarded;
END $$;

COMMENT ON FUNCTION guard_usage_ids IS 'Puts the identities of a month of usage_logs into usage_ids where they are missing; returns how many were.';

-- What is stored already. The index comes after the rows: built from sorted ones it is small, and written once.
SELECT begin_usage_id_generation(1::smallint, now());
DROP INDEX usage_ids_1_key;
INSERT INTO usage_ids (created_at, id, generation)
SELECT DISTINCT ON (id) created_at, id, 1 FROM usage_logs ORDER BY id, ingested_at;
CREATE UNIQUE INDEX usage_ids_1_key ON usage_ids_1 (id);

-- Rights: ingest writes identities and changes none; reconciliation (billing) compares them with the log. Applied after this migration.
INSERT INTO role_rights (role, object, privilege) VALUES
    ('tallystick_ingest', 'usage_ids', 'SELECT'),
    ('tallystick_ingest', 'usage_ids', 'INSERT'),
    ('tallystick_ingest', 'write_usage_ids', 'EXECUTE'),
    ('tallystick_ingest', 'keep_usage_ids', 'EXECUTE'),
    ('tallystick_billing', 'usage_ids', 'SELECT');
SELECT apply_role_rights();

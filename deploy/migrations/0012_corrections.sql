-- migrate:up
-- Void and amend: an event is taken back, or replaced, by rows of its own. The original is never edited; the rows sum.

-- Lets a row of `quantity` -1 have negative tokens. For tables that are no partitions too: months on their way to an archive.
DO $$
DECLARE
    month regclass;
BEGIN
    FOR month IN
        SELECT oid::regclass FROM pg_class
        WHERE oid = 'usage_logs'::regclass
           OR (relkind = 'r' AND NOT relispartition AND relname ~ '^usage_logs_\d{4}_\d{2}$' AND pg_table_is_visible(oid))
    LOOP
        EXECUTE format($ddl$
            ALTER TABLE %s
                ADD COLUMN quantity smallint NOT NULL DEFAULT 1 CHECK (quantity IN (1, -1)),
                ADD COLUMN corrects uuid,
                ADD COLUMN corrected_at timestamptz,
                DROP CONSTRAINT usage_logs_request_tokens_check,
                DROP CONSTRAINT usage_logs_response_tokens_check,
                DROP CONSTRAINT usage_logs_tokens_returned_check,
                DROP CONSTRAINT usage_logs_check,
                ADD CONSTRAINT usage_logs_request_tokens_check CHECK (request_tokens * quantity BETWEEN 0 AND 9007199254740991),
                ADD CONSTRAINT usage_logs_response_tokens_check CHECK (response_tokens * quantity BETWEEN 0 AND 9007199254740991),
                ADD CONSTRAINT usage_logs_tokens_returned_check CHECK (tokens_returned * quantity BETWEEN 0 AND 9007199254740991),
                ADD CONSTRAINT usage_logs_cached_tokens_check CHECK (cached_tokens * quantity BETWEEN 0 AND request_tokens * quantity),
                ADD CONSTRAINT usage_logs_correction_check CHECK (
                    (corrects IS NULL) = (corrected_at IS NULL) AND (corrects IS NOT NULL OR quantity = 1))
        $ddl$, month);
    END LOOP;
END $$;

COMMENT ON COLUMN usage_logs.quantity IS '1: a request. -1: the reversal of one; all its tokens are negative, its latency is the original''s.';
COMMENT ON COLUMN usage_logs.corrects IS 'The id of the row that this one takes back (quantity -1) or replaces (quantity 1); NULL: an event of its own.';
COMMENT ON COLUMN usage_logs.corrected_at IS 'The time of the void or amend event. created_at is the original''s: a correction counts where the original does.';

ALTER TABLE usage_batches ADD COLUMN amended bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT amended_among_inserted CHECK (amended BETWEEN 0 AND inserted);

COMMENT ON COLUMN usage_batches.amended IS 'How many of `inserted` were amendments, which leave two rows each: the batch has inserted + amended rows in usage_logs.';

-- A correction waits for its original as an event waits for its subscription.
ALTER TABLE held_events
    ADD COLUMN original_id uuid,
    DROP CONSTRAINT held_events_reason_check,
    DROP CONSTRAINT held_events_check1,
    ADD CONSTRAINT held_events_reason_check CHECK (reason IN ('unknown_subscription', 'unknown_api_key', 'unknown_original')),
    ADD CONSTRAINT held_events_waits_for_something CHECK (num_nonnulls(subscription_id, api_key_id, api_key_hash, original_id) > 0);

CREATE INDEX idx_held_events_original ON held_events (original_id) WHERE attributed_at IS NULL AND original_id IS NOT NULL;

COMMENT ON TABLE  held_events IS 'Valid events whose subscription, key or, of a correction, original is not known yet, kept whole until it is. Written by ingest.';
COMMENT ON COLUMN held_events.original_id IS 'The id of the event that a void or amend event names; NULL: it is neither.';

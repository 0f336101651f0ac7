-- migrate:up
-- Consumers of usage.recorded pass over messages of batches that the database does not have: after a failover to a replica that was
-- behind, or from an older backup, they are still in Kafka, and ingest announces their events again under new batch ids.

ALTER TABLE aggregator_positions
    ADD COLUMN orphaned bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT every_offset_accounted,
    ADD CONSTRAINT every_offset_accounted CHECK (next_offset - start_offset = applied + duplicates + orphaned + gaps);
ALTER TABLE billing_positions
    ADD COLUMN orphaned bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT every_offset_accounted,
    ADD CONSTRAINT every_offset_accounted CHECK (next_offset - start_offset = applied + duplicates + orphaned + gaps);

COMMENT ON COLUMN aggregator_positions.orphaned IS 'Messages of batches that are not in usage_batches: the database went back in time. They were not applied.';
COMMENT ON COLUMN billing_positions.orphaned IS 'Messages of batches that are not in usage_batches: the database went back in time. They were not rated.';
COMMENT ON TABLE  usage_batches IS 'One row for each committed ingest transaction and source partition, kept at least as long as usage.recorded: a message counts only while its batch is here. Written by ingest.';

INSERT INTO role_rights (role, object, privilege) VALUES ('tallystick_aggregator', 'usage_batches', 'SELECT');
UPDATE role_rights SET columns = columns || 'orphaned'::text
WHERE (role, object, privilege) IN (('tallystick_aggregator', 'aggregator_positions', 'UPDATE'), ('tallystick_billing', 'billing_positions', 'UPDATE'));
SELECT apply_role_rights();

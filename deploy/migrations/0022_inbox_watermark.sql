-- migrate:up
-- The aggregator's inbox does not grow for ever: of batches that were recorded long ago and applied whole, it is enough to know that.
-- Billing's is not pruned: it is what ties rated usage, and so every line of an invoice, to the events behind it.

CREATE TABLE aggregator_inbox_watermark (
    id            boolean     PRIMARY KEY DEFAULT true CHECK (id),
    pruned_before timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO aggregator_inbox_watermark DEFAULT VALUES;

COMMENT ON TABLE  aggregator_inbox_watermark IS 'Up to where aggregator_inbox was pruned. One row. Written by the aggregator.';
COMMENT ON COLUMN aggregator_inbox_watermark.pruned_before IS 'Every batch that was recorded before was applied whole, and is not in the inbox any more: its messages are duplicates.';
COMMENT ON TABLE  aggregator_inbox IS 'usage.recorded messages that were applied: a message that comes twice is applied once. Without those of batches before aggregator_inbox_watermark. Written by the aggregator.';

-- What is pruned is found by its time of recording.
DROP INDEX idx_usage_batches_recorded;
CREATE INDEX idx_usage_batches_recorded ON usage_batches (recorded_at);

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_aggregator', 'aggregator_inbox_watermark', 'SELECT', NULL),
    ('tallystick_aggregator', 'aggregator_inbox_watermark', 'UPDATE', '{pruned_before}'),
    ('tallystick_aggregator', 'aggregator_inbox', 'DELETE', NULL),
    ('tallystick_billing', 'aggregator_inbox_watermark', 'SELECT', NULL);
SELECT apply_role_rights();

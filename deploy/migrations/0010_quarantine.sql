-- migrate:up
-- What an operator decides about refused and held events: replayed through which batch, discarded or expired by whom and why.

ALTER TABLE quarantined_events
    ADD COLUMN resolved_batch_id uuid,
    ADD COLUMN tried_at timestamptz,
    ADD CONSTRAINT replayed_by_a_batch CHECK (coalesce(resolution = 'replayed', false) = (resolved_batch_id IS NOT NULL)),
    ADD CONSTRAINT resolved_by_somebody CHECK (resolution IS NULL OR (resolved_by <> '' AND resolved_why <> '') IS TRUE);

CREATE INDEX idx_quarantined_events_open_id ON quarantined_events (id) WHERE resolution IS NULL;

COMMENT ON COLUMN quarantined_events.reason IS 'Why the record is refused: as of the last try, if it was replayed in vain; audit_logs keeps what was there before.';
COMMENT ON COLUMN quarantined_events.tried_at IS 'When it was last replayed in vain.';
COMMENT ON COLUMN quarantined_events.resolved_batch_id IS 'The replay batch that stored the event, found it stored already, or holds it.';

ALTER TABLE held_events
    ADD COLUMN expired_at timestamptz,
    ADD COLUMN expired_by text,
    ADD COLUMN expired_why text,
    ADD CONSTRAINT expired_by_somebody CHECK
        (CASE WHEN expired_at IS NULL THEN expired_by IS NULL AND expired_why IS NULL ELSE (expired_by <> '' AND expired_why <> '') IS TRUE END),
    ADD CONSTRAINT attributed_or_expired CHECK (attributed_at IS NULL OR expired_at IS NULL);

COMMENT ON COLUMN held_events.expired_at IS 'When an operator gave up waiting for its subscription or key: it is kept, but never attributed.';

-- The roles of services resolve nothing: that is an operator's word, with the rights of an operator's login. Billing reads what
-- reconciliation compares.
UPDATE role_rights SET columns = columns || ARRAY['resolved_batch_id']
WHERE role = 'tallystick_billing' AND object = 'quarantined_events' AND privilege = 'SELECT';

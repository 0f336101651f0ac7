-- migrate:up
-- What a credit note gave back is not given back again when its usage is corrected: what was set off is written down.

ALTER TABLE credit_notes
    DROP CONSTRAINT credit_notes_kind_check,
    ADD CONSTRAINT credit_notes_kind_check CHECK (kind IN ('correction', 'goodwill', 'void', 'late_usage'));

COMMENT ON COLUMN credit_notes.kind IS 'correction: by an operator; goodwill: by an operator, beside whatever is corrected of its usage; void: the whole rest of the invoice; late_usage: usage that was taken back after its invoice.';

CREATE TABLE credit_set_offs (
    id                  uuid    PRIMARY KEY DEFAULT gen_random_uuid(),
    credit_note_line_id uuid    NOT NULL REFERENCES credit_note_lines (id) ON DELETE RESTRICT,
    invoice_line_id     uuid    UNIQUE REFERENCES invoice_lines (id) ON DELETE RESTRICT,
    amount              numeric NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    created_at          timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_credit_set_offs_note_line ON credit_set_offs (credit_note_line_id);
CREATE UNIQUE INDEX one_reduction_per_note_line ON credit_set_offs (credit_note_line_id) WHERE invoice_line_id IS NULL;

COMMENT ON TABLE  credit_set_offs IS 'What credit notes and corrections of usage would both have given back, and one of them did not. Append-only.';
COMMENT ON COLUMN credit_set_offs.credit_note_line_id IS 'The line of the credit note that both concern.';
COMMENT ON COLUMN credit_set_offs.invoice_line_id IS 'The line by which a later invoice takes it off what corrected usage gives back; NULL: corrected usage came first, and the note gives so much less than was asked for.';
COMMENT ON COLUMN credit_set_offs.amount IS 'How much, unrounded, in the currency of both.';

CREATE TRIGGER credit_set_offs_append_only BEFORE UPDATE OR DELETE ON credit_set_offs FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_set_offs_no_truncate BEFORE TRUNCATE ON credit_set_offs FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_billing', 'credit_set_offs', 'SELECT', NULL),
    ('tallystick_billing', 'credit_set_offs', 'INSERT', NULL);
SELECT apply_role_rights();

-- migrate:up
-- What a plan gives back of a charge, and a credit note gave back before, is set off, too. Of charges that take something off with the other sign.

-- The constraint that takes its place allows more: whoever runs the version before writes what both allow.
-- squawk-ignore ban-drop-constraint
ALTER TABLE credit_set_offs DROP CONSTRAINT credit_set_offs_amount_check;
ALTER TABLE credit_set_offs
    ADD CONSTRAINT credit_set_offs_amount_check CHECK (amount <> 0 AND amount > '-Infinity' AND amount < 'Infinity') NOT VALID;
ALTER TABLE credit_set_offs VALIDATE CONSTRAINT credit_set_offs_amount_check;

COMMENT ON TABLE  credit_set_offs IS 'What credit notes and corrections of usage, or plans, would both have given back, and one of them did not. Append-only.';
COMMENT ON COLUMN credit_set_offs.invoice_line_id IS 'The line by which a later invoice takes it off what corrected usage or a plan gives back; NULL: that came first, and the note gives so much less than was asked for.';
COMMENT ON COLUMN credit_set_offs.amount IS 'How much, unrounded, in the currency of both. Negative of what takes something off (a discount), and where what was set off is given after all.';

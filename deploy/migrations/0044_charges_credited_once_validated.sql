-- migrate:up
-- The rows from before 0038 are looked at in a transaction of their own: the one that changes the constraint holds writers up no longer than it must.
ALTER TABLE credit_set_offs VALIDATE CONSTRAINT credit_set_offs_amount_check;

-- migrate:up
-- Jobs that a person may run; alerts by the choice of a user; webhooks with a delivery log.

ALTER TABLE job_runs
    ADD COLUMN attempts integer NOT NULL DEFAULT 1 CHECK (attempts > 0),
    ADD COLUMN asked_by text CHECK (asked_by <> '');

COMMENT ON COLUMN job_runs.attempts IS 'How often the run was made: more than once where it failed before.';
COMMENT ON COLUMN job_runs.asked_by IS 'Who asked for the run by hand; NULL: the timer. Runs by hand do not move the schedule on.';
COMMENT ON COLUMN job_runs.started_at IS 'When the last attempt began.';

UPDATE role_rights SET columns = columns || ARRAY['attempts']
WHERE role = 'tallystick_billing' AND object = 'job_runs' AND privilege = 'UPDATE' AND NOT 'attempts' = ANY (columns);

SELECT apply_role_rights();

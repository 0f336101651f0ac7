-- migrate:up
-- The audit trail tells from where somebody acted, and in which request: as the transaction says, whatever statement or trigger writes the entry.

CREATE FUNCTION request_setting(name text) RETURNS text LANGUAGE sql STABLE
RETURN nullif(current_setting('tallystick.' || name, true), '');

COMMENT ON FUNCTION request_setting IS 'What the transaction''s request set as tallystick.NAME; null outside requests.';

ALTER TABLE audit_logs
    ALTER COLUMN ip_address SET DEFAULT request_setting('address')::inet,
    ALTER COLUMN user_agent SET DEFAULT request_setting('user_agent'),
    ALTER COLUMN metadata   SET DEFAULT jsonb_strip_nulls(jsonb_build_object('request_id', request_setting('request_id')));

-- migrate:up
-- What each API key used in each UTC day: what api_keys.quota_requests_per_day is judged by.

CREATE TABLE api_key_days (
    subscription_id uuid   NOT NULL,
    api_key_id      uuid   NOT NULL,
    day             date   NOT NULL,
    requests        bigint NOT NULL,
    tokens          bigint NOT NULL,
    PRIMARY KEY (subscription_id, api_key_id, day)
) WITH (fillfactor = 50);
CREATE INDEX idx_api_key_days_day ON api_key_days (day);  -- what is too old to be kept

COMMENT ON TABLE  api_key_days IS 'Usage of API keys by UTC day of event time, less what was taken back. Written by the aggregator.';
COMMENT ON COLUMN api_key_days.tokens IS 'Request and response tokens.';

CREATE TABLE api_key_days_kept (
    id    boolean PRIMARY KEY DEFAULT true CHECK (id),
    since date    NOT NULL
);
-- What is in the log already was not counted: whole days from the next one on are.
INSERT INTO api_key_days_kept (since)
SELECT CASE WHEN EXISTS (SELECT FROM usage_logs) THEN (now() AT TIME ZONE 'UTC')::date + 1 ELSE '-infinity' END;

COMMENT ON TABLE  api_key_days_kept IS 'From which day on api_key_days is complete. One row. Written by the aggregator.';

-- Gateways hear of a key's limit with the status of its subscription: so a change of it is a change of that. It waits for whoever is
-- counting the subscription's usage, so that one of the two sees that the limit is reached.
CREATE FUNCTION announce_key_limit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE subscriptions SET status_version = status_version + 1 WHERE id = NEW.subscription_id;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION announce_key_limit IS 'Trigger: publishes the status of a key''s subscription when the key''s limit by day changes, or whether the key is active.';

CREATE TRIGGER announce_key_limits AFTER UPDATE OF quota_requests_per_day, is_active ON api_keys
    FOR EACH ROW WHEN ((NEW.quota_requests_per_day, NEW.is_active) IS DISTINCT FROM (OLD.quota_requests_per_day, OLD.is_active))
    EXECUTE FUNCTION announce_key_limit();

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_aggregator', 'api_key_days', 'SELECT', NULL),
    ('tallystick_aggregator', 'api_key_days', 'INSERT', NULL),
    ('tallystick_aggregator', 'api_key_days', 'UPDATE', '{requests,tokens}'),
    ('tallystick_aggregator', 'api_key_days', 'DELETE', NULL),
    ('tallystick_aggregator', 'api_key_days_kept', 'SELECT', NULL),
    ('tallystick_aggregator', 'api_key_days_kept', 'UPDATE', '{since}'),
    ('tallystick_billing', 'api_key_days', 'SELECT', NULL),
    ('tallystick_billing', 'api_key_days_kept', 'SELECT', NULL);
UPDATE role_rights SET columns = columns || '{status_version}'::text[]
WHERE (role, object, privilege) = ('tallystick_aggregator', 'subscriptions', 'UPDATE');
UPDATE role_rights SET columns = columns || '{subscription_id,is_active,quota_requests_per_day}'::text[]
WHERE (role, object, privilege) = ('tallystick_aggregator', 'api_keys', 'SELECT');
SELECT apply_role_rights();

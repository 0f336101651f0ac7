-- migrate:up
-- What a tenant reads over HTTP beside its rows of usage: what its credits are made of, catalogues, and in which time zone its days are cut.

ALTER TABLE users ADD COLUMN time_zone text;

COMMENT ON COLUMN users.time_zone IS 'IANA name of the zone that days and months of usage are cut in, where a question names none; NULL: UTC.';

-- A CHECK cannot ask which zones there are.
CREATE FUNCTION check_time_zone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.time_zone IS NOT NULL AND NOT EXISTS (SELECT FROM pg_timezone_names WHERE name = NEW.time_zone) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS011', MESSAGE = format('there is no time zone %L', NEW.time_zone),
            HINT = 'Give an IANA name, such as Europe/Berlin.';
    END IF;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION check_time_zone IS 'Trigger: a user''s time zone is one that there is (TS011).';

CREATE TRIGGER check_users_time_zone BEFORE INSERT OR UPDATE OF time_zone ON users
    FOR EACH ROW WHEN (NEW.time_zone IS NOT NULL) EXECUTE FUNCTION check_time_zone();

ALTER TABLE credit_grants ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_own_data ON credit_grants USING (user_id = (SELECT app_current_user_id()));
ALTER TABLE credit_settlements ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_own_data ON credit_settlements USING (user_id = (SELECT app_current_user_id()));
ALTER TABLE api_key_days ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_own_data ON api_key_days USING
    (subscription_id = ANY (ARRAY(SELECT id FROM subscriptions WHERE user_id = (SELECT app_current_user_id()))));

-- A reversal says what it takes back.
CREATE OR REPLACE VIEW tenant_usage_logs WITH (security_barrier) AS
SELECT created_at, id, subscription_id, api_key_id, model_id, tool_name, provider, quantity, request_tokens, response_tokens, cached_tokens,
       total_tokens, tokens_returned, latency_ms, status_code, error_message, power_level, byok, feature_type, library_id, reservation_id,
       app_id, session_id, end_user, source, request_id, metadata, ingested_at, corrects, corrected_at
FROM usage_logs
WHERE subscription_id = ANY (ARRAY(SELECT s.id FROM subscriptions s WHERE s.user_id = (SELECT app_current_user_id())));

-- What everybody may know. What a provider charges us for a model is not part of it.
INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_tenant', 'models', 'SELECT', NULL),
    ('tallystick_tenant', 'plans', 'SELECT', NULL),
    ('tallystick_tenant', 'power_level_configs', 'SELECT', NULL),
    ('tallystick_tenant', 'credit_packages', 'SELECT', NULL),
    ('tallystick_tenant', 'provider_health', 'SELECT', NULL),
    ('tallystick_tenant', 'archived_months', 'SELECT', NULL),
    ('tallystick_tenant', 'model_prices', 'SELECT',
     '{id,model_id,tool_name,feature_type,valid_from,valid_to,currency,input_price_per_1k,output_price_per_1k,cached_input_price_per_1k,
       price_per_request,unit,price_per_unit,bill_errors,revision}')
ON CONFLICT DO NOTHING;
-- Users choose theirs themselves.
UPDATE role_rights SET columns = columns || '{time_zone}'::text[] WHERE (role, object, privilege) = ('tallystick_api', 'users', 'UPDATE');
SELECT apply_role_rights();

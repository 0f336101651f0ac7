-- migrate:up
-- Row-level security holds for the owner as well (FORCE), costs no index, covers summaries, and refuses a question without a tenant.
-- Tenants read the log and rated usage through views. Changes of API keys are audited.

-- ---------------------------------------------------------------------------------------------------------------------
-- Whose rows
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION refuse_missing_tenant() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'TS013', MESSAGE = 'it is not said for whom to read: app.current_user_id is not set',
        HINT = 'Begin the transaction with SET LOCAL app.current_user_id = ''…'', or read as a role that sees all tenants.';
END $$;

COMMENT ON FUNCTION refuse_missing_tenant IS 'Raises TS013: a query under row-level security in a transaction that has no tenant. An empty answer would look like the truth.';

CREATE OR REPLACE FUNCTION app_current_user_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(nullif(current_setting('app.current_user_id', true), ''), refuse_missing_tenant())::uuid
$$;

COMMENT ON FUNCTION app_current_user_id IS 'The tenant of this transaction (setting app.current_user_id); raises TS013 where there is none.';

-- Administrators are answered as tallystick_readonly, which sees all rows. As a second policy of tenants, OR-ed to the first, it kept
-- every query of every tenant from using an index on the owner.
DO $$
DECLARE
    tenant_table regclass;
BEGIN
    FOR tenant_table IN SELECT polrelid FROM pg_policy JOIN pg_class c ON c.oid = polrelid
        WHERE polname = 'admin_all_data' AND c.relnamespace = current_schema()::regnamespace
    LOOP
        EXECUTE format('DROP POLICY admin_all_data ON %s', tenant_table);
    END LOOP;
END $$;
DROP FUNCTION app_current_user_is_admin();

-- (SELECT …) is asked once for each query, and not for each row; an ARRAY(…) can be looked up in an index, what is IN (…) cannot.
DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY[
        'users', 'sessions', 'user_activity', 'subscriptions', 'api_keys', 'user_provider_keys', 'user_credits', 'credit_transactions',
        'credits', 'invoices', 'invoice_lines', 'payments', 'payment_methods', 'billing_alerts', 'billing_history',
        'billing_profiles', 'credit_notes', 'credit_note_lines', 'alert_settings']
    LOOP
        EXECUTE format('ALTER POLICY user_own_data ON %I USING (%s)', tenant_table, CASE tenant_table
            WHEN 'users' THEN 'id = (SELECT app_current_user_id())'
            WHEN 'invoice_lines' THEN 'invoice_id = ANY (ARRAY(SELECT id FROM invoices WHERE user_id = (SELECT app_current_user_id())))'
            WHEN 'credit_note_lines' THEN
                'credit_note_id = ANY (ARRAY(SELECT id FROM credit_notes WHERE user_id = (SELECT app_current_user_id())))'
            ELSE 'user_id = (SELECT app_current_user_id())' END);
    END LOOP;
END $$;

ALTER TABLE usage_summaries ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_own_data ON usage_summaries USING
    (subscription_id = ANY (ARRAY(SELECT id FROM subscriptions WHERE user_id = (SELECT app_current_user_id()))));

-- Both are written by COPY, which is refused under row-level security.
CREATE VIEW tenant_usage_logs WITH (security_barrier) AS
SELECT created_at, id, subscription_id, api_key_id, model_id, tool_name, provider, quantity, request_tokens, response_tokens, cached_tokens,
       total_tokens, tokens_returned, latency_ms, status_code, error_message, power_level, byok, feature_type, library_id, reservation_id,
       app_id, session_id, end_user, source, request_id, metadata, ingested_at
FROM usage_logs
WHERE subscription_id = ANY (ARRAY(SELECT s.id FROM subscriptions s WHERE s.user_id = (SELECT app_current_user_id())));

COMMENT ON VIEW tenant_usage_logs IS 'The usage events of the tenant of this transaction (setting app.current_user_id).';

CREATE VIEW tenant_rated_usage WITH (security_barrier) AS
SELECT subscription_id, hour, model_id, tool_name, feature_type, power_level, byok, status_class, rating_run_id, user_id, billing_mode,
       requests, errors, request_tokens, response_tokens, cached_tokens, tokens_returned, first_event_at, last_event_at, price_id, multiplier,
       currency, amount, settlement_id, invoice_line_id, rated_at
FROM rated_usage
WHERE subscription_id = ANY (ARRAY(SELECT s.id FROM subscriptions s WHERE s.user_id = (SELECT app_current_user_id())));

COMMENT ON VIEW tenant_rated_usage IS 'What usage of the tenant of this transaction is worth; without what it costs us.';

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_tenant', 'tenant_usage_logs', 'SELECT', NULL),
    ('tallystick_tenant', 'tenant_rated_usage', 'SELECT', NULL);

-- ---------------------------------------------------------------------------------------------------------------------
-- API keys
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE api_keys ADD COLUMN replaces uuid UNIQUE REFERENCES api_keys (id) ON DELETE RESTRICT,
    ADD CONSTRAINT does_not_replace_itself CHECK (replaces <> id);
COMMENT ON COLUMN api_keys.replaces IS 'The key that this one was made to take the place of. A key is replaced once.';

CREATE FUNCTION audit_api_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    acting uuid := nullif(current_setting('app.current_user_id', true), '');
    why    text := nullif(current_setting('tallystick.why', true), '');
BEGIN
    INSERT INTO audit_logs (admin_id, user_id, action, resource_type, resource_id, before, after, details)
    VALUES (CASE WHEN acting <> NEW.user_id THEN acting END, NEW.user_id,
            CASE WHEN TG_OP = 'INSERT' THEN CASE WHEN NEW.replaces IS NULL THEN 'api_key.created' ELSE 'api_key.rotated' END
                 WHEN NEW.revoked_at IS NOT NULL AND OLD.revoked_at IS NULL THEN 'api_key.revoked'
                 ELSE 'api_key.changed' END,
            'api_key', NEW.id::text,
            CASE WHEN TG_OP = 'UPDATE' THEN jsonb_build_object('active', OLD.is_active, 'expires_at', OLD.expires_at,
                'requests_per_minute', OLD.quota_requests_per_minute, 'requests_per_day', OLD.quota_requests_per_day) END,
            jsonb_build_object('active', NEW.is_active, 'expires_at', NEW.expires_at,
                'requests_per_minute', NEW.quota_requests_per_minute, 'requests_per_day', NEW.quota_requests_per_day),
            jsonb_strip_nulls(jsonb_build_object('subscription', NEW.subscription_id, 'prefix', NEW.key_prefix, 'replaces', NEW.replaces, 'why', why)));
    RETURN NULL;
END $$;

COMMENT ON FUNCTION audit_api_key IS 'Trigger: writes to audit_logs that a key was made, replaced, changed or revoked. Its name is not in it: that may be a person''s.';

CREATE TRIGGER write_api_key_made AFTER INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION audit_api_key();
CREATE TRIGGER write_api_key_audit AFTER UPDATE ON api_keys
    FOR EACH ROW WHEN ((NEW.is_active, NEW.expires_at, NEW.revoked_at, NEW.quota_requests_per_minute, NEW.quota_requests_per_day)
        IS DISTINCT FROM (OLD.is_active, OLD.expires_at, OLD.revoked_at, OLD.quota_requests_per_minute, OLD.quota_requests_per_day))
    EXECUTE FUNCTION audit_api_key();

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_api', 'api_keys', 'INSERT', NULL),
    ('tallystick_api', 'api_keys', 'UPDATE', '{name,expires_at,is_active,revoked_at,quota_requests_per_minute,quota_requests_per_day}'),
    -- The right to call it makes secure_functions() let it work as its owner: as a trigger it is called without any.
    ('tallystick_api', 'audit_api_key', 'EXECUTE', NULL)
ON CONFLICT DO NOTHING;

-- ---------------------------------------------------------------------------------------------------------------------
-- Making it so
-- ---------------------------------------------------------------------------------------------------------------------

-- What is new: every relation under row-level security has it forced on its owner, and the owner has a policy by which it sees all, as
-- migrations, functions that run as the owner and foreign keys need.
CREATE OR REPLACE FUNCTION apply_role_rights() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    statement text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('tallystick.role_rights', 0));
    PERFORM create_service_roles();
    PERFORM secure_functions();
    FOR statement IN
        WITH roles AS (
            SELECT rolname, oid FROM pg_roles
            WHERE rolname IN (SELECT role FROM service_roles)
        ), rights AS (
            SELECT role, object, privilege, columns FROM role_rights
            UNION ALL
            SELECT 'tallystick_readonly', relation, 'SELECT', columns FROM readable_relations()
            UNION ALL
            SELECT 'tallystick_tenant', relation, 'SELECT', columns FROM tenant_relations()
        ), granted AS (  -- what a role has now: of a relation as a whole or of its columns, or of a function
            SELECT a.grantee, format('TABLE %s', c.oid::regclass) AS what FROM pg_class c, aclexplode(c.relacl) a
            WHERE c.relnamespace = current_schema()::regnamespace
            UNION SELECT x.grantee, format('TABLE %s', c.oid::regclass) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) x
            WHERE c.relnamespace = current_schema()::regnamespace
            UNION SELECT a.grantee, format('FUNCTION %s', p.oid::regprocedure) FROM pg_proc p, aclexplode(p.proacl) a
            WHERE p.pronamespace = current_schema()::regnamespace
        ), secured AS (  -- with who is not filtered there: its owner, and the services
            SELECT c.oid, c.relname, c.relforcerowsecurity, ARRAY(
                SELECT r.oid FROM pg_roles r
                WHERE r.oid = c.relowner OR r.rolname IN
                    (SELECT role FROM rights WHERE object = c.relname AND privilege <> 'EXECUTE' AND role <> 'tallystick_tenant')
                ORDER BY r.oid) AS unfiltered
            FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relrowsecurity
        ), statements (step, text) AS (
            SELECT 1, format('REVOKE ALL ON %s FROM %I', what, rolname) FROM granted JOIN roles ON oid = grantee
            UNION ALL
            SELECT 2, format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), rolname) FROM roles
            UNION ALL
            SELECT 3, format('GRANT %s ON %I TO %I',
                privilege || coalesce(' (' || (SELECT string_agg(quote_ident(name), ', ') FROM unnest(columns) name) || ')', ''), object, role)
            FROM rights JOIN roles ON rolname = role WHERE privilege <> 'EXECUTE'
            UNION ALL
            SELECT 3, format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, role)
            FROM rights JOIN roles ON rolname = role JOIN pg_proc p ON proname = object AND pronamespace = current_schema()::regnamespace
            WHERE privilege = 'EXECUTE'
            UNION ALL
            -- Row-level security is there for tenants. Services work for all of them: what they may do is said by their grants.
            SELECT 4, format('%s POLICY service_roles ON %I TO %s %s',
                CASE WHEN p.polname IS NULL THEN 'CREATE' ELSE 'ALTER' END, s.relname,
                (SELECT string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname) FROM pg_roles r WHERE r.oid = ANY (s.unfiltered)),
                CASE WHEN p.polname IS NULL THEN 'USING (true)' END)
            FROM secured s LEFT JOIN pg_policy p ON p.polrelid = s.oid AND p.polname = 'service_roles'
            WHERE s.unfiltered IS DISTINCT FROM ARRAY(SELECT unnest(p.polroles) ORDER BY 1)  -- it locks the table
            UNION ALL
            SELECT 5, format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', relname) FROM secured WHERE NOT relforcerowsecurity
        )
        SELECT text FROM statements ORDER BY step, text
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;

SELECT apply_role_rights();

-- migrate:up
-- Logins: sessions with tokens that are exchanged once, failed ones counted. Keys of users at providers: audited, counted, reminded of.

-- ---------------------------------------------------------------------------------------------------------------------
-- Sessions
-- ---------------------------------------------------------------------------------------------------------------------

-- A login is a family of rows: each refresh makes the next one. Who presents a refresh token that was exchanged before has stolen it, or
-- was stolen from: then the family ends.
ALTER TABLE sessions
    ADD COLUMN family            uuid        NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN access_token      text        UNIQUE,
    ADD COLUMN access_expires_at timestamptz,
    ADD COLUMN used_at           timestamptz,
    ADD COLUMN logged_in_at      timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN ip_address        inet,
    ADD COLUMN user_agent        text,
    ADD CONSTRAINT access_ends CHECK ((access_token IS NULL) = (access_expires_at IS NULL)),
    ADD CONSTRAINT access_ends_first CHECK (access_expires_at <= expires_at),
    ADD CONSTRAINT used_while_it_was_valid CHECK (used_at < expires_at);
CREATE INDEX idx_sessions_family ON sessions (family);

COMMENT ON TABLE  sessions IS 'Logins that can be refreshed. One row for each pair of tokens; a login and its refreshes are a family. A row that is gone is logged out.';
COMMENT ON COLUMN sessions.family IS 'The login that it comes from.';
COMMENT ON COLUMN sessions.access_token IS 'SHA-256 of the access token in hex, never the token.';
COMMENT ON COLUMN sessions.used_at IS 'When the refresh token was exchanged for the next pair; it is not valid twice.';
COMMENT ON COLUMN sessions.logged_in_at IS 'When the password was given: of all rows of the family.';

CREATE TABLE failed_logins (
    kind         text        NOT NULL CHECK (kind IN ('account', 'address')),
    subject      text        NOT NULL CHECK (subject <> ''),
    attempts     integer     NOT NULL CHECK (attempts > 0),
    window_start timestamptz NOT NULL,
    PRIMARY KEY (kind, subject)
);
CREATE INDEX idx_failed_logins_window ON failed_logins (window_start);  -- what is over is deleted

COMMENT ON TABLE  failed_logins IS 'Attempts to log in since the last that succeeded, within a window: what more of them are refused by.';
COMMENT ON COLUMN failed_logins.subject IS 'SHA-256 of the e-mail address in lower case, or the network address.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Keys at providers
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE billing_alerts DROP CONSTRAINT billing_alerts_type_check, ADD CONSTRAINT billing_alerts_type_check CHECK (type IN
    ('usage_threshold', 'payment_failed', 'payment_disputed', 'invoice_overdue', 'subscription_expiring', 'low_balance', 'credits_exhausted', 'unrated_usage',
     'webhook_disabled', 'provider_key_due'));
ALTER TABLE alert_settings DROP CONSTRAINT alert_settings_kind_check, ADD CONSTRAINT alert_settings_kind_check CHECK (kind IN
    ('usage_threshold', 'spend', 'payment_failed', 'payment_disputed', 'invoice_overdue', 'subscription_expiring', 'low_balance', 'credits_exhausted',
     'unrated_usage', 'webhook_disabled', 'provider_key_due'));

COMMENT ON COLUMN user_provider_keys.monthly_requests IS 'Requests of usage_month with own keys at this provider, counted for the default key; a job of billing counts them.';

CREATE FUNCTION audit_provider_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    is_now user_provider_keys := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    acting uuid := nullif(current_setting('app.current_user_id', true), '');
    why    text := nullif(current_setting('tallystick.why', true), '');
BEGIN
    INSERT INTO audit_logs (admin_id, user_id, action, resource_type, resource_id, before, after, details)
    VALUES (CASE WHEN acting <> is_now.user_id THEN acting END, is_now.user_id,
            CASE WHEN TG_OP = 'INSERT' THEN 'provider_key.created' WHEN TG_OP = 'DELETE' THEN 'provider_key.deleted'
                 WHEN NEW.rotated_at <> OLD.rotated_at THEN 'provider_key.rotated' ELSE 'provider_key.changed' END,
            'provider_key', is_now.id::text,
            CASE WHEN TG_OP <> 'INSERT' THEN jsonb_build_object('default', OLD.is_default, 'active', OLD.is_active, 'rotation_due_at', OLD.rotation_due_at) END,
            CASE WHEN TG_OP <> 'DELETE' THEN jsonb_build_object('default', NEW.is_default, 'active', NEW.is_active, 'rotation_due_at', NEW.rotation_due_at) END,
            jsonb_strip_nulls(jsonb_build_object('provider', is_now.provider, 'why', why)));
    RETURN NULL;
END $$;

COMMENT ON FUNCTION audit_provider_key IS 'Trigger: writes to audit_logs that a key at a provider was stored, replaced, changed or deleted; nothing of the key is in it.';

CREATE TRIGGER audit_provider_keys AFTER INSERT OR DELETE ON user_provider_keys FOR EACH ROW EXECUTE FUNCTION audit_provider_key();
CREATE TRIGGER audit_provider_key_changes AFTER UPDATE ON user_provider_keys
    FOR EACH ROW WHEN ((NEW.rotated_at, NEW.is_default, NEW.is_active, NEW.rotation_due_at)
        IS DISTINCT FROM (OLD.rotated_at, OLD.is_default, OLD.is_active, OLD.rotation_due_at))
    EXECUTE FUNCTION audit_provider_key();

-- ---------------------------------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------------------------------

INSERT INTO role_rights (role, object, privilege, columns)
SELECT 'tallystick_' || service, object, privilege, string_to_array(columns, ' ')
FROM (VALUES
    ('api', 'sessions', 'SELECT INSERT DELETE', NULL),
    ('api', 'sessions', 'UPDATE', 'used_at'),
    ('api', 'failed_logins', 'SELECT INSERT UPDATE DELETE', NULL),
    ('api', 'user_activity', 'INSERT', NULL),
    -- A first login through an identity provider makes the user, without any role but that of a user.
    ('api', 'users', 'INSERT', 'id username email full_name oauth_provider oauth_id email_verified permissions_updated_at last_login_at'),
    ('api', 'users', 'UPDATE', 'password_hash last_login_at'),
    ('api', 'user_provider_keys', 'SELECT INSERT DELETE', NULL),
    ('api', 'user_provider_keys', 'UPDATE',
     'encrypted_api_key encryption_key_id key_hint is_default rotated_at rotation_due_at rotation_reminded_at'),
    -- The right to call it makes secure_functions() let it work as its owner: as a trigger it is called without any.
    ('api', 'audit_provider_key announce_key_limit', 'EXECUTE', NULL),

    ('billing', 'user_provider_keys', 'SELECT',
     'id user_id provider key_name key_hint is_default is_active last_used_at usage_month monthly_requests monthly_tokens total_requests rotation_due_at rotation_reminded_at created_at'),
    ('billing', 'user_provider_keys', 'UPDATE', 'last_used_at usage_month monthly_requests monthly_tokens total_requests rotation_reminded_at'),
    ('billing', 'models', 'SELECT', 'id provider')
) AS granted (service, objects, privileges, columns), unnest(string_to_array(objects, ' ')) AS object, unnest(string_to_array(privileges, ' ')) AS privilege
ON CONFLICT (role, object, privilege) DO UPDATE
SET columns = CASE WHEN role_rights.columns IS NULL OR excluded.columns IS NULL THEN NULL
                   ELSE ARRAY(SELECT DISTINCT name FROM unnest(role_rights.columns || excluded.columns) name ORDER BY name) END;

SELECT apply_role_rights();

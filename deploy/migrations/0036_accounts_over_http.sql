-- migrate:up
-- The operator of the API keeps accounts as the commands do, sees logins, and turns the pages of the audit trail.

CREATE INDEX idx_audit_logs_newest ON audit_logs (created_at DESC, id DESC);  -- the pages of the trail

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_operator', 'users', 'SELECT',
     '{id,username,email,full_name,roles,subscription_tier,is_active,email_verified,oauth_provider,oauth_id,anonymised_at,last_login_at,created_at,updated_at}'),
    ('tallystick_operator', 'users', 'INSERT', '{id,email,full_name,roles,subscription_tier,email_verified,password_hash,oauth_provider,oauth_id}'),
    ('tallystick_operator', 'users', 'UPDATE', '{email,full_name,roles,subscription_tier,is_active,email_verified}'),
    ('tallystick_operator', 'sessions', 'SELECT', '{user_id,family,created_at,expires_at,used_at,logged_in_at,ip_address,user_agent}')
ON CONFLICT (role, object, privilege) DO UPDATE SET columns = excluded.columns;
SELECT apply_role_rights();

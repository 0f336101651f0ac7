-- migrate:up
-- What operators do over HTTP: a role of its own for it, and an audit trail of all of it.
--
-- The role that recognises credentials answers every request; what an administrator may do is not among its rights. The API takes this
-- one for the transaction of a request of an administrator, or of finance where it is about credits, and for no other.

INSERT INTO service_roles (role, purpose) VALUES
    ('tallystick_operator', 'keeps accounts, subscriptions, prices and plans, gives credits and repairs, for the administrators of the API');

-- ---------------------------------------------------------------------------------------------------------------------
-- The audit trail
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION complete_audit_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.admin_id := nullif(nullif(current_setting('app.current_user_id', true), '')::uuid, NEW.user_id);
    RETURN NEW;
END $$;

COMMENT ON FUNCTION complete_audit_entry IS 'Trigger: an entry says which user acted, where one did and it is not the one concerned.';

CREATE TRIGGER complete_audit_logs BEFORE INSERT ON audit_logs
    FOR EACH ROW WHEN (NEW.admin_id IS NULL) EXECUTE FUNCTION complete_audit_entry();

-- Arguments: what it is called in the trail; the columns of which it is only said that they changed (who is anonymised must not live on
-- in the trail); the column that identifies it, where that is not id.
CREATE FUNCTION audit_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    kind    text   := TG_ARGV[0];
    unkept  text[] := coalesce(TG_ARGV[1], '{}')::text[];
    row_key text   := coalesce(TG_ARGV[2], 'id');
    was     jsonb  := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - '{created_at,updated_at,permissions_updated_at}'::text[] ELSE '{}' END;
    becomes jsonb  := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - '{created_at,updated_at,permissions_updated_at}'::text[] ELSE '{}' END;
    named   jsonb  := was || becomes;
    changed text[] := ARRAY(SELECT key FROM jsonb_object_keys(named) key
                            WHERE coalesce(was -> key, 'null') <> coalesce(becomes -> key, 'null') ORDER BY key);
    why     text   := nullif(current_setting('tallystick.why', true), '');
BEGIN
    IF changed <> '{}' THEN
        INSERT INTO audit_logs (user_id, action, resource_type, resource_id, before, after, details)
        SELECT (named ->> CASE kind WHEN 'user' THEN 'id' ELSE 'user_id' END)::uuid,
               kind || CASE TG_OP WHEN 'INSERT' THEN '.created' WHEN 'DELETE' THEN '.deleted' ELSE '.changed' END, kind, named ->> row_key,
               CASE WHEN TG_OP <> 'INSERT' THEN coalesce(jsonb_object_agg(key, was -> key) FILTER (WHERE key <> ALL (unkept)), '{}') END,
               CASE WHEN TG_OP <> 'DELETE' THEN coalesce(jsonb_object_agg(key, becomes -> key) FILTER (WHERE key <> ALL (unkept)), '{}') END,
               jsonb_strip_nulls(jsonb_build_object('changed', changed, 'why', why))
        FROM unnest(changed) key;
    END IF;
    RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION audit_change FROM PUBLIC;
COMMENT ON FUNCTION audit_change IS 'Trigger: writes to audit_logs what changed of a row, before and after.';

CREATE TRIGGER audit_new_users AFTER INSERT OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION audit_change(
    'user', '{username,email,full_name,avatar_url,password_hash,oauth_id,notification_preferences}');
-- A login is no change of the account.
CREATE TRIGGER audit_users AFTER UPDATE ON users FOR EACH ROW
    WHEN ((NEW.username, NEW.email, NEW.full_name, NEW.avatar_url, NEW.password_hash, NEW.oauth_provider, NEW.oauth_id, NEW.roles,
           NEW.subscription_tier, NEW.is_active, NEW.email_verified, NEW.anonymised_at)
          IS DISTINCT FROM
          (OLD.username, OLD.email, OLD.full_name, OLD.avatar_url, OLD.password_hash, OLD.oauth_provider, OLD.oauth_id, OLD.roles,
           OLD.subscription_tier, OLD.is_active, OLD.email_verified, OLD.anonymised_at))
    EXECUTE FUNCTION audit_change('user', '{username,email,full_name,avatar_url,password_hash,oauth_id,notification_preferences,last_login_at}');
CREATE TRIGGER audit_admin_notes AFTER INSERT OR UPDATE OR DELETE ON admin_notes FOR EACH ROW EXECUTE FUNCTION audit_change('admin_note', '{note}');
CREATE TRIGGER audit_models AFTER INSERT OR UPDATE OR DELETE ON models FOR EACH ROW EXECUTE FUNCTION audit_change('model');
CREATE TRIGGER audit_plans AFTER INSERT OR UPDATE OR DELETE ON plans FOR EACH ROW EXECUTE FUNCTION audit_change('plan');
CREATE TRIGGER audit_plan_versions AFTER INSERT OR DELETE ON plan_versions FOR EACH ROW EXECUTE FUNCTION audit_change('plan_version', '{}', 'plan_id');
CREATE TRIGGER audit_power_levels AFTER INSERT OR UPDATE OR DELETE ON power_level_configs
    FOR EACH ROW EXECUTE FUNCTION audit_change('power_level', '{}', 'power_level');
CREATE TRIGGER audit_libraries AFTER INSERT OR UPDATE OR DELETE ON libraries FOR EACH ROW EXECUTE FUNCTION audit_change('library');
CREATE TRIGGER audit_library_versions AFTER INSERT OR UPDATE OR DELETE ON library_versions
    FOR EACH ROW EXECUTE FUNCTION audit_change('library_version', '{}', 'library_id');

CREATE FUNCTION audit_run_by_hand() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO audit_logs (action, resource_type, resource_id, after)
    VALUES ('job.run', 'job', NEW.job, jsonb_build_object(
        'scheduled_for', NEW.scheduled_for, 'finished', NEW.finished_at IS NOT NULL, 'attempts', NEW.attempts, 'result', NEW.result));
    RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION audit_run_by_hand FROM PUBLIC;
COMMENT ON FUNCTION audit_run_by_hand IS 'Trigger: writes to audit_logs that somebody ran a job by hand, and what it came to.';

CREATE TRIGGER audit_runs_by_hand AFTER INSERT OR UPDATE ON job_runs
    FOR EACH ROW WHEN (NEW.worker = 'by hand') EXECUTE FUNCTION audit_run_by_hand();

-- ---------------------------------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------------------------------

INSERT INTO role_rights (role, object, privilege, columns)
SELECT 'tallystick_operator', object, privilege, string_to_array(columns, ' ')
FROM (VALUES
    -- Entries are added, in the name that the transaction has, and never changed.
    ('audit_logs', 'SELECT', NULL),
    ('audit_logs', 'INSERT', 'user_id action resource_type resource_id before after details'),

    ('users', 'SELECT', 'id username email full_name roles subscription_tier is_active email_verified anonymised_at last_login_at created_at updated_at'),
    ('users', 'INSERT', 'id username email full_name roles subscription_tier is_active email_verified'),
    ('users', 'UPDATE', 'username email full_name roles subscription_tier is_active email_verified'),
    ('anonymise_user', 'EXECUTE', NULL),
    ('sessions', 'SELECT', 'id user_id expires_at created_at'),
    ('sessions', 'DELETE', NULL),
    ('admin_notes', 'SELECT INSERT DELETE', NULL),
    ('admin_notes', 'UPDATE', 'note is_flagged'),

    ('subscriptions', 'SELECT INSERT', NULL),
    ('subscriptions', 'UPDATE', 'updated_at'),  -- for its row lock: it is changed by the functions
    ('save_subscription suspend_subscription clear_suspension', 'EXECUTE', NULL),
    ('subscription_terms', 'SELECT', NULL),
    ('subscription_changes', 'SELECT INSERT', NULL),
    ('subscription_changes', 'UPDATE', 'applied_at withdrawn_at refused_at refusal'),
    ('coupons', 'SELECT', NULL),
    ('coupons', 'UPDATE', 'redemptions'),
    ('coupon_redemptions', 'SELECT INSERT', NULL),

    ('plans', 'SELECT INSERT', NULL),
    ('plans', 'UPDATE', 'name description features amount limits is_active'),
    ('plan_versions', 'SELECT INSERT', NULL),
    ('models', 'SELECT INSERT', NULL),
    ('models', 'UPDATE', 'name provider description capabilities context_length input_price_per_1k output_price_per_1k metadata is_active'),
    ('model_prices', 'SELECT INSERT', NULL),
    ('model_prices', 'UPDATE', 'valid_to'),
    ('price_book', 'SELECT', NULL),
    ('price_book', 'UPDATE', 'version changed_at'),
    ('power_level_configs', 'SELECT', NULL),
    ('power_level_configs', 'UPDATE', 'name description preferred_providers fallback_strategy cost_multiplier max_latency_ms min_quality_score is_active'),
    ('libraries library_versions', 'SELECT INSERT', NULL),
    ('libraries', 'UPDATE', 'name vendor repo_url docs_url default_version popularity_score total_snippets total_tokens last_crawled_at metadata'),
    ('library_versions', 'UPDATE', 'release_date is_latest docs_snapshot_url'),

    -- Credits move through the functions alone; money for invoices is a grant.
    ('add_user_credits debit_user_credits', 'EXECUTE', NULL),
    ('user_credits credit_transactions', 'SELECT', NULL),
    ('credits', 'SELECT INSERT', NULL),

    -- What ingest refused and holds is resolved by a person's word. A replay goes through ingest's own path: its rights follow.
    ('quarantined_events', 'UPDATE', 'reason detail tried_at resolution resolved_at resolved_by resolved_why resolved_batch_id'),
    ('held_events', 'UPDATE', 'expired_at expired_by expired_why')
) AS rights (objects, privileges, columns)
CROSS JOIN LATERAL string_to_table(objects, ' ') AS object
CROSS JOIN LATERAL string_to_table(privileges, ' ') AS privilege;

INSERT INTO role_rights (role, object, privilege, columns)
SELECT 'tallystick_operator', object, privilege, columns FROM role_rights WHERE role = 'tallystick_ingest'
ON CONFLICT (role, object, privilege) DO UPDATE
SET columns = CASE WHEN role_rights.columns IS NULL OR excluded.columns IS NULL THEN NULL
                   ELSE ARRAY(SELECT DISTINCT name FROM unnest(role_rights.columns || excluded.columns) name ORDER BY name) END;

INSERT INTO role_rights (role, object, privilege) VALUES
    ('tallystick_tenant', 'libraries', 'SELECT'),
    ('tallystick_tenant', 'library_versions', 'SELECT')
ON CONFLICT DO NOTHING;

SELECT apply_role_rights();

-- migrate:up
-- People, what they may use, and reference data: the account side of the four systems that Tallystick unites.
-- docs/reference/schema.md says where each object comes from and what was changed.
--
-- Conventions: ids are UUID; every time is timestamptz and every calendar cut is made in UTC, whatever the session's time
-- zone; money is NUMERIC with a currency beside it; what usage or invoices depend on is never deleted by a cascade.
-- Errors of our own have SQLSTATE class TS: TS001 insufficient credits, TS002 idempotency key reused, TS003 append-only,
-- TS004 amount refused, TS005 no such account, TS010 status not allowed, TS011 reason not allowed, TS012 in use.

-- gen_random_uuid() is core and all that we need; the two extensions that the seeds ask for are made where the server
-- has them and lets us (embedded servers have neither).
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['uuid-ossp', 'pgcrypto'] LOOP
        CONTINUE WHEN NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = wanted);
        BEGIN
            EXECUTE format('CREATE EXTENSION IF NOT EXISTS %I', wanted);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE 'extension % is not created: it needs a privilege that % lacks, and nothing depends on it', wanted, current_user;
        END;
    END LOOP;
END $$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Trigger functions for the times of change
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;

COMMENT ON FUNCTION update_updated_at_column IS 'Trigger: keeps updated_at of any table that has one.';

CREATE FUNCTION update_notification_preferences_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.notification_preferences_updated_at := now();
    RETURN NEW;
END $$;

COMMENT ON FUNCTION update_notification_preferences_updated_at IS 'Trigger: says when a user last changed what to be notified of.';

CREATE FUNCTION update_permissions_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.permissions_updated_at := now();
    RETURN NEW;
END $$;

COMMENT ON FUNCTION update_permissions_updated_at IS 'Trigger: says when roles or activity of a user changed; a token issued before is stale.';

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'TS003',
        MESSAGE = format('%s is append-only: %s is refused', TG_TABLE_NAME, TG_OP),
        HINT = 'Correct it with a new row.';
END $$;

COMMENT ON FUNCTION refuse_change IS 'Trigger of append-only tables: refuses UPDATE, DELETE and TRUNCATE (TS003).';

-- ---------------------------------------------------------------------------------------------------------------------
-- Users
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE users (
    id                uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    username          text        NOT NULL UNIQUE,
    email             text        NOT NULL UNIQUE,
    full_name         text,
    avatar_url        text,
    password_hash     text,
    oauth_provider    text        DEFAULT 'openshift',
    oauth_id          text,
    roles             text[]      NOT NULL DEFAULT ARRAY['user'],
    subscription_tier text        NOT NULL DEFAULT 'free',
    is_active         boolean     NOT NULL DEFAULT true,
    email_verified    boolean     NOT NULL DEFAULT false,
    notification_preferences            jsonb NOT NULL DEFAULT '{}',
    notification_preferences_updated_at timestamptz,
    permissions_updated_at              timestamptz NOT NULL DEFAULT now(),
    last_login_at     timestamptz,
    anonymised_at     timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (oauth_provider, oauth_id),
    CONSTRAINT valid_email CHECK (email ~* '^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$'),
    CONSTRAINT valid_subscription_tier CHECK
        (subscription_tier IN ('free', 'trial', 'starter', 'pro', 'professional', 'enterprise')),
    -- bcrypt has 60 characters, argon2 and scrypt more: what is shorter is not a hash.
    CONSTRAINT valid_password_hash CHECK (length(password_hash) BETWEEN 60 AND 512),
    CONSTRAINT oauth_id_has_provider CHECK (oauth_id IS NULL OR oauth_provider IS NOT NULL),
    CONSTRAINT valid_roles CHECK (roles <@ ARRAY['user', 'admin', 'service'] AND cardinality(roles) > 0)
);

-- Two spellings of one address are one person. Serves login by e-mail, too.
CREATE UNIQUE INDEX users_email_any_case ON users (lower(email));
-- get_user_stats(): who was here today, who came this week.
CREATE INDEX idx_users_last_login_at ON users (last_login_at);
CREATE INDEX idx_users_created_at ON users (created_at);

COMMENT ON TABLE  users IS 'People who own subscriptions, and those who administer. Never deleted once they have usage: anonymise_user() erases who they were.';
COMMENT ON COLUMN users.username IS 'Login name; the e-mail address where none was given.';
COMMENT ON COLUMN users.password_hash IS 'bcrypt or argon2 hash; NULL for who logs in through OAuth only.';
COMMENT ON COLUMN users.oauth_id IS 'Subject at oauth_provider; NULL for who has a password only.';
COMMENT ON COLUMN users.roles IS 'What the user may do: user, admin, service. The tier says what was bought, never what is allowed.';
COMMENT ON COLUMN users.permissions_updated_at IS 'When roles or is_active last changed: tokens issued before are stale.';
COMMENT ON COLUMN users.anonymised_at IS 'When the person was erased; sums, ledger and invoices stay.';

CREATE FUNCTION default_username() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.username := coalesce(NEW.username, NEW.email);
    RETURN NEW;
END $$;

COMMENT ON FUNCTION default_username IS 'Trigger: a user without a username is called by the e-mail address.';

CREATE TRIGGER default_users_username BEFORE INSERT ON users
    FOR EACH ROW EXECUTE FUNCTION default_username();
CREATE TRIGGER update_users_updated_at BEFORE UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
CREATE TRIGGER update_users_notification_preferences_updated_at BEFORE UPDATE ON users
    FOR EACH ROW WHEN (NEW.notification_preferences IS DISTINCT FROM OLD.notification_preferences)
    EXECUTE FUNCTION update_notification_preferences_updated_at();
CREATE TRIGGER update_users_permissions_updated_at BEFORE UPDATE ON users
    FOR EACH ROW WHEN ((NEW.roles, NEW.is_active) IS DISTINCT FROM (OLD.roles, OLD.is_active))
    EXECUTE FUNCTION update_permissions_updated_at();

CREATE TABLE sessions (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    refresh_token text        NOT NULL UNIQUE,
    expires_at    timestamptz NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT future_expiration CHECK (expires_at > created_at)
);

CREATE INDEX idx_sessions_user_id ON sessions (user_id);        -- log out everywhere
CREATE INDEX idx_sessions_expires_at ON sessions (expires_at);  -- the clean-up of expired ones

COMMENT ON TABLE  sessions IS 'Logins that can be refreshed.';
COMMENT ON COLUMN sessions.refresh_token IS 'SHA-256 of the refresh token in hex, never the token.';

CREATE TABLE user_activity (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id    uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    action     text        NOT NULL,
    data       jsonb,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- get_user_activity_summary(): one user's actions, newest first; serves the seed's index on user_id as well.
CREATE INDEX idx_user_activity_user_id ON user_activity (user_id, created_at DESC);

COMMENT ON TABLE user_activity IS 'What users do in the portal, for themselves and for support. Not usage of models: that is usage_logs.';

CREATE TABLE admin_notes (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id    uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    admin_id   uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    note       text        NOT NULL,
    is_flagged boolean     NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_admin_notes_user_id ON admin_notes (user_id);
CREATE INDEX idx_admin_notes_admin_id ON admin_notes (admin_id);  -- the check of the foreign key
CREATE INDEX idx_admin_notes_is_flagged ON admin_notes (created_at DESC) WHERE is_flagged;  -- the list of open flags

COMMENT ON TABLE admin_notes IS 'What administrators write about a user.';

-- No foreign keys: the trail outlives what it tells of, and a row once written is never touched.
CREATE TABLE audit_logs (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    actor         text        NOT NULL DEFAULT coalesce(nullif(current_setting('tallystick.actor', true), ''), session_user),
    admin_id      uuid,
    user_id       uuid,
    action        text        NOT NULL CHECK (action <> ''),
    resource_type text,
    resource_id   text,
    before        jsonb,
    after         jsonb,
    details       jsonb,
    ip_address    inet,
    user_agent    text,
    metadata      jsonb       NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_audit_logs_user ON audit_logs (user_id, created_at);
CREATE INDEX idx_audit_logs_admin_id ON audit_logs (admin_id, created_at) WHERE admin_id IS NOT NULL;
CREATE INDEX idx_audit_logs_resource ON audit_logs (resource_type, resource_id, created_at);  -- the history of one thing
CREATE INDEX idx_audit_logs_created ON audit_logs USING brin (created_at);

CREATE TRIGGER audit_logs_append_only BEFORE UPDATE OR DELETE ON audit_logs
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_logs_no_truncate BEFORE TRUNCATE ON audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

COMMENT ON TABLE  audit_logs IS 'Who did what to whom, before and after. Append-only.';
COMMENT ON COLUMN audit_logs.actor IS 'Who acted: a service, a person or a database role; taken from the setting tallystick.actor of the transaction.';
COMMENT ON COLUMN audit_logs.admin_id IS 'The administrator who acted, if one did.';
COMMENT ON COLUMN audit_logs.user_id IS 'The user concerned; who acted as well, unless admin_id says otherwise.';

CREATE TABLE bridge_tokens (
    id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    token        text        NOT NULL UNIQUE,
    user_id      uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    session_data jsonb,
    client_ip    inet,
    user_agent   text,
    expires_at   timestamptz NOT NULL,
    used_at      timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    CHECK (expires_at > created_at)
);

CREATE INDEX idx_bridge_tokens_user_id ON bridge_tokens (user_id);

COMMENT ON TABLE  bridge_tokens IS 'One-time tokens that carry a login from the web to a desktop application.';
COMMENT ON COLUMN bridge_tokens.token IS 'SHA-256 of the token in hex, never the token.';

CREATE TABLE sync_logs (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    event_type    text        NOT NULL,
    event_source  text        NOT NULL,
    data          jsonb,
    client_ip     inet,
    user_agent    text,
    success       boolean     NOT NULL DEFAULT true,
    error_message text,
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_sync_logs_user_id ON sync_logs (user_id, created_at DESC);

COMMENT ON TABLE sync_logs IS 'Synchronisations between desktop applications and the account.';

-- ---------------------------------------------------------------------------------------------------------------------
-- What can be used: models, plans, power levels
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE models (
    id                  text        PRIMARY KEY CHECK (id <> ''),
    name                text        NOT NULL,
    provider            text        NOT NULL,
    description         text,
    capabilities        text[]      NOT NULL DEFAULT '{}',
    context_length      integer     CHECK (context_length > 0),
    input_price_per_1k  numeric     CHECK (input_price_per_1k >= 0),
    output_price_per_1k numeric     CHECK (output_price_per_1k >= 0),
    metadata            jsonb       NOT NULL DEFAULT '{}',
    is_active           boolean     NOT NULL DEFAULT true,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_models_provider ON models (provider);
CREATE INDEX idx_models_capabilities ON models USING gin (capabilities);

CREATE TRIGGER update_models_updated_at BEFORE UPDATE ON models
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE  models IS 'The models that gateways serve.';
COMMENT ON COLUMN models.input_price_per_1k IS 'List price to show in a catalogue. Nothing is billed by it: rating reads model_prices.';
COMMENT ON COLUMN models.output_price_per_1k IS 'List price to show in a catalogue. Nothing is billed by it: rating reads model_prices.';

CREATE TABLE plans (
    id             text        PRIMARY KEY CHECK (id <> ''),
    name           text        NOT NULL,
    description    text,
    amount         numeric     NOT NULL CHECK (amount >= 0),
    currency       varchar(3)  NOT NULL DEFAULT 'EUR' CHECK (currency ~ '^[A-Z]{3}$'),
    interval       text        NOT NULL CHECK (interval IN ('month', 'year')),
    interval_count integer     NOT NULL DEFAULT 1 CHECK (interval_count > 0),
    features       jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(features) = 'array'),
    limits         jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(limits) = 'object'),
    metadata       jsonb       NOT NULL DEFAULT '{}',
    is_active      boolean     NOT NULL DEFAULT true,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TRIGGER update_plans_updated_at BEFORE UPDATE ON plans
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE  plans IS 'What can be subscribed to besides a single model.';
COMMENT ON COLUMN plans.amount IS 'Flat fee of one interval, in currency.';
COMMENT ON COLUMN plans.limits IS 'requestsPerMonth, tokensPerMonth, concurrentRequests; a limit that is missing or null does not apply.';

CREATE TABLE power_level_configs (
    id                  uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    power_level         text        NOT NULL UNIQUE CHECK (power_level IN ('eco', 'balanced', 'precision')),
    name                text        NOT NULL,
    description         text,
    preferred_providers jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(preferred_providers) = 'array'),
    fallback_strategy   text        NOT NULL DEFAULT 'next_provider',
    cost_multiplier     numeric     NOT NULL CHECK (cost_multiplier >= 0),
    max_latency_ms      integer     CHECK (max_latency_ms > 0),
    min_quality_score   numeric     CHECK (min_quality_score BETWEEN 0 AND 1),
    is_active           boolean     NOT NULL DEFAULT true
);

COMMENT ON TABLE  power_level_configs IS 'How a power level routes, and by what its price is multiplied.';
COMMENT ON COLUMN power_level_configs.preferred_providers IS 'Provider names, best first.';
COMMENT ON COLUMN power_level_configs.cost_multiplier IS 'Factor on the price of usage at this level.';
COMMENT ON COLUMN power_level_configs.min_quality_score IS 'Between 0 and 1.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Subscriptions
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TYPE subscription_status AS ENUM ('pending', 'trialing', 'active', 'paused', 'suspended', 'cancelled', 'expired');

CREATE TABLE subscriptions (
    id                   uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id              uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    model_id             text        REFERENCES models (id) ON DELETE RESTRICT,
    plan_id              text        REFERENCES plans (id) ON DELETE RESTRICT,
    status               subscription_status NOT NULL DEFAULT 'pending',
    status_before_suspension subscription_status,
    suspended_reasons    text[]      NOT NULL DEFAULT '{}',
    status_version       bigint      NOT NULL DEFAULT 0,
    status_published_version bigint  NOT NULL DEFAULT -1,
    billing_mode         text        NOT NULL DEFAULT 'postpaid' CHECK (billing_mode IN ('prepaid', 'postpaid')),
    amount               numeric     NOT NULL DEFAULT 0 CHECK (amount >= 0),
    currency             varchar(3)  NOT NULL DEFAULT 'EUR' CHECK (currency ~ '^[A-Z]{3}$'),
    interval             text        NOT NULL DEFAULT 'month' CHECK (interval IN ('month', 'year')),
    interval_count       integer     NOT NULL DEFAULT 1 CHECK (interval_count > 0),
    quota_requests       bigint      DEFAULT 10000 CHECK (quota_requests >= 0),
    quota_tokens         bigint      DEFAULT 1000000 CHECK (quota_tokens >= 0),
    used_requests        bigint      NOT NULL DEFAULT 0 CHECK (used_requests >= 0),
    used_tokens          bigint      NOT NULL DEFAULT 0 CHECK (used_tokens >= 0),
    quota_period_start   timestamptz NOT NULL DEFAULT date_trunc('month', now(), 'UTC'),
    reset_at             timestamptz,
    current_period_start timestamptz,
    current_period_end   timestamptz,
    trial_start          timestamptz,
    trial_end            timestamptz,
    cancel_at_period_end boolean     NOT NULL DEFAULT false,
    expires_at           timestamptz,
    metadata             jsonb       NOT NULL DEFAULT '{}',
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    UNIQUE (id, user_id),
    CONSTRAINT model_or_plan CHECK (num_nonnulls(model_id, plan_id) = 1),
    CONSTRAINT known_suspension_reasons CHECK
        (suspended_reasons <@ ARRAY['quota_requests', 'quota_tokens', 'credits_exhausted', 'payment_overdue', 'admin']),
    CONSTRAINT suspended_for_a_reason CHECK ((status = 'suspended') = (suspended_reasons <> '{}')),
    CONSTRAINT suspension_remembers_status CHECK
        (status_before_suspension IN ('active', 'trialing') AND status = 'suspended'
         OR status_before_suspension IS NULL AND status <> 'suspended'),
    CONSTRAINT published_what_exists CHECK (status_published_version <= status_version),
    CONSTRAINT quota_period_is_aligned CHECK
        (quota_period_start = date_trunc('hour', quota_period_start, 'UTC') AND reset_at = date_trunc('hour', reset_at, 'UTC')),
    CONSTRAINT quota_period_is_half_open CHECK (reset_at > quota_period_start),
    CONSTRAINT billing_period_is_half_open CHECK
        (current_period_end > current_period_start AND (current_period_start IS NULL) = (current_period_end IS NULL)),
    CONSTRAINT trial_is_half_open CHECK (trial_end > trial_start AND (trial_start IS NULL) = (trial_end IS NULL))
) WITH (fillfactor = 70);  -- room for HOT updates of the counters, which no index contains

-- All live statuses, not only `active`: else a second subscription could be made while the first is suspended, and the
-- first could then never be reactivated.
CREATE UNIQUE INDEX unique_active_subscription ON subscriptions (user_id, model_id)
    WHERE status IN ('trialing', 'active', 'paused', 'suspended') AND model_id IS NOT NULL;
CREATE INDEX idx_subscriptions_user ON subscriptions (user_id);
CREATE INDEX idx_subscriptions_model ON subscriptions (model_id);
CREATE INDEX idx_subscriptions_plan ON subscriptions (plan_id) WHERE plan_id IS NOT NULL;
CREATE INDEX idx_subscriptions_status ON subscriptions (status);
CREATE INDEX idx_subscriptions_reset ON subscriptions (reset_at) WHERE reset_at IS NOT NULL;                     -- rolling quota periods
CREATE INDEX idx_subscriptions_period ON subscriptions (current_period_end) WHERE current_period_end IS NOT NULL;  -- closing billing periods
CREATE INDEX idx_subscriptions_expires ON subscriptions (expires_at) WHERE expires_at IS NOT NULL;
-- What gateways have not been told yet; nearly always empty.
CREATE INDEX idx_subscriptions_unpublished ON subscriptions (id) WHERE status_version > status_published_version;

COMMENT ON TABLE  subscriptions IS 'What a user may use, how much of it, and how it is paid. Counters, quota and publication are written by the aggregator.';
COMMENT ON COLUMN subscriptions.plan_id IS 'The plan, where it is not for a single model; exactly one of the two is set.';
COMMENT ON COLUMN subscriptions.status_before_suspension IS 'active or trialing: what it becomes when the last reason is gone.';
COMMENT ON COLUMN subscriptions.suspended_reasons IS 'Why it is suspended; all have to clear before it is active again.';
COMMENT ON COLUMN subscriptions.status_version IS 'Grows with each change that gateways must hear of; the version of the subscription.status message.';
COMMENT ON COLUMN subscriptions.status_published_version IS 'The version that was published last; below status_version means: publish.';
COMMENT ON COLUMN subscriptions.billing_mode IS 'prepaid: rated usage debits user_credits; postpaid: it is invoiced.';
COMMENT ON COLUMN subscriptions.quota_requests IS 'Requests of one quota period; NULL is unlimited. At used >= quota it suspends.';
COMMENT ON COLUMN subscriptions.quota_tokens IS 'Tokens (request + response) of one quota period; NULL is unlimited. At used >= quota it suspends.';
COMMENT ON COLUMN subscriptions.quota_period_start IS 'Start of the period that the counters count, on a UTC hour.';
COMMENT ON COLUMN subscriptions.reset_at IS 'End of the quota period [quota_period_start, reset_at), on a UTC hour; NULL: it never ends.';
COMMENT ON COLUMN subscriptions.current_period_end IS 'End of the billing period [current_period_start, current_period_end).';

-- The quota rule, judged on the NEW row alone: so raising a quota together with the usage does not suspend, lowering it
-- does, and zeroed counters reactivate. Quota reasons are derived here and nowhere else; the others are kept as they are.
CREATE FUNCTION check_subscription_quota() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was subscription_status := CASE WHEN TG_OP = 'UPDATE' THEN OLD.status END;
BEGIN
    IF NEW.status NOT IN ('active', 'trialing', 'suspended') THEN
        NEW.suspended_reasons := '{}';
        NEW.status_before_suspension := NULL;
        RETURN NEW;
    END IF;

    NEW.suspended_reasons := array_remove(array_remove(NEW.suspended_reasons, 'quota_requests'), 'quota_tokens')
        || CASE WHEN NEW.used_requests >= NEW.quota_requests THEN ARRAY['quota_requests'] ELSE '{}' END
        || CASE WHEN NEW.used_tokens >= NEW.quota_tokens THEN ARRAY['quota_tokens'] ELSE '{}' END;

    IF NEW.suspended_reasons = '{}' AND NEW.status = 'suspended' AND was IS DISTINCT FROM 'suspended' THEN
        NEW.suspended_reasons := ARRAY['admin'];  -- suspended by hand, without a word why
    ELSIF NEW.suspended_reasons <> '{}' AND NEW.status <> 'suspended' AND was = 'suspended' THEN
        RAISE EXCEPTION USING ERRCODE = 'TS010',
            MESSAGE = format('subscription %s is suspended (%s) and cannot be made %s', NEW.id, array_to_string(NEW.suspended_reasons, ', '), NEW.status),
            HINT = 'Clear every reason (clear_suspension, a higher quota, the next quota period); it is then reactivated by itself.';
    END IF;

    IF NEW.suspended_reasons = '{}' THEN
        NEW.status := CASE WHEN NEW.status = 'suspended' THEN coalesce(NEW.status_before_suspension, 'active') ELSE NEW.status END;
        NEW.status_before_suspension := NULL;
    ELSIF NEW.status <> 'suspended' THEN
        NEW.status_before_suspension := NEW.status;
        NEW.status := 'suspended';
    ELSIF NEW.status_before_suspension IS NULL THEN
        NEW.status_before_suspension := CASE WHEN was = 'trialing' THEN was ELSE 'active' END;
    END IF;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION check_subscription_quota IS 'Trigger: derives the quota reasons from the new row, and the status from all reasons.';

CREATE FUNCTION check_subscription_transition() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    allowed boolean := CASE OLD.status
        WHEN 'pending'   THEN NEW.status IN ('trialing', 'active', 'cancelled', 'expired')
        WHEN 'trialing'  THEN NEW.status IN ('active', 'paused', 'suspended', 'cancelled', 'expired')
        WHEN 'active'    THEN NEW.status IN ('paused', 'suspended', 'cancelled', 'expired')
        WHEN 'paused'    THEN NEW.status IN ('active', 'cancelled', 'expired')
        WHEN 'suspended' THEN NEW.status IN ('active', 'trialing', 'cancelled', 'expired')
        WHEN 'expired'   THEN NEW.status IN ('active', 'cancelled')
        ELSE false  -- cancelled is final
    END;
BEGIN
    -- Resumed with its quota used up: on the way to active the quota rule has suspended it at once.
    allowed := allowed OR (OLD.status IN ('pending', 'paused', 'expired') AND NEW.status = 'suspended'
                           AND NEW.suspended_reasons <@ ARRAY['quota_requests', 'quota_tokens']);
    IF NOT allowed THEN
        RAISE EXCEPTION USING ERRCODE = 'TS010',
            MESSAGE = format('subscription %s is %s and cannot become %s', NEW.id, OLD.status, NEW.status),
            HINT = CASE OLD.status WHEN 'cancelled' THEN 'A cancelled subscription is final: make a new one.'
                                   ELSE 'docs/reference/schema.md draws the life of a subscription.' END;
    END IF;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION check_subscription_transition IS 'Trigger: refuses a change of status that the life of a subscription does not know (TS010).';

CREATE FUNCTION version_subscription_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.status_version := OLD.status_version + 1;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION version_subscription_status IS 'Trigger: numbers each change that gateways must hear of.';

CREATE FUNCTION audit_subscription() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_logs (user_id, action, resource_type, resource_id, before, after)
    VALUES (NEW.user_id,
            CASE WHEN NEW.status <> OLD.status THEN 'subscription.' || NEW.status ELSE 'subscription.changed' END,
            'subscription', NEW.id::text,
            jsonb_build_object('status', OLD.status, 'reasons', OLD.suspended_reasons, 'quota_requests', OLD.quota_requests, 'quota_tokens', OLD.quota_tokens),
            jsonb_build_object('status', NEW.status, 'reasons', NEW.suspended_reasons, 'quota_requests', NEW.quota_requests, 'quota_tokens', NEW.quota_tokens));
    RETURN NULL;
END $$;

COMMENT ON FUNCTION audit_subscription IS 'Trigger: writes each change of status, reasons or quota to audit_logs.';

-- Triggers of one kind fire in the order of their names: the rule first, then what judges and numbers its outcome.
CREATE TRIGGER enforce_subscription_quota BEFORE INSERT OR UPDATE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION check_subscription_quota();
CREATE TRIGGER enforce_subscription_transition BEFORE UPDATE ON subscriptions
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION check_subscription_transition();
CREATE TRIGGER number_subscription_status BEFORE UPDATE ON subscriptions
    FOR EACH ROW WHEN ((NEW.status, NEW.suspended_reasons, NEW.quota_requests, NEW.quota_tokens, NEW.quota_period_start, NEW.reset_at)
        IS DISTINCT FROM (OLD.status, OLD.suspended_reasons, OLD.quota_requests, OLD.quota_tokens, OLD.quota_period_start, OLD.reset_at))
    EXECUTE FUNCTION version_subscription_status();
CREATE TRIGGER update_subscriptions_updated_at BEFORE UPDATE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
CREATE TRIGGER write_subscription_audit AFTER UPDATE ON subscriptions
    FOR EACH ROW WHEN ((NEW.status, NEW.suspended_reasons, NEW.quota_requests, NEW.quota_tokens)
        IS DISTINCT FROM (OLD.status, OLD.suspended_reasons, OLD.quota_requests, OLD.quota_tokens))
    EXECUTE FUNCTION audit_subscription();

-- The two ways for any service to suspend and to lift a suspension, inside its own transaction.
CREATE FUNCTION suspend_subscription(id uuid, reason text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF reason IS NULL OR reason NOT IN ('credits_exhausted', 'payment_overdue', 'admin') THEN
        RAISE EXCEPTION USING ERRCODE = 'TS011',
            MESSAGE = format('a subscription cannot be suspended for %L', reason),
            HINT = 'Reasons are credits_exhausted, payment_overdue and admin; quota reasons follow from the counters by themselves.';
    END IF;
    UPDATE subscriptions s
    SET status = 'suspended', suspended_reasons = s.suspended_reasons || reason
    WHERE s.id = suspend_subscription.id AND s.status IN ('active', 'trialing', 'suspended') AND reason <> ALL (s.suspended_reasons);
    RETURN FOUND;
END $$;

COMMENT ON FUNCTION suspend_subscription IS 'Adds a reason to an active, trialing or suspended subscription. Returns whether anything changed.';

CREATE FUNCTION clear_suspension(id uuid, reason text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE subscriptions s SET suspended_reasons = array_remove(s.suspended_reasons, reason)
    WHERE s.id = clear_suspension.id AND reason = ANY (s.suspended_reasons) AND reason NOT IN ('quota_requests', 'quota_tokens');
    RETURN FOUND;
END $$;

COMMENT ON FUNCTION clear_suspension IS 'Takes a reason away; the subscription is reactivated when none is left. Returns whether anything changed.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Keys
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE api_keys (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    subscription_id uuid        NOT NULL,
    user_id         uuid        NOT NULL,
    name            text,
    key_hash        text        NOT NULL UNIQUE CHECK (length(key_hash) >= 43),
    key_prefix      varchar(10) NOT NULL,
    quota_requests_per_minute integer DEFAULT 60 CHECK (quota_requests_per_minute > 0),
    quota_requests_per_day    integer DEFAULT 10000 CHECK (quota_requests_per_day > 0),
    last_used_at    timestamptz,
    expires_at      timestamptz,
    is_active       boolean     NOT NULL DEFAULT true,
    created_at      timestamptz NOT NULL DEFAULT now(),
    revoked_at      timestamptz,
    CONSTRAINT key_of_the_subscriber FOREIGN KEY (subscription_id, user_id) REFERENCES subscriptions (id, user_id) ON DELETE RESTRICT,
    CONSTRAINT revoked_is_not_active CHECK (revoked_at IS NULL OR NOT is_active)
);

CREATE INDEX idx_api_keys_subscription ON api_keys (subscription_id);
CREATE INDEX idx_api_keys_user_id ON api_keys (user_id);
CREATE INDEX idx_api_keys_prefix ON api_keys (key_prefix);  -- a presented key is found by prefix, then compared in constant time

COMMENT ON TABLE  api_keys IS 'Keys that gateways accept, each of one subscription. Usage keeps the id of its key, so keys are revoked, not deleted.';
COMMENT ON COLUMN api_keys.user_id IS 'The owner of the subscription; filled in where it is not given.';
COMMENT ON COLUMN api_keys.key_hash IS 'SHA-256 or HMAC-SHA-256 of the key in hex. The key itself is shown once and stored nowhere.';
COMMENT ON COLUMN api_keys.key_prefix IS 'First characters of the key, to recognise it by.';
COMMENT ON COLUMN api_keys.quota_requests_per_minute IS 'NULL is unlimited.';
COMMENT ON COLUMN api_keys.quota_requests_per_day IS 'Per UTC day; NULL is unlimited.';

CREATE FUNCTION complete_api_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.user_id := coalesce(NEW.user_id, (SELECT s.user_id FROM subscriptions s WHERE s.id = NEW.subscription_id));
    NEW.is_active := NEW.is_active AND NEW.revoked_at IS NULL;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION complete_api_key IS 'Trigger: fills in the owner of a key; a revoked key is not active.';

CREATE TRIGGER complete_api_keys BEFORE INSERT OR UPDATE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION complete_api_key();

CREATE TABLE user_provider_keys (
    id                  uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id             uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    provider            text        NOT NULL,
    key_name            text        NOT NULL DEFAULT 'default',
    -- A Fernet token begins with its version byte 0x80, so a key in clear text cannot be stored here.
    encrypted_api_key   text        NOT NULL CHECK (encrypted_api_key LIKE 'gAAAA%'),
    encryption_key_id   text        NOT NULL DEFAULT 'primary',
    key_hint            varchar(8),
    is_default          boolean     NOT NULL DEFAULT false,
    is_active           boolean     NOT NULL DEFAULT true,
    last_used_at        timestamptz,
    monthly_requests    bigint      NOT NULL DEFAULT 0 CHECK (monthly_requests >= 0),
    monthly_tokens      bigint      NOT NULL DEFAULT 0 CHECK (monthly_tokens >= 0),
    usage_month         timestamptz NOT NULL DEFAULT date_trunc('month', now(), 'UTC'),
    total_requests      bigint      NOT NULL DEFAULT 0 CHECK (total_requests >= 0),
    rotated_at          timestamptz NOT NULL DEFAULT now(),
    rotation_due_at     timestamptz DEFAULT now() + interval '90 days',
    rotation_reminded_at timestamptz,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, provider, key_name),
    CHECK (is_active OR NOT is_default)
);

CREATE UNIQUE INDEX idx_user_provider_keys_default ON user_provider_keys (user_id, provider) WHERE is_default;  -- one default each
CREATE INDEX idx_user_provider_keys_rotation ON user_provider_keys (rotation_due_at) WHERE is_active;           -- rotation reminders

CREATE TRIGGER update_user_provider_keys_updated_at BEFORE UPDATE ON user_provider_keys
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE  user_provider_keys IS 'Keys of users at providers (bring your own key), encrypted.';
COMMENT ON COLUMN user_provider_keys.encrypted_api_key IS 'Fernet token. Never logged, never returned.';
COMMENT ON COLUMN user_provider_keys.encryption_key_id IS 'Which of the Fernet keys made the token: what a key rotation still has to do.';
COMMENT ON COLUMN user_provider_keys.key_hint IS 'Last characters of the key, to recognise it by.';
COMMENT ON COLUMN user_provider_keys.usage_month IS 'The month (its start, UTC) that monthly_requests and monthly_tokens count.';
COMMENT ON COLUMN user_provider_keys.rotation_due_at IS 'When the owner is reminded to change the key; NULL is never.';

CREATE TABLE provider_health (
    provider             text        PRIMARY KEY,
    status               text        NOT NULL DEFAULT 'healthy' CHECK (status IN ('healthy', 'degraded', 'down')),
    request_count        bigint      NOT NULL DEFAULT 0 CHECK (request_count >= 0),
    error_count          bigint      NOT NULL DEFAULT 0 CHECK (error_count >= 0),
    rate_limited_count   bigint      NOT NULL DEFAULT 0 CHECK (rate_limited_count >= 0),
    success_rate         numeric     CHECK (success_rate BETWEEN 0 AND 1),
    avg_latency_ms       numeric     CHECK (avg_latency_ms >= 0),
    p95_latency_ms       integer     CHECK (p95_latency_ms >= 0),
    consecutive_failures bigint      NOT NULL DEFAULT 0 CHECK (consecutive_failures >= 0),
    rate_limited         boolean     NOT NULL DEFAULT false,
    last_success_at      timestamptz,
    last_failure_at      timestamptz,
    window_start         timestamptz,
    window_end           timestamptz,
    updated_at           timestamptz NOT NULL DEFAULT now(),
    CHECK (error_count <= request_count AND rate_limited_count <= error_count),
    CHECK (window_end > window_start)
);

COMMENT ON TABLE  provider_health IS 'How each provider does, judged from the traffic of [window_start, window_end). Written by the aggregator.';
COMMENT ON COLUMN provider_health.p95_latency_ms IS 'Upper bound of the histogram bucket that holds the 95th percentile.';
COMMENT ON COLUMN provider_health.rate_limited IS 'Whether the provider answered 429 within the window.';
COMMENT ON COLUMN provider_health.success_rate IS 'Between 0 and 1; NULL without traffic.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The documentation server's own: outside the pipeline, its calls are usage by tool_name and library_id
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE libraries (
    id               text        PRIMARY KEY CHECK (id <> ''),
    name             text        NOT NULL,
    vendor           text,
    repo_url         text,
    docs_url         text,
    default_version  text,
    popularity_score integer     NOT NULL DEFAULT 0,
    total_snippets   bigint      NOT NULL DEFAULT 0 CHECK (total_snippets >= 0),
    total_tokens     bigint      NOT NULL DEFAULT 0 CHECK (total_tokens >= 0),
    last_crawled_at  timestamptz,
    metadata         jsonb       NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_libraries_name ON libraries USING gin (to_tsvector('english', name));  -- resolve-library-id

CREATE TRIGGER update_libraries_updated_at BEFORE UPDATE ON libraries
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE  libraries IS 'Libraries whose documentation the documentation server serves.';
COMMENT ON COLUMN libraries.id IS 'Path-like, e.g. /mongodb/docs; what usage_logs.library_id names.';

CREATE TABLE library_versions (
    id                uuid    PRIMARY KEY DEFAULT gen_random_uuid(),
    library_id        text    NOT NULL REFERENCES libraries (id) ON DELETE CASCADE,
    version           text    NOT NULL,
    release_date      date,
    is_latest         boolean NOT NULL DEFAULT false,
    docs_snapshot_url text,
    UNIQUE (library_id, version)
);

CREATE UNIQUE INDEX one_latest_version ON library_versions (library_id) WHERE is_latest;

COMMENT ON TABLE  library_versions IS 'Versions of a library; at most one is the latest.';
COMMENT ON COLUMN library_versions.docs_snapshot_url IS 'Where the snapshot of its documentation lies in object storage.';

CREATE TABLE documentation_chunks (
    id                 uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    library_version_id uuid        NOT NULL REFERENCES library_versions (id) ON DELETE CASCADE,
    chunk_index        integer     CHECK (chunk_index >= 0),
    content            text        NOT NULL,
    content_type       text        CHECK (content_type IN ('snippet', 'guide', 'api_ref')),
    source_url         text,
    token_count        integer     CHECK (token_count >= 0),
    embedding_id       text,
    metadata           jsonb       NOT NULL DEFAULT '{}',
    created_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (library_version_id, chunk_index)
);

COMMENT ON TABLE  documentation_chunks IS 'Pieces of documentation as the vector store knows them.';
COMMENT ON COLUMN documentation_chunks.embedding_id IS 'Id of the vector in the vector store.';

-- migrate:up
-- Plans with versions, the history of what each subscription was on, scheduled changes, coupons; prices by a unit of their own.
--
-- A charge of the past follows from what was in force then: so terms are dated and never edited, and a change of plan never changes
-- what was charged before it.

-- ---------------------------------------------------------------------------------------------------------------------
-- What a plan asks for, by versions
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE plan_versions (
    id             uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    plan_id        text        NOT NULL REFERENCES plans (id) ON DELETE CASCADE,
    valid_from     timestamptz NOT NULL,
    amount         numeric     NOT NULL CHECK (amount >= 0 AND amount < 'Infinity'),
    currency       varchar(3)  NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    interval       text        NOT NULL CHECK (interval IN ('month', 'year')),
    interval_count integer     NOT NULL DEFAULT 1 CHECK (interval_count BETWEEN 1 AND 120),
    billing_periods text       NOT NULL DEFAULT 'anchored' CHECK (billing_periods IN ('anchored', 'calendar')),
    fee_timing     text        NOT NULL DEFAULT 'advance' CHECK (fee_timing IN ('advance', 'arrears')),
    trial_days     integer     NOT NULL DEFAULT 0 CHECK (trial_days BETWEEN 0 AND 3650),
    limits         jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(limits) = 'object'),
    hard_limits    boolean     NOT NULL DEFAULT true,
    usage          text        NOT NULL DEFAULT 'priced' CHECK (usage IN ('priced', 'included')),
    meters         jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(meters) = 'array'),
    minimum        numeric     CHECK (minimum > 0 AND minimum < 'Infinity'),
    note           text,
    created_by     text        NOT NULL DEFAULT coalesce(nullif(current_setting('tallystick.actor', true), ''), session_user),
    created_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (plan_id, valid_from)
);

COMMENT ON TABLE  plan_versions IS 'What a plan asks for: each version from valid_from until the next one. A billing interval goes by the version in force when it began.';
COMMENT ON COLUMN plan_versions.amount IS 'Flat fee of one interval, in currency.';
COMMENT ON COLUMN plan_versions.billing_periods IS 'anchored: intervals begin on the day and time at which the subscription did; calendar: on the first of a month, UTC.';
COMMENT ON COLUMN plan_versions.fee_timing IS 'advance: the fee falls due when its interval begins; arrears: when it ends.';
COMMENT ON COLUMN plan_versions.trial_days IS 'Days without a fee at the beginning of a subscription.';
COMMENT ON COLUMN plan_versions.limits IS 'requestsPerMonth, tokensPerMonth, concurrentRequests: become the quotas of a subscription where hard_limits.';
COMMENT ON COLUMN plan_versions.hard_limits IS 'Whether reaching a limit suspends; if not, usage goes on and the meters charge for it.';
COMMENT ON COLUMN plan_versions.usage IS 'priced: usage costs its price of model_prices; included: the plan covers it, only meters charge.';
COMMENT ON COLUMN plan_versions.meters IS 'What is counted per interval and charged beyond what is included: [{key, measure, included, mode, tiers, …}]; services/billing/plans/terms.py reads it.';
COMMENT ON COLUMN plan_versions.minimum IS 'What an interval costs at least, fee and usage before discounts; NULL: nothing.';

CREATE FUNCTION protect_plan_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    first plan_versions;
BEGIN
    IF TG_OP = 'DELETE' AND (OLD.valid_from > now() OR NOT EXISTS (SELECT FROM plans WHERE id = OLD.plan_id)) THEN
        RETURN OLD;  -- it never applied, or the whole plan was never subscribed to
    ELSIF TG_OP = 'INSERT' THEN
        SELECT * INTO first FROM plan_versions WHERE plan_id = NEW.plan_id ORDER BY valid_from LIMIT 1;
        IF first.id IS NULL THEN
            NEW.valid_from := '-infinity';
            RETURN NEW;
        ELSIF NEW.valid_from < now() THEN
            RAISE EXCEPTION USING ERRCODE = 'TS003',
                MESSAGE = format('a version of plan %s cannot begin in the past (%s): what was charged by the one before it stands', NEW.plan_id, NEW.valid_from);
        ELSIF (NEW.interval, NEW.interval_count, NEW.billing_periods, NEW.currency)
              IS DISTINCT FROM (first.interval, first.interval_count, first.billing_periods, first.currency) THEN
            RAISE EXCEPTION USING ERRCODE = 'TS003',
                MESSAGE = format('the interval, its beginning and the currency of plan %s are fixed', NEW.plan_id),
                HINT = 'Make another plan, and let subscriptions change to it.';
        END IF;
        RETURN NEW;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'TS003',
        MESSAGE = format('version %s of plan %s may have been charged by: %s is refused', OLD.valid_from, OLD.plan_id, TG_OP),
        HINT = 'Add a version that begins later.';
END $$;

COMMENT ON FUNCTION protect_plan_version IS 'Trigger: the first version of a plan has always applied, later ones begin in the future, and none is ever edited (TS003).';

CREATE TRIGGER protect_plan_versions BEFORE INSERT OR UPDATE OR DELETE ON plan_versions
    FOR EACH ROW EXECUTE FUNCTION protect_plan_version();

-- Who makes or changes a plan as a row of `plans` makes a version by it.
CREATE FUNCTION version_plan() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    present plan_versions;
BEGIN
    IF current_setting('tallystick.plan_version', true) = 'given' THEN
        RETURN NULL;  -- who makes the plan makes its version, too
    END IF;
    SELECT * INTO present FROM plan_versions WHERE plan_id = NEW.id AND valid_from <= now() ORDER BY valid_from DESC LIMIT 1;
    IF present.id IS NULL THEN
        INSERT INTO plan_versions (plan_id, valid_from, amount, currency, interval, interval_count, limits)
        VALUES (NEW.id, '-infinity', NEW.amount, NEW.currency, NEW.interval, NEW.interval_count, NEW.limits);
    ELSIF (NEW.amount, NEW.currency, NEW.interval, NEW.interval_count, NEW.limits)
          IS DISTINCT FROM (present.amount, present.currency, present.interval, present.interval_count, present.limits) THEN
        INSERT INTO plan_versions (plan_id, valid_from, amount, currency, interval, interval_count, billing_periods, fee_timing, trial_days,
                                   limits, hard_limits, usage, meters, minimum)
        VALUES (NEW.id, now(), NEW.amount, NEW.currency, NEW.interval, NEW.interval_count, present.billing_periods, present.fee_timing,
                present.trial_days, NEW.limits, present.hard_limits, present.usage, present.meters, present.minimum);
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION version_plan IS 'Trigger: a new plan has a first version, and a change of its fee or limits is a version from now on.';

CREATE TRIGGER version_plans AFTER INSERT OR UPDATE OF amount, currency, interval, interval_count, limits ON plans
    FOR EACH ROW EXECUTE FUNCTION version_plan();

COMMENT ON COLUMN plans.amount IS 'Flat fee of one interval, in currency, as the version in force has it (plan_versions).';

-- What the seeds' plans mean: limits are what the fee includes. Plans that an operator made or changed stay priced.
INSERT INTO plan_versions (plan_id, valid_from, amount, currency, interval, interval_count, limits, usage, trial_days, hard_limits, meters)
SELECT p.id, '-infinity', p.amount, p.currency, p.interval, p.interval_count, p.limits,
       CASE WHEN p.id IN ('free', 'basic', 'premium') AND p.created_at = p.updated_at AND NOT used.already THEN 'included' ELSE 'priced' END,
       CASE WHEN p.id IN ('basic', 'premium') AND NOT used.already THEN 14 ELSE 0 END,
       p.id <> 'premium' OR used.already,
       CASE WHEN p.id = 'premium' AND p.created_at = p.updated_at AND NOT used.already THEN
           '[{"key": "requests", "name": "requests", "measure": "requests", "included": 100000, "mode": "graduated",
              "tiers": [{"up_to": 400000, "unit_price": "0.0005"}, {"unit_price": "0.0004"}]},
             {"key": "tokens", "name": "tokens", "measure": "tokens", "included": 10000000, "mode": "package",
              "package_size": 1000000, "package_price": "2.50"}]'::jsonb
           ELSE '[]' END
FROM plans p CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM subscriptions s WHERE s.plan_id = p.id) AS already) AS used;

-- ---------------------------------------------------------------------------------------------------------------------
-- What each subscription was on, and since when
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE subscriptions
    ADD COLUMN billing_anchor timestamptz;

COMMENT ON COLUMN subscriptions.billing_anchor IS 'What the billing intervals are counted from; NULL: from its beginning. Moves at the end of a trial, and when a plan with another interval is taken.';

CREATE TABLE subscription_terms (
    subscription_id uuid        NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    valid_from      timestamptz NOT NULL CHECK (valid_from = date_trunc('second', valid_from)),
    phase           text        NOT NULL CHECK (phase IN ('pending', 'trial', 'live', 'paused', 'ended')),
    plan_id         text        REFERENCES plans (id) ON DELETE RESTRICT,
    amount          numeric     NOT NULL,
    currency        varchar(3)  NOT NULL,
    interval        text        NOT NULL,
    interval_count  integer     NOT NULL,
    billing_mode    text        NOT NULL,
    anchor          timestamptz NOT NULL CHECK (anchor = date_trunc('second', anchor)),
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription_id, valid_from)
);

COMMENT ON TABLE  subscription_terms IS 'What a subscription was charged by, each row until the next one. Kept by a trigger on subscriptions; charges follow from it.';
COMMENT ON COLUMN subscription_terms.phase IS 'live: active or suspended; the others as the status. Only what is live pays fees.';
COMMENT ON COLUMN subscription_terms.amount IS 'A fee of its own in place of the plan''s; 0: the plan''s.';
COMMENT ON COLUMN subscription_terms.anchor IS 'What its billing intervals are counted from.';

CREATE FUNCTION subscription_phase(s subscriptions) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE CASE s.status WHEN 'suspended' THEN s.status_before_suspension ELSE s.status END
           WHEN 'pending' THEN 'pending' WHEN 'trialing' THEN 'trial' WHEN 'active' THEN 'live' WHEN 'paused' THEN 'paused' ELSE 'ended' END
$$;

COMMENT ON FUNCTION subscription_phase IS 'What a status means to charges; a suspended subscription is charged as before.';

CREATE INDEX idx_subscriptions_trial ON subscriptions (trial_end) WHERE trial_end IS NOT NULL;  -- trials that end

-- A change that was due earlier than it is made says so by the setting tallystick.effective_at; never before what is recorded already.
CREATE FUNCTION keep_subscription_terms() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    began  timestamptz := date_trunc('second', least(NEW.current_period_start, NEW.created_at));
    at     timestamptz := date_trunc('second', coalesce(nullif(current_setting('tallystick.effective_at', true), '')::timestamptz, now()));
    latest subscription_terms;
    wanted subscription_terms;
BEGIN
    IF TG_OP = 'UPDATE' AND began < date_trunc('second', least(OLD.current_period_start, OLD.created_at)) THEN
        UPDATE subscription_terms t
        SET valid_from = began, anchor = date_trunc('second', coalesce(NEW.billing_anchor, NEW.current_period_start, NEW.created_at))
        WHERE t.subscription_id = NEW.id AND t.valid_from > began
          AND t.valid_from = (SELECT min(f.valid_from) FROM subscription_terms f WHERE f.subscription_id = NEW.id);
    END IF;
    SELECT * INTO latest FROM subscription_terms t WHERE t.subscription_id = NEW.id ORDER BY t.valid_from DESC LIMIT 1;
    wanted := ROW(NEW.id, CASE WHEN latest.subscription_id IS NULL THEN began ELSE greatest(at, latest.valid_from) END, subscription_phase(NEW), NEW.plan_id, NEW.amount, NEW.currency,
                  NEW.interval, NEW.interval_count, NEW.billing_mode,
                  date_trunc('second', coalesce(NEW.billing_anchor, latest.anchor, NEW.current_period_start, NEW.created_at)), now());
    IF (wanted.phase, wanted.plan_id, wanted.amount, wanted.currency, wanted.interval, wanted.interval_count, wanted.billing_mode, wanted.anchor)
       IS NOT DISTINCT FROM
       (latest.phase, latest.plan_id, latest.amount, latest.currency, latest.interval, latest.interval_count, latest.billing_mode, latest.anchor) THEN
        RETURN NULL;
    END IF;
    INSERT INTO subscription_terms SELECT (wanted).*
    ON CONFLICT (subscription_id, valid_from) DO UPDATE SET
        phase = excluded.phase, plan_id = excluded.plan_id, amount = excluded.amount, currency = excluded.currency, interval = excluded.interval,
        interval_count = excluded.interval_count, billing_mode = excluded.billing_mode, anchor = excluded.anchor, recorded_at = excluded.recorded_at;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION keep_subscription_terms IS 'Trigger: records what a subscription is charged by, and since when.';

CREATE TRIGGER keep_new_subscription_terms AFTER INSERT ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION keep_subscription_terms();
CREATE TRIGGER keep_subscription_terms AFTER UPDATE ON subscriptions
    FOR EACH ROW WHEN (
        (NEW.status, NEW.plan_id, NEW.amount, NEW.currency, NEW.interval, NEW.interval_count, NEW.billing_mode, NEW.billing_anchor, NEW.created_at, NEW.current_period_start)
        IS DISTINCT FROM
        (OLD.status, OLD.plan_id, OLD.amount, OLD.currency, OLD.interval, OLD.interval_count, OLD.billing_mode, OLD.billing_anchor, OLD.created_at, OLD.current_period_start))
    EXECUTE FUNCTION keep_subscription_terms();

INSERT INTO subscription_terms
SELECT s.id, date_trunc('second', least(s.current_period_start, s.created_at)), subscription_phase(s), s.plan_id, s.amount, s.currency, s.interval,
       s.interval_count, s.billing_mode, date_trunc('second', coalesce(s.current_period_start, s.created_at)), now()
FROM subscriptions s;

CREATE TABLE subscription_changes (
    id              uuid        PRIMARY KEY,
    subscription_id uuid        NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    kind            text        NOT NULL CHECK (kind IN ('plan', 'cancel', 'pause', 'resume')),
    effective_at    timestamptz NOT NULL CHECK (effective_at = date_trunc('second', effective_at)),
    to_plan_id      text        REFERENCES plans (id) ON DELETE RESTRICT,
    requested_by    text        NOT NULL CHECK (requested_by <> ''),
    why             text,
    requested_at    timestamptz NOT NULL DEFAULT now(),
    applied_at      timestamptz,
    withdrawn_at    timestamptz,
    refused_at      timestamptz,
    refusal         text,
    CONSTRAINT plan_change_names_plan CHECK ((kind = 'plan') = (to_plan_id IS NOT NULL)),
    CONSTRAINT settled_once CHECK (num_nonnulls(applied_at, withdrawn_at, refused_at) <= 1),
    CONSTRAINT refused_with_reason CHECK ((refused_at IS NULL) = (refusal IS NULL))
);

CREATE UNIQUE INDEX one_open_change_of_a_kind ON subscription_changes (subscription_id, kind)
    WHERE applied_at IS NULL AND withdrawn_at IS NULL AND refused_at IS NULL;
CREATE INDEX idx_subscription_changes_due ON subscription_changes (effective_at)
    WHERE applied_at IS NULL AND withdrawn_at IS NULL AND refused_at IS NULL;

CREATE FUNCTION audit_subscription_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO audit_logs (user_id, action, resource_type, resource_id, after, details)
    SELECT s.user_id, 'subscription.change_' || CASE WHEN NEW.refused_at IS NOT NULL THEN 'refused' WHEN NEW.withdrawn_at IS NOT NULL THEN 'withdrawn'
                                                ELSE 'scheduled' END,
           'subscription', s.id::text, to_jsonb(NEW),
           CASE WHEN current_setting('tallystick.why', true) <> '' THEN jsonb_build_object('why', current_setting('tallystick.why', true)) END
    FROM subscriptions s WHERE s.id = NEW.subscription_id;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION audit_subscription_change IS 'Trigger: writes to audit_logs that a change was asked for, taken back or refused; that it was made is seen on the subscription.';

CREATE TRIGGER audit_new_subscription_changes AFTER INSERT ON subscription_changes
    FOR EACH ROW EXECUTE FUNCTION audit_subscription_change();
CREATE TRIGGER audit_subscription_changes AFTER UPDATE ON subscription_changes
    FOR EACH ROW WHEN (NEW.applied_at IS NULL) EXECUTE FUNCTION audit_subscription_change();

COMMENT ON TABLE  subscription_changes IS 'Changes of subscriptions that were asked for ahead of their time: applied by a job at effective_at, withdrawn, or refused with the reason.';

-- Billing's job makes what is due of subscriptions' life with the rights of the owner, through this alone.
CREATE FUNCTION save_subscription(
    p_id uuid, p_status text, p_before_suspension text, p_plan_id text, p_amount numeric, p_currency text, p_interval text, p_interval_count integer,
    p_quota_requests bigint, p_quota_tokens bigint, p_billing_anchor timestamptz, p_period_start timestamptz, p_period_end timestamptz,
    p_cancel_at_period_end boolean, p_expires_at timestamptz, p_since timestamptz
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('tallystick.effective_at', p_since::text, true);
    UPDATE subscriptions
    SET status = p_status::subscription_status, status_before_suspension = p_before_suspension::subscription_status, plan_id = p_plan_id,
        amount = p_amount, currency = p_currency, interval = p_interval, interval_count = p_interval_count, quota_requests = p_quota_requests,
        quota_tokens = p_quota_tokens, billing_anchor = p_billing_anchor, current_period_start = p_period_start,
        current_period_end = p_period_end, cancel_at_period_end = p_cancel_at_period_end, expires_at = p_expires_at
    WHERE id = p_id;
    RETURN FOUND;
END $$;

COMMENT ON FUNCTION save_subscription IS 'Stores a subscription as a step of its life left it, charged so since p_since. What is possible is judged by the triggers.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Coupons
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE coupons (
    code            text        PRIMARY KEY CHECK (code ~ '^[A-Z0-9][A-Z0-9_-]{0,63}$'),
    name            text        NOT NULL CHECK (name <> ''),
    percent         numeric     CHECK (percent > 0 AND percent <= 100),
    amount_off      numeric     CHECK (amount_off > 0 AND amount_off < 'Infinity'),
    currency        varchar(3)  CHECK (currency ~ '^[A-Z]{3}$'),
    applies_to      text        NOT NULL DEFAULT 'all' CHECK (applies_to IN ('fee', 'all')),
    plan_ids        text[]      CHECK (plan_ids <> '{}'),
    periods         integer     CHECK (periods > 0),
    valid_from      timestamptz NOT NULL DEFAULT now(),
    valid_to        timestamptz,
    max_redemptions integer     CHECK (max_redemptions > 0),
    redemptions     integer     NOT NULL DEFAULT 0,
    created_by      text        NOT NULL DEFAULT coalesce(nullif(current_setting('tallystick.actor', true), ''), session_user),
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT percent_or_amount CHECK (num_nonnulls(percent, amount_off) = 1),
    CONSTRAINT amount_has_currency CHECK ((amount_off IS NULL) = (currency IS NULL)),
    CONSTRAINT amount_is_off_the_fee CHECK (amount_off IS NULL OR applies_to = 'fee'),
    CONSTRAINT validity_is_half_open CHECK (valid_from < valid_to),
    CONSTRAINT redeemed_within_limit CHECK (redemptions >= 0 AND redemptions <= max_redemptions)
);

COMMENT ON TABLE  coupons IS 'Discounts that subscriptions can redeem. What a coupon gives is fixed; how long and how often it may be redeemed can change.';
COMMENT ON COLUMN coupons.percent IS 'Per cent off; or amount_off the fee of each interval, never below zero.';
COMMENT ON COLUMN coupons.applies_to IS 'fee: the flat fee; all: usage and overage as well.';
COMMENT ON COLUMN coupons.plan_ids IS 'The plans that it is for; NULL: every subscription.';
COMMENT ON COLUMN coupons.periods IS 'For how many billing intervals it counts, from the first that begins once it is redeemed; NULL: for ever.';
COMMENT ON COLUMN coupons.redemptions IS 'How often it was redeemed; its row lock orders those who redeem.';

CREATE FUNCTION protect_coupon() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    open text[] := ARRAY['valid_to', 'max_redemptions', 'redemptions', 'name'];
BEGIN
    IF to_jsonb(NEW) - open = to_jsonb(OLD) - open THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'TS003',
        MESSAGE = format('what coupon %s gives is fixed', OLD.code),
        HINT = 'End it by valid_to and make another one.';
END $$;

COMMENT ON FUNCTION protect_coupon IS 'Trigger: what a coupon gives never changes (TS003).';

CREATE TRIGGER protect_coupons BEFORE UPDATE ON coupons
    FOR EACH ROW EXECUTE FUNCTION protect_coupon();

CREATE TABLE coupon_redemptions (
    id              uuid        PRIMARY KEY,
    code            text        NOT NULL REFERENCES coupons (code) ON DELETE RESTRICT,
    subscription_id uuid        NOT NULL REFERENCES subscriptions (id) ON DELETE RESTRICT,
    redeemed_at     timestamptz NOT NULL CHECK (redeemed_at = date_trunc('second', redeemed_at)),
    redeemed_by     text        NOT NULL CHECK (redeemed_by <> ''),
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (code, subscription_id)
);

CREATE INDEX idx_coupon_redemptions_subscription ON coupon_redemptions (subscription_id);

CREATE TRIGGER coupon_redemptions_append_only BEFORE UPDATE OR DELETE ON coupon_redemptions
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

COMMENT ON TABLE coupon_redemptions IS 'Which subscription redeemed which coupon, once.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The audit trail of subscriptions says why, and tells of plan, fee and dates, too
-- ---------------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION audit_subscription() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    watched text[] := ARRAY['plan_id', 'amount', 'currency', 'interval', 'interval_count', 'billing_mode', 'billing_anchor', 'trial_end',
                            'cancel_at_period_end', 'expires_at'];
    was     jsonb := to_jsonb(OLD);
    becomes jsonb := to_jsonb(NEW);
BEGIN
    SELECT coalesce(array_agg(name), '{}') INTO watched FROM unnest(watched) AS name WHERE was -> name IS DISTINCT FROM becomes -> name;
    INSERT INTO audit_logs (user_id, action, resource_type, resource_id, before, after, details)
    SELECT NEW.user_id,
           CASE WHEN NEW.status <> OLD.status THEN 'subscription.' || NEW.status
                WHEN NEW.plan_id IS DISTINCT FROM OLD.plan_id THEN 'subscription.plan_changed' ELSE 'subscription.changed' END,
           'subscription', NEW.id::text,
           jsonb_build_object('status', OLD.status, 'reasons', OLD.suspended_reasons, 'quota_requests', OLD.quota_requests, 'quota_tokens', OLD.quota_tokens)
               || coalesce((SELECT jsonb_object_agg(name, was -> name) FROM unnest(watched) AS name), '{}'),
           jsonb_build_object('status', NEW.status, 'reasons', NEW.suspended_reasons, 'quota_requests', NEW.quota_requests, 'quota_tokens', NEW.quota_tokens)
               || coalesce((SELECT jsonb_object_agg(name, becomes -> name) FROM unnest(watched) AS name), '{}'),
           CASE WHEN current_setting('tallystick.why', true) <> '' THEN jsonb_build_object('why', current_setting('tallystick.why', true)) END;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION audit_subscription IS 'Trigger: writes each change of status, reasons, quota, plan, fee or dates to audit_logs, with the reason in the setting tallystick.why.';

DROP TRIGGER write_subscription_audit ON subscriptions;
CREATE TRIGGER write_subscription_audit AFTER UPDATE ON subscriptions
    FOR EACH ROW WHEN (
        (NEW.status, NEW.suspended_reasons, NEW.quota_requests, NEW.quota_tokens, NEW.plan_id, NEW.amount, NEW.currency, NEW.interval,
         NEW.interval_count, NEW.billing_mode, NEW.billing_anchor, NEW.trial_end, NEW.cancel_at_period_end, NEW.expires_at)
        IS DISTINCT FROM
        (OLD.status, OLD.suspended_reasons, OLD.quota_requests, OLD.quota_tokens, OLD.plan_id, OLD.amount, OLD.currency, OLD.interval,
         OLD.interval_count, OLD.billing_mode, OLD.billing_anchor, OLD.trial_end, OLD.cancel_at_period_end, OLD.expires_at))
    EXECUTE FUNCTION audit_subscription();

-- ---------------------------------------------------------------------------------------------------------------------
-- Prices by a unit of their own: seconds of latency, tokens that a tool returned
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE model_prices
    ADD COLUMN unit                text    CHECK (unit IN ('second', 'returned_token')),
    ADD COLUMN price_per_unit      numeric NOT NULL DEFAULT 0,
    ADD COLUMN cost_price_per_unit numeric,
    ADD CONSTRAINT unit_prices_are_finite CHECK
        (price_per_unit >= 0 AND price_per_unit < 'Infinity' AND (cost_price_per_unit >= 0 AND cost_price_per_unit < 'Infinity') IS NOT FALSE),
    ADD CONSTRAINT priced_unit_is_named CHECK (unit IS NOT NULL OR (price_per_unit = 0 AND cost_price_per_unit IS NULL));

COMMENT ON COLUMN model_prices.unit IS 'What price_per_unit is for: second (of the latency that the gateway reports) or returned_token (of a tool); NULL: nothing.';

CREATE OR REPLACE VIEW current_model_prices AS
SELECT * FROM model_prices WHERE valid_from <= now() AND (valid_to IS NULL OR valid_to > now());

ALTER TABLE rated_usage
    ADD COLUMN latency_ms bigint NOT NULL DEFAULT 0;

COMMENT ON COLUMN rated_usage.latency_ms IS 'Sum of the latencies that were reported: the quantity of prices per second.';

-- As before for rows without latency, so that the checksums of lines that exist stay true.
CREATE OR REPLACE FUNCTION rated_usage_digest(r rated_usage) RETURNS numeric LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ('x' || encode(substr(sha256(convert_to((jsonb_build_array(
        r.subscription_id, extract(epoch FROM r.hour)::bigint, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class,
        r.rating_run_id, r.requests, r.request_tokens, r.response_tokens, r.cached_tokens,
        r.price_id, trim_scale(r.multiplier), trim_scale(r.amount)) || CASE WHEN r.latency_ms = 0 THEN '[]' ELSE to_jsonb(r.latency_ms) END)::text,
        'UTF8')), 1, 8), 'hex'))::bit(64)::bigint::numeric
$$;

DROP TRIGGER protect_rated_usage ON rated_usage;
CREATE TRIGGER protect_rated_usage BEFORE UPDATE ON rated_usage
    FOR EACH ROW WHEN (
        (NEW.subscription_id, NEW.hour, NEW.model_id, NEW.tool_name, NEW.feature_type, NEW.power_level, NEW.byok, NEW.status_class,
         NEW.rating_run_id, NEW.user_id, NEW.billing_mode, NEW.requests, NEW.errors, NEW.request_tokens, NEW.response_tokens,
         NEW.cached_tokens, NEW.tokens_returned, NEW.latency_ms, NEW.first_event_at, NEW.last_event_at)
        IS DISTINCT FROM
        (OLD.subscription_id, OLD.hour, OLD.model_id, OLD.tool_name, OLD.feature_type, OLD.power_level, OLD.byok, OLD.status_class,
         OLD.rating_run_id, OLD.user_id, OLD.billing_mode, OLD.requests, OLD.errors, OLD.request_tokens, OLD.response_tokens,
         OLD.cached_tokens, OLD.tokens_returned, OLD.latency_ms, OLD.first_event_at, OLD.last_event_at)
        OR (OLD.amount IS NOT NULL
            AND (NEW.price_id, NEW.multiplier, NEW.currency, NEW.amount, NEW.cost_amount, NEW.rated_at)
                IS DISTINCT FROM (OLD.price_id, OLD.multiplier, OLD.currency, OLD.amount, OLD.cost_amount, OLD.rated_at))
        OR (num_nonnulls(OLD.settlement_id, OLD.invoice_line_id) > 0
            AND (NEW.settlement_id, NEW.invoice_line_id) IS DISTINCT FROM (OLD.settlement_id, OLD.invoice_line_id)))
    EXECUTE FUNCTION protect_rated_usage();

ALTER TABLE invoice_lines
    DROP CONSTRAINT invoice_lines_component_check,
    ADD CONSTRAINT invoice_lines_component_check CHECK (component IN ('requests', 'input', 'cached_input', 'output', 'units'));

-- ---------------------------------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------------------------------

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_billing', 'plan_versions', 'SELECT', NULL),
    ('tallystick_billing', 'subscription_terms', 'SELECT', NULL),
    ('tallystick_billing', 'subscription_changes', 'SELECT', NULL),
    ('tallystick_billing', 'subscription_changes', 'UPDATE', '{applied_at,refused_at,refusal}'),
    ('tallystick_billing', 'coupons', 'SELECT', NULL),
    ('tallystick_billing', 'coupon_redemptions', 'SELECT', NULL),
    ('tallystick_billing', 'plans', 'UPDATE', '{amount,limits}'),  -- they show the version in force
    -- What its jobs apply when it is due: the end of a trial, a scheduled change, expiry.
    ('tallystick_billing', 'save_subscription', 'EXECUTE', NULL),
    ('tallystick_billing', 'subscriptions', 'UPDATE', '{updated_at}');  -- for its row lock

REVOKE ALL ON FUNCTION keep_subscription_terms(), audit_subscription_change() FROM PUBLIC;

-- migrate:up
-- Runs of jobs that a person asked for; alerts by the choice of a user; webhooks with a log of their deliveries.

-- ---------------------------------------------------------------------------------------------------------------------
-- Jobs
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE job_runs
    ADD COLUMN attempts integer NOT NULL DEFAULT 1 CHECK (attempts > 0),
    ADD COLUMN asked_by text CHECK (asked_by <> '');

COMMENT ON COLUMN job_runs.started_at IS 'When the last attempt began.';
COMMENT ON COLUMN job_runs.attempts IS 'How often the run was made: more than once where it failed before.';
COMMENT ON COLUMN job_runs.asked_by IS 'Who asked for the run by hand; NULL: the timer. Runs by hand do not move the schedule on.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Alerts
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE billing_alerts
    DROP CONSTRAINT billing_alerts_type_check,
    ADD CONSTRAINT billing_alerts_type_check CHECK (type IN
        ('usage_threshold', 'payment_failed', 'invoice_overdue', 'subscription_expiring', 'low_balance', 'credits_exhausted', 'unrated_usage',
         'webhook_disabled'));

-- What a user wants to be told. Without a row: everything, at the thresholds of the installation.
CREATE TABLE alert_settings (
    user_id    uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    kind       text        NOT NULL CHECK (kind IN
               ('usage_threshold', 'spend', 'payment_failed', 'invoice_overdue', 'subscription_expiring', 'low_balance', 'credits_exhausted',
                'unrated_usage', 'webhook_disabled')),
    enabled    boolean     NOT NULL DEFAULT true,
    thresholds numeric[]   CHECK (thresholds <> '{}' AND array_position(thresholds, NULL) IS NULL AND 0 < ALL (thresholds) AND cardinality(thresholds) <= 20),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, kind),
    CONSTRAINT thresholds_have_a_measure CHECK (thresholds IS NULL OR kind IN ('usage_threshold', 'spend', 'subscription_expiring'))
);

COMMENT ON TABLE  alert_settings IS 'Which alerts a user wants, and at which thresholds. Written by billing.';
COMMENT ON COLUMN alert_settings.kind IS 'A type of billing_alerts; spend is usage_threshold in money.';
COMMENT ON COLUMN alert_settings.thresholds IS 'Per cent of a quota (usage_threshold), amounts of money in a calendar month and currency (spend), days ahead (subscription_expiring).';

-- A trigger, because services raise alerts in statements of their own: what a user does not want becomes no row, whoever raises it.
CREATE FUNCTION respect_alert_settings() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted text := CASE WHEN NEW.type = 'usage_threshold' AND NEW.metadata ->> 'dimension' = 'amount' THEN 'spend' ELSE NEW.type END;
BEGIN
    IF EXISTS (SELECT FROM alert_settings s
               WHERE s.user_id = NEW.user_id AND s.kind = wanted
                 AND (NOT s.enabled OR (s.kind = 'usage_threshold' AND NEW.threshold <> ALL (s.thresholds))))
       OR EXISTS (SELECT FROM users u WHERE u.id = NEW.user_id AND u.notification_preferences -> wanted = 'false') THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;

COMMENT ON FUNCTION respect_alert_settings IS 'Trigger: an alert that its user does not want, by alert_settings or users.notification_preferences, is not stored.';

CREATE TRIGGER respect_alert_settings BEFORE INSERT ON billing_alerts FOR EACH ROW EXECUTE FUNCTION respect_alert_settings();

-- A balance that falls below its threshold by an entry that somebody posts directly is told of by the ledger itself
-- (post_credit_transaction), which knows no outbox: its event follows from the alert. Settlements announce theirs themselves.
CREATE FUNCTION announce_low_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO billing_outbox (id, topic, key, value, headers)
    SELECT NEW.id, 'billing.events', convert_to(NEW.user_id::text, 'UTF8'), convert_to(jsonb_build_object(
               'id', NEW.id, 'type', 'tallystick.credits.low.v1', 'time', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
               'subject', NEW.user_id, 'source', 'tallystick/billing', 'specversion', '1.0', 'datacontenttype', 'application/json',
               'data', jsonb_build_object('balance', trim_scale(NEW.current_value)::text, 'threshold', trim_scale(NEW.threshold)::text,
                                          'owed', trim_scale(c.owed)::text, 'transaction', substr(NEW.cause, 7)))::text, 'UTF8'),
           '{"content-type": "application/cloudevents+json"}'
    FROM user_credits c WHERE c.user_id = NEW.user_id;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION announce_low_balance IS 'Trigger: puts the event of a low balance that the ledger has told of into the outbox.';

CREATE TRIGGER announce_low_balance AFTER INSERT ON billing_alerts FOR EACH ROW
    WHEN (NEW.type = 'low_balance' AND NEW.cause LIKE 'entry %') EXECUTE FUNCTION announce_low_balance();

-- ---------------------------------------------------------------------------------------------------------------------
-- Webhooks
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE webhook_endpoints (
    id                        uuid        PRIMARY KEY,
    user_id                   uuid        REFERENCES users (id) ON DELETE RESTRICT,
    url                       text        NOT NULL CHECK (url ~ '^https?://[^\s]+$' AND length(url) <= 2048),
    description               text        NOT NULL DEFAULT '',
    event_types               text[]      NOT NULL DEFAULT '{}' CHECK (array_position(event_types, NULL) IS NULL AND array_position(event_types, '') IS NULL),
    encrypted_secret          bytea       NOT NULL CHECK (length(encrypted_secret) > 0),
    encrypted_previous_secret bytea,
    previous_until     timestamptz,
    enabled                   boolean     NOT NULL DEFAULT true,
    disabled_at               timestamptz,
    disabled_reason           text,
    failures                  integer     NOT NULL DEFAULT 0 CHECK (failures >= 0),
    failing_since             timestamptz,
    created_at                timestamptz NOT NULL DEFAULT now(),
    created_by                text        NOT NULL CHECK (created_by <> ''),
    CONSTRAINT disabled_with_reason CHECK (CASE WHEN enabled THEN disabled_at IS NULL AND disabled_reason IS NULL
                                                ELSE (disabled_at IS NOT NULL AND disabled_reason <> '') IS TRUE END),
    CONSTRAINT failing_with_count CHECK ((failures > 0) = (failing_since IS NOT NULL)),
    CONSTRAINT previous_ends CHECK ((encrypted_previous_secret IS NULL) = (previous_until IS NULL))
);

CREATE INDEX idx_webhook_endpoints_user ON webhook_endpoints (user_id);

COMMENT ON TABLE  webhook_endpoints IS 'Where events go by HTTP. Written by billing.';
COMMENT ON COLUMN webhook_endpoints.user_id IS 'Whose events; NULL: everybody''s.';
COMMENT ON COLUMN webhook_endpoints.event_types IS 'Which events, a * at the end standing for anything: tallystick.invoice.*; empty: all.';
COMMENT ON COLUMN webhook_endpoints.encrypted_secret IS 'What deliveries are signed with, as a Fernet token under TALLYSTICK_BILLING_WEBHOOK_KEYS.';
COMMENT ON COLUMN webhook_endpoints.encrypted_previous_secret IS 'The secret before the last rotation: deliveries are signed with both until previous_until.';
COMMENT ON COLUMN webhook_endpoints.failures IS 'Attempts that failed since the last that succeeded, the first of them at failing_since.';

CREATE TABLE webhook_messages (
    id          text        PRIMARY KEY CHECK (id <> ''),
    type        text        NOT NULL,
    user_id     uuid,
    occurred_at timestamptz NOT NULL,
    body        bytea       NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idx_webhook_messages_created ON webhook_messages (created_at);
CREATE INDEX idx_webhook_messages_user ON webhook_messages (user_id);

COMMENT ON TABLE  webhook_messages IS 'Events that at least one endpoint gets: the bytes of billing.events. Written by the trigger queue_webhooks, deleted by billing when they are old.';
COMMENT ON COLUMN webhook_messages.id IS 'The id of the event: the webhook-id of every delivery.';

CREATE TABLE webhook_deliveries (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    endpoint_id     uuid        NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
    message_id      text        NOT NULL REFERENCES webhook_messages (id) ON DELETE CASCADE,
    status          text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts        integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    failures        integer     NOT NULL DEFAULT 0 CHECK (failures BETWEEN 0 AND attempts),
    next_attempt_at timestamptz DEFAULT now(),
    finished_at     timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT once_per_endpoint UNIQUE (endpoint_id, message_id),
    CONSTRAINT pending_has_next CHECK ((status = 'pending') = (next_attempt_at IS NOT NULL)),
    CONSTRAINT finished_has_end CHECK ((status <> 'pending') = (finished_at IS NOT NULL))
);

CREATE INDEX idx_webhook_deliveries_due ON webhook_deliveries (endpoint_id, next_attempt_at) WHERE status = 'pending';
CREATE INDEX idx_webhook_deliveries_message ON webhook_deliveries (message_id);

COMMENT ON TABLE  webhook_deliveries IS 'One event for one endpoint. Written by the trigger queue_webhooks and by billing.';
COMMENT ON COLUMN webhook_deliveries.failures IS 'Attempts that failed since it was queued or asked for again: by them it waits, and is given up.';
COMMENT ON COLUMN webhook_deliveries.next_attempt_at IS 'When it is tried next. While a worker is at it: when another one takes it up, should that worker die.';

CREATE TABLE webhook_attempts (
    delivery_id     uuid        NOT NULL REFERENCES webhook_deliveries (id) ON DELETE CASCADE,
    attempt         integer     NOT NULL CHECK (attempt > 0),
    started_at      timestamptz NOT NULL,
    outcome         text        CHECK (outcome IN ('delivered', 'refused', 'redirected', 'timeout', 'unreachable', 'forbidden', 'unsigned')),
    response_status integer     CHECK (response_status BETWEEN 100 AND 999),
    latency_ms      integer     CHECK (latency_ms >= 0),
    detail          text,
    PRIMARY KEY (delivery_id, attempt)
);

COMMENT ON TABLE  webhook_attempts IS 'The delivery log: every request that was made, or begun. Written by billing.';
COMMENT ON COLUMN webhook_attempts.outcome IS 'NULL: under way, or its worker died before it knew.';
COMMENT ON COLUMN webhook_attempts.detail IS 'What went wrong, in words. Never what the endpoint answered.';

-- What is written to an outbox for billing.events is queued for the endpoints that want it, in the same transaction, whoever writes it:
-- no service can forget it. The body is read as text once for each message; without an endpoint it is not read at all.
CREATE FUNCTION queue_webhooks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM webhook_endpoints WHERE enabled) THEN
        RETURN NULL;
    END IF;
    WITH events AS MATERIALIZED (
        SELECT id, type, occurred_at, value,
               CASE WHEN owner ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN owner::uuid END AS user_id
        FROM (SELECT body ->> 'id' AS id, body ->> 'type' AS type, (body ->> 'time')::timestamptz AS occurred_at,
                     coalesce(body -> 'data' ->> 'user_id', body ->> 'subject') AS owner, value
              FROM (SELECT value, convert_from(value, 'UTF8')::json AS body FROM queued WHERE topic = 'billing.events' AND value IS NOT NULL) q) b
    ), wanted AS MATERIALIZED (
        SELECT e.*, w.id AS endpoint_id
        FROM events e
        CROSS JOIN LATERAL (
            SELECT id, event_types FROM webhook_endpoints WHERE enabled AND user_id = e.user_id
            UNION ALL
            SELECT id, event_types FROM webhook_endpoints WHERE enabled AND user_id IS NULL) w
        WHERE w.event_types = '{}'
           OR EXISTS (SELECT FROM unnest(w.event_types) AS p WHERE e.type = p OR (right(p, 1) = '*' AND starts_with(e.type, left(p, -1))))
    ), stored AS (
        INSERT INTO webhook_messages (id, type, user_id, occurred_at, body)
        SELECT DISTINCT ON (id) id, type, user_id, occurred_at, value
        FROM wanted
        ON CONFLICT (id) DO NOTHING
    )
    INSERT INTO webhook_deliveries (endpoint_id, message_id) SELECT endpoint_id, id FROM wanted ON CONFLICT (endpoint_id, message_id) DO NOTHING;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION queue_webhooks IS 'Trigger: queues messages for billing.events for the webhook endpoints that want them.';

CREATE TRIGGER queue_webhooks AFTER INSERT ON billing_outbox REFERENCING NEW TABLE AS queued FOR EACH STATEMENT EXECUTE FUNCTION queue_webhooks();
CREATE TRIGGER queue_webhooks AFTER INSERT ON aggregator_outbox REFERENCING NEW TABLE AS queued FOR EACH STATEMENT EXECUTE FUNCTION queue_webhooks();

-- Whoever is erased is written to no more, and where that was is forgotten.
CREATE FUNCTION erase_notices() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM alert_settings WHERE user_id = NEW.id;
    DELETE FROM webhook_messages WHERE user_id = NEW.id;
    DELETE FROM webhook_endpoints WHERE user_id = NEW.id;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION erase_notices IS 'Trigger: who is anonymised has no webhook endpoints, deliveries and choices of alerts any more.';

CREATE TRIGGER erase_notices AFTER UPDATE OF anonymised_at ON users
    FOR EACH ROW WHEN (OLD.anonymised_at IS NULL AND NEW.anonymised_at IS NOT NULL) EXECUTE FUNCTION erase_notices();

-- ---------------------------------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE alert_settings ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_own_data ON alert_settings USING (user_id = app_current_user_id());
CREATE POLICY admin_all_data ON alert_settings USING ((SELECT app_current_user_is_admin()));

INSERT INTO secret_columns (relation, columns) VALUES ('webhook_endpoints', '{encrypted_secret,encrypted_previous_secret}');

UPDATE role_rights SET columns = columns || ARRAY['attempts']
WHERE role = 'tallystick_billing' AND object = 'job_runs' AND privilege = 'UPDATE' AND NOT 'attempts' = ANY (columns);

INSERT INTO role_rights (role, object, privilege, columns)
SELECT 'tallystick_' || service, object, privilege, string_to_array(columns, ' ')
FROM (VALUES
    ('aggregator', 'alert_settings', 'SELECT', NULL),
    ('aggregator', 'users', 'SELECT', 'id notification_preferences'),
    ('billing', 'users', 'SELECT', 'id notification_preferences'),
    ('billing', 'alert_settings', 'SELECT INSERT DELETE', NULL),
    ('billing', 'alert_settings', 'UPDATE', 'enabled thresholds updated_at'),
    ('billing', 'webhook_endpoints', 'SELECT INSERT DELETE', NULL),
    ('billing', 'webhook_endpoints', 'UPDATE',
     'url description event_types encrypted_secret encrypted_previous_secret previous_until enabled disabled_at disabled_reason failures failing_since'),
    ('billing', 'job_runs', 'DELETE', NULL),
    ('billing', 'webhook_messages', 'SELECT INSERT DELETE', NULL),
    ('billing', 'webhook_deliveries', 'SELECT INSERT', NULL),
    ('billing', 'webhook_deliveries', 'UPDATE', 'status attempts failures next_attempt_at finished_at'),
    ('billing', 'webhook_attempts', 'SELECT INSERT', NULL),
    ('billing', 'webhook_attempts', 'UPDATE', 'outcome response_status latency_ms detail'),
    -- The right to call it makes secure_functions() let it work as its owner: as a trigger it is called without any.
    ('billing', 'queue_webhooks', 'EXECUTE', NULL)
) AS granted (service, object, privileges, columns), unnest(string_to_array(privileges, ' ')) AS privilege
ON CONFLICT (role, object, privilege) DO UPDATE
SET columns = CASE WHEN role_rights.columns IS NULL OR excluded.columns IS NULL THEN NULL
                   ELSE ARRAY(SELECT DISTINCT name FROM unnest(role_rights.columns || excluded.columns) name ORDER BY name) END;

SELECT apply_role_rights();

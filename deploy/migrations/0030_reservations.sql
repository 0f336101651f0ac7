-- migrate:up
-- Reservations: a gateway reserves requests, tokens and credits before a call, and the usage event of the call settles it.
--
-- A reservation has two legs. The *quota* leg (requests, tokens) is given back by the aggregator, in the transaction that adds the usage to
-- the counters; the *credits* leg by billing, in the transaction that debits it. Each leg is given back once: by its usage, by a
-- cancellation, or by its expiry, whichever is first.
--
-- Locks. Whoever changes quota legs has locked the subscriptions' rows of reservation_holds first, and whoever changes credits legs the
-- users' rows of credit_holds; each in the order of ids, and those before these. What else is locked comes before both (user_credits,
-- subscriptions, summaries), so nobody waits crosswise. Under the lock, who reserves reads counters and balance without locking them: if
-- they do not show some usage yet, its hold, which is given back by the same transaction, is still there.

CREATE TABLE reservation_holds (
    subscription_id uuid        PRIMARY KEY REFERENCES subscriptions (id) ON DELETE CASCADE,
    open            integer     NOT NULL DEFAULT 0 CHECK (open >= 0),
    requests        bigint      NOT NULL DEFAULT 0 CHECK (requests >= 0),
    tokens          bigint      NOT NULL DEFAULT 0 CHECK (tokens >= 0),
    next_expiry     timestamptz,
    CONSTRAINT held_by_something CHECK (open > 0 OR (requests = 0 AND tokens = 0)),
    CONSTRAINT open_ones_expire CHECK (open = 0 OR next_expiry IS NOT NULL)
) WITH (fillfactor = 50);  -- room for HOT updates of the sums, which no index contains
CREATE INDEX idx_reservation_holds_due ON reservation_holds (next_expiry) WHERE next_expiry IS NOT NULL;

COMMENT ON TABLE  reservation_holds IS 'What the open reservations of a subscription hold of its quotas: the sums of reservations in state held. Written through functions alone.';
COMMENT ON COLUMN reservation_holds.open IS 'Open reservations: what concurrentRequests of a plan limits.';
COMMENT ON COLUMN reservation_holds.next_expiry IS 'No open reservation expires before; perhaps none does then. NULL: none is open.';

CREATE TABLE credit_holds (
    user_id uuid    PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    credits numeric NOT NULL DEFAULT 0 CHECK (credits >= 0)
) WITH (fillfactor = 50);

COMMENT ON TABLE  credit_holds IS 'What reservations hold of a user''s prepaid credits: the sum of reservation_credits in state held or used. Written through functions alone.';

CREATE TABLE reservations (
    id              uuid        PRIMARY KEY,
    subscription_id uuid        NOT NULL REFERENCES reservation_holds (subscription_id) ON DELETE CASCADE,
    user_id         uuid        NOT NULL,
    state           text        NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'settled', 'cancelled', 'expired')),
    requests        bigint      NOT NULL CHECK (requests BETWEEN 0 AND 1e9),
    tokens          bigint      NOT NULL CHECK (tokens BETWEEN 0 AND 1e12),
    credits         numeric     NOT NULL CHECK (credits >= 0 AND credits < 1e15),
    idempotency_key text        CHECK (idempotency_key <> ''),
    request_digest    bytea,
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    CONSTRAINT held_until_finished CHECK ((state = 'held') = (finished_at IS NULL)),
    CONSTRAINT lasts_a_day_at_most CHECK (expires_at > created_at AND expires_at <= created_at + interval '24 hours')
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX unique_reservation_key ON reservations (subscription_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX idx_reservations_open ON reservations (subscription_id, expires_at) WHERE state = 'held';

COMMENT ON TABLE  reservations IS 'What gateways reserved before calls, and what became of it. Written through functions alone; finished ones are forgotten after a while.';
COMMENT ON COLUMN reservations.id IS 'UUIDv7, so that old ones are neighbours. A usage event names it in data.reservation_id.';
COMMENT ON COLUMN reservations.state IS 'held: open; settled: its usage is counted; cancelled, expired: given back. Of the quota leg; the credits leg is in reservation_credits.';
COMMENT ON COLUMN reservations.credits IS 'Credits; 0 where the subscription is not prepaid, whatever was asked for.';
COMMENT ON COLUMN reservations.request_digest IS 'Digest of the request: the same key with another request is an error.';

CREATE TABLE reservation_credits (
    id              uuid    PRIMARY KEY REFERENCES reservations (id) ON DELETE CASCADE,
    subscription_id uuid    NOT NULL,
    user_id         uuid    NOT NULL REFERENCES credit_holds (user_id) ON DELETE CASCADE,
    credits         numeric NOT NULL CHECK (credits > 0),
    state           text    NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'used', 'released')),
    rating_run_id   uuid,
    CONSTRAINT used_by_a_run CHECK (state <> 'used' OR rating_run_id IS NOT NULL)
) WITH (fillfactor = 80);
CREATE INDEX idx_reservation_credits_open ON reservation_credits (user_id, state) WHERE state <> 'released';

COMMENT ON TABLE  reservation_credits IS 'The credits legs of reservations: what each holds of its user''s prepaid credits. Written through functions alone.';
COMMENT ON COLUMN reservation_credits.state IS 'held; used: its usage is rated, and waits to be debited; released: debited or given back.';
COMMENT ON COLUMN reservation_credits.rating_run_id IS 'The run that rated its usage: released when all prepaid usage of this run and subscription is settled.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Giving back
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION give_back_reserved_quota(p_ids uuid[], p_state text, p_at timestamptz) RETURNS SETOF uuid LANGUAGE plpgsql
SET enable_seqscan = off AS $$
DECLARE
    given uuid[];
BEGIN
    WITH finished AS (
        UPDATE reservations SET state = p_state, finished_at = p_at WHERE id = ANY (p_ids) AND state = 'held'
        RETURNING id, subscription_id, requests, tokens
    ), sums AS (
        SELECT subscription_id, count(*)::integer AS open, sum(requests)::bigint AS requests, sum(tokens)::bigint AS tokens
        FROM finished GROUP BY subscription_id
    ), moved AS (
        UPDATE reservation_holds h SET open = h.open - s.open, requests = h.requests - s.requests, tokens = h.tokens - s.tokens
        FROM sums s WHERE h.subscription_id = s.subscription_id
    )
    SELECT array_agg(id) INTO given FROM finished;
    RETURN QUERY SELECT unnest(given);
END $$;

COMMENT ON FUNCTION give_back_reserved_quota IS 'Ends reservations that are open and gives back what they hold of quotas; returns which. Call it under the lock of their reservation_holds.';

CREATE FUNCTION give_back_reserved_credits(p_ids uuid[]) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    PERFORM FROM credit_holds WHERE user_id = ANY (ARRAY(SELECT user_id FROM reservation_credits WHERE id = ANY (p_ids)))
    ORDER BY user_id FOR NO KEY UPDATE;
    WITH released AS (
        UPDATE reservation_credits SET state = 'released' WHERE id = ANY (p_ids) AND state = 'held' RETURNING user_id, credits
    )
    UPDATE credit_holds h SET credits = h.credits - r.credits
    FROM (SELECT user_id, sum(credits) AS credits FROM released GROUP BY user_id) r WHERE h.user_id = r.user_id;
END $$;

COMMENT ON FUNCTION give_back_reserved_credits IS 'Gives back what reservations, whose usage is not rated, hold of credits.';

CREATE FUNCTION expire_reservations_of(p_subscriptions uuid[], p_at timestamptz) RETURNS bigint LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    ended uuid[];
BEGIN
    ended := ARRAY(SELECT give_back_reserved_quota(
        ARRAY(SELECT id FROM reservations WHERE subscription_id = ANY (p_subscriptions) AND state = 'held' AND expires_at <= p_at), 'expired', p_at));
    PERFORM give_back_reserved_credits(ended) WHERE ended <> '{}';
    UPDATE reservation_holds h SET next_expiry = (SELECT min(r.expires_at) FROM reservations r WHERE r.subscription_id = h.subscription_id AND r.state = 'held')
    WHERE h.subscription_id = ANY (p_subscriptions);
    RETURN cardinality(ended);
END $$;

COMMENT ON FUNCTION expire_reservations_of IS 'Expires what is due of subscriptions'' reservations; returns how many. Call it under the lock of their reservation_holds and of their users'' credit_holds.';

CREATE FUNCTION expire_reservations(p_at timestamptz, p_subscriptions integer) RETURNS TABLE (subscriptions bigint, expired bigint) LANGUAGE plpgsql
SET enable_seqscan = off AS $$
DECLARE
    due uuid[];
BEGIN
    -- SKIP LOCKED: whoever holds one reserves or settles, or expires it; its due ones are found the next time.
    due := ARRAY(SELECT subscription_id FROM reservation_holds WHERE next_expiry <= p_at ORDER BY subscription_id LIMIT p_subscriptions
                 FOR NO KEY UPDATE SKIP LOCKED);
    PERFORM FROM credit_holds WHERE user_id = ANY (ARRAY(SELECT s.user_id FROM subscriptions s WHERE s.id = ANY (due))) ORDER BY user_id FOR NO KEY UPDATE;
    RETURN QUERY SELECT cardinality(due)::bigint, CASE WHEN due = '{}' THEN 0 ELSE expire_reservations_of(due, p_at) END;
END $$;

COMMENT ON FUNCTION expire_reservations IS 'Expires what is due at p_at of reservations, of at most so many subscriptions; returns of how many, and how many.';

CREATE FUNCTION cancel_reservation(p_id uuid, p_at timestamptz) RETURNS SETOF reservations LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    PERFORM FROM reservation_holds WHERE subscription_id = (SELECT r.subscription_id FROM reservations r WHERE r.id = p_id) FOR NO KEY UPDATE;
    PERFORM give_back_reserved_credits(ARRAY(SELECT give_back_reserved_quota(ARRAY[p_id], 'cancelled', p_at)));
    RETURN QUERY SELECT * FROM reservations WHERE id = p_id;
END $$;

COMMENT ON FUNCTION cancel_reservation IS 'Cancels a reservation that is open; returns it as it is then, settled or expired if that was quicker. Nothing for one that is not known.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Settling
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION settle_reserved_quota(p_subscriptions uuid[], p_ids uuid[], p_at timestamptz) RETURNS bigint LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    settled bigint;
BEGIN
    PERFORM FROM reservation_holds WHERE subscription_id = ANY (p_subscriptions) ORDER BY subscription_id FOR NO KEY UPDATE;
    SELECT count(*) INTO settled FROM give_back_reserved_quota(
        ARRAY(SELECT r.id FROM unnest(p_subscriptions, p_ids) AS u (subscription_id, id)
              JOIN reservations r ON r.id = u.id AND r.subscription_id = u.subscription_id), 'settled', p_at);
    RETURN settled;
END $$;

COMMENT ON FUNCTION settle_reserved_quota IS 'Gives back what reservations hold of quotas, whose usage the caller counts in this transaction; returns of how many. One that is not open, not known, or of another subscription is passed over.';

CREATE FUNCTION release_debited_credits(p_users uuid[]) RETURNS bigint LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    released bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM reservation_credits WHERE user_id = ANY (p_users) AND state = 'used') THEN
        RETURN 0;
    END IF;
    PERFORM FROM credit_holds WHERE user_id = ANY (p_users) ORDER BY user_id FOR NO KEY UPDATE;
    WITH debited AS (
        UPDATE reservation_credits c SET state = 'released'
        WHERE c.user_id = ANY (p_users) AND c.state = 'used' AND NOT EXISTS (
            SELECT FROM rated_usage r WHERE r.user_id = c.user_id AND r.subscription_id = c.subscription_id AND r.rating_run_id = c.rating_run_id
            AND r.billing_mode = 'prepaid' AND r.settlement_id IS NULL AND r.amount IS NOT NULL
        ) AND NOT EXISTS (  -- waits for its price
            SELECT FROM rated_usage r WHERE r.subscription_id = c.subscription_id AND r.rating_run_id = c.rating_run_id
            AND r.billing_mode = 'prepaid' AND r.amount IS NULL)
        RETURNING c.user_id, c.credits
    ), moved AS (
        UPDATE credit_holds h SET credits = h.credits - d.credits
        FROM (SELECT user_id, sum(credits) AS credits FROM debited GROUP BY user_id) d WHERE h.user_id = d.user_id
    )
    SELECT count(*) INTO released FROM debited;
    RETURN released;
END $$;

COMMENT ON FUNCTION release_debited_credits IS 'Gives back what reservations of users hold of credits whose usage is debited, in the transaction that debits it; returns of how many. What waits for a price, or for a rate of credits, stays held.';

CREATE FUNCTION use_reserved_credits(p_run uuid, p_subscriptions uuid[], p_ids uuid[]) RETURNS bigint LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    users uuid[];
    used  bigint;
BEGIN
    users := ARRAY(SELECT DISTINCT c.user_id FROM reservation_credits c WHERE c.id = ANY (p_ids) AND c.state = 'held' ORDER BY 1);
    IF users = '{}' THEN
        RETURN 0;
    END IF;
    PERFORM FROM credit_holds WHERE user_id = ANY (users) ORDER BY user_id FOR NO KEY UPDATE;
    WITH marked AS (
        UPDATE reservation_credits c SET state = 'used', rating_run_id = p_run
        FROM unnest(p_subscriptions, p_ids) AS u (subscription_id, id)
        WHERE c.id = u.id AND c.subscription_id = u.subscription_id AND c.state = 'held' RETURNING c.id
    )
    SELECT count(*) INTO used FROM marked;
    PERFORM release_debited_credits(users);  -- of usage that is not prepaid any more: no debit will follow
    RETURN used;
END $$;

COMMENT ON FUNCTION use_reserved_credits IS 'Ties the credits that reservations hold to the run that rated their usage in this transaction; returns how many. They stay held until that is debited.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Reserving
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION concurrent_limit(p_plan text, p_at timestamptz) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN hard_limits THEN floor((limits ->> 'concurrentRequests')::numeric)::integer END
    FROM plan_versions WHERE plan_id = p_plan
    ORDER BY valid_from <= p_at DESC, CASE WHEN valid_from <= p_at THEN valid_from END DESC, valid_from LIMIT 1
$$;

COMMENT ON FUNCTION concurrent_limit IS 'How many reservations of a subscription to a plan may be open; NULL: any number. By the version in force at p_at, where a billing interval begins; where there was none yet, by the first.';

CREATE FUNCTION reserve_many(
    p_ids uuid[], p_subscriptions uuid[], p_requests bigint[], p_tokens bigint[], p_credits numeric[], p_ttl_seconds integer[],
    p_keys text[], p_digests bytea[], p_at timestamptz
) RETURNS TABLE (
    place bigint, outcome text, reasons text[], id uuid, subscription_id uuid, state text, requests bigint, tokens bigint, credits numeric,
    created_at timestamptz, expires_at timestamptz,
    remaining_requests bigint, remaining_tokens bigint, remaining_credits numeric, remaining_concurrent integer, reset_at timestamptz
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    wanted       uuid[] := ARRAY(SELECT DISTINCT u FROM unnest(p_subscriptions) u ORDER BY 1);
    due          uuid[];
    ask          record;
    payer        uuid;
    owner        uuid;
    open_now     integer;
    requests_now bigint;
    tokens_now   bigint;
    credits_now  numeric;
    available    numeric;
    asked        numeric;
    kept         reservations;
    made         reservations[] := '{}';
BEGIN
    INSERT INTO reservation_holds (subscription_id)
    SELECT s.id FROM subscriptions s WHERE s.id = ANY (wanted) AND NOT EXISTS (SELECT FROM reservation_holds h WHERE h.subscription_id = s.id)
    ORDER BY 1 ON CONFLICT DO NOTHING;
    PERFORM FROM reservation_holds WHERE subscription_id = ANY (wanted) ORDER BY subscription_id FOR NO KEY UPDATE;
    due := ARRAY(SELECT subscription_id FROM reservation_holds WHERE subscription_id = ANY (wanted) AND next_expiry <= p_at);
    IF due <> '{}' OR EXISTS (SELECT FROM unnest(p_credits) c WHERE c > 0) THEN
        INSERT INTO credit_holds (user_id)
        SELECT DISTINCT s.user_id FROM subscriptions s
        WHERE s.id = ANY (wanted) AND s.billing_mode = 'prepaid' AND NOT EXISTS (SELECT FROM credit_holds h WHERE h.user_id = s.user_id)
        ORDER BY 1 ON CONFLICT DO NOTHING;
        PERFORM FROM credit_holds WHERE user_id = ANY (ARRAY(SELECT s.user_id FROM subscriptions s WHERE s.id = ANY (wanted))) ORDER BY user_id FOR NO KEY UPDATE;
    END IF;
    PERFORM expire_reservations_of(due, p_at) WHERE due <> '{}';

    FOR ask IN
        WITH standing AS MATERIALIZED (
            SELECT s.*, h.open, h.requests AS held_requests, h.tokens AS held_tokens, c.credits AS held_credits,
                   concurrent_limit(s.plan_id, coalesce(s.current_period_start, p_at)) AS concurrent
            FROM subscriptions s JOIN reservation_holds h ON h.subscription_id = s.id LEFT JOIN credit_holds c ON c.user_id = s.user_id
            WHERE s.id = ANY (wanted)
        )
        SELECT a.*, s.id AS known, s.user_id, s.status::text AS status, s.suspended_reasons, s.quota_requests, s.quota_tokens,
               greatest(s.used_requests, 0) AS used_requests, greatest(s.used_tokens, 0) AS used_tokens, s.reset_at,
               s.billing_mode = 'prepaid' AS prepaid, s.open, s.held_requests, s.held_tokens, s.held_credits, s.concurrent,
               count(a.key) OVER (PARTITION BY a.subscription, a.key) > 1 AS repeated,
               (SELECT o FROM reservations o WHERE o.subscription_id = a.subscription AND o.idempotency_key = a.key) AS old
        FROM unnest(p_ids, p_subscriptions, p_requests, p_tokens, p_credits, p_ttl_seconds, p_keys, p_digests)
             WITH ORDINALITY AS a (id, subscription, requests, tokens, credits, ttl, key, digest, place)
        LEFT JOIN standing s ON s.id = a.subscription
        ORDER BY s.user_id, a.subscription, a.place
    LOOP
        place := ask.place;
        id := ask.id;
        subscription_id := ask.subscription;
        reasons := '{}';
        outcome := 'unknown';
        IF ask.known IS NULL THEN
            RETURN NEXT;
            CONTINUE;
        END IF;

        IF payer IS DISTINCT FROM ask.user_id THEN
            payer := ask.user_id;
            credits_now := coalesce(ask.held_credits, 0);
            available := NULL;
        END IF;
        IF ask.prepaid AND available IS NULL THEN
            available := get_user_balance(ask.user_id);
        END IF;
        IF owner IS DISTINCT FROM ask.subscription THEN
            owner := ask.subscription;
            open_now := ask.open;
            requests_now := ask.held_requests;
            tokens_now := ask.held_tokens;
        END IF;

        kept := ask.old;
        IF kept.id IS NULL AND ask.repeated THEN
            SELECT n.* INTO kept FROM unnest(made) n WHERE n.subscription_id = ask.subscription AND n.idempotency_key = ask.key;
        END IF;
        asked := CASE WHEN ask.prepaid THEN coalesce(ask.credits, 0) ELSE 0 END;

        IF kept.id IS NOT NULL THEN
            outcome := CASE WHEN kept.request_digest IS DISTINCT FROM ask.digest THEN 'key_reused' ELSE 'repeated' END;
        ELSE
            reasons := CASE WHEN ask.status = 'suspended' THEN ask.suspended_reasons WHEN ask.status NOT IN ('active', 'trialing') THEN ARRAY[ask.status]
                            ELSE '{}' END;
            IF requests_now + ask.used_requests + ask.requests > ask.quota_requests AND NOT 'quota_requests' = ANY (reasons) THEN
                reasons := reasons || 'quota_requests'::text;
            END IF;
            IF tokens_now + ask.used_tokens + ask.tokens > ask.quota_tokens AND NOT 'quota_tokens' = ANY (reasons) THEN
                reasons := reasons || 'quota_tokens'::text;
            END IF;
            IF credits_now + asked > available AND asked > 0 AND NOT 'credits_exhausted' = ANY (reasons) THEN
                reasons := reasons || 'credits_exhausted'::text;
            END IF;
            IF open_now >= ask.concurrent THEN
                reasons := reasons || 'concurrent_requests'::text;
            END IF;
            outcome := CASE WHEN reasons = '{}' THEN 'reserved' ELSE 'refused' END;
            kept := ROW(ask.id, ask.subscription, ask.user_id, CASE WHEN reasons = '{}' THEN 'held' END, ask.requests, ask.tokens, asked, ask.key, ask.digest,
                        p_at, p_at + make_interval(secs => ask.ttl), NULL)::reservations;
            IF reasons = '{}' THEN
                made := made || kept;
                open_now := open_now + 1;
                requests_now := requests_now + ask.requests;
                tokens_now := tokens_now + ask.tokens;
                credits_now := credits_now + asked;
            END IF;
        END IF;

        id := kept.id;
        state := kept.state;
        requests := kept.requests;
        tokens := kept.tokens;
        credits := kept.credits;
        created_at := kept.created_at;
        expires_at := kept.expires_at;
        remaining_requests := greatest(ask.quota_requests - ask.used_requests - requests_now, 0);
        remaining_tokens := greatest(ask.quota_tokens - ask.used_tokens - tokens_now, 0);
        remaining_credits := CASE WHEN ask.prepaid THEN greatest(available - credits_now, 0) END;
        remaining_concurrent := greatest(ask.concurrent - open_now, 0);
        reset_at := ask.reset_at;
        RETURN NEXT;
    END LOOP;

    IF made <> '{}' THEN
        INSERT INTO reservations SELECT * FROM unnest(made);
        INSERT INTO reservation_credits (id, subscription_id, user_id, credits)
        SELECT n.id, n.subscription_id, n.user_id, n.credits FROM unnest(made) n WHERE n.credits > 0;
        UPDATE reservation_holds h
        SET open = h.open + n.open, requests = h.requests + n.requests, tokens = h.tokens + n.tokens, next_expiry = least(h.next_expiry, n.next_expiry)
        FROM (SELECT n.subscription_id, count(*)::integer AS open, sum(n.requests)::bigint AS requests, sum(n.tokens)::bigint AS tokens, min(n.expires_at) AS next_expiry
              FROM unnest(made) n GROUP BY n.subscription_id) n WHERE h.subscription_id = n.subscription_id;
        UPDATE credit_holds h SET credits = h.credits + n.credits
        FROM (SELECT n.user_id, sum(n.credits) AS credits FROM unnest(made) n WHERE n.credits > 0 GROUP BY n.user_id) n WHERE h.user_id = n.user_id;
    END IF;
END $$;

COMMENT ON FUNCTION reserve_many IS
    'Reserves for many requests at once, each whole or not at all, in their order; what is due of their subscriptions'' reservations expires first. outcome: reserved; repeated (its key is known: the reservation of then); refused, with all reasons; key_reused (the key was used for another request); unknown (no such subscription). What remains is after it.';

CREATE FUNCTION forget_reservations(p_before timestamptz, p_limit integer) RETURNS bigint LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    edge      uuid := (lpad(to_hex(floor(extract(epoch FROM p_before) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;  -- ids begin with their time
    forgotten bigint;
BEGIN
    WITH old AS (
        SELECT r.id FROM reservations r
        WHERE r.id < edge AND r.state <> 'held' AND NOT EXISTS (SELECT FROM reservation_credits c WHERE c.id = r.id AND c.state <> 'released')
        ORDER BY r.id LIMIT p_limit
    ), deleted AS (
        DELETE FROM reservations r USING old WHERE r.id = old.id RETURNING r.id
    )
    SELECT count(*) INTO forgotten FROM deleted;
    RETURN forgotten;
END $$;

COMMENT ON FUNCTION forget_reservations IS 'Deletes at most so many finished reservations that were made before a time; returns how many.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE reservations ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_own_data ON reservations USING (user_id = (SELECT app_current_user_id()));

INSERT INTO role_rights (role, object, privilege)
SELECT 'tallystick_' || service, object, privilege
FROM (VALUES
    ('api', 'reserve_many cancel_reservation', 'EXECUTE'),
    -- What a subscription is entitled to, and what an estimate costs.
    ('api', 'reservations reservation_holds credit_holds subscriptions plan_versions api_keys api_key_days user_credits credit_grants', 'SELECT'),
    ('api', 'model_prices price_book power_level_configs credit_rate_periods', 'SELECT'),
    ('aggregator', 'settle_reserved_quota expire_reservations forget_reservations', 'EXECUTE'),
    ('aggregator', 'reservation_holds', 'SELECT'),
    ('billing', 'use_reserved_credits release_debited_credits', 'EXECUTE'),
    ('billing', 'reservations reservation_holds reservation_credits credit_holds', 'SELECT')  -- what reconciliation compares
) AS rights (service, objects, privilege)
CROSS JOIN LATERAL string_to_table(objects, ' ') AS object
ON CONFLICT (role, object, privilege) DO UPDATE SET columns = NULL;
SELECT apply_role_rights();

-- The SQL of the fault harness: whom it sends for, how it disturbs, and what it counts at the end.

-- name: sign_up
-- Users, their subscriptions and keys, from one JSON document each; credits are granted as to anybody.
WITH people AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS p (user_id uuid, name text, credits numeric, subscription_id uuid, model text,
        mode text, currency text, quota bigint, key_hash text, period_start timestamptz)
), users_made AS (
    INSERT INTO users (id, username, email, full_name, email_verified)
    SELECT user_id, name, name || '@example.com', name, true FROM people ON CONFLICT DO NOTHING RETURNING id
), subscriptions_made AS (
    INSERT INTO subscriptions (id, user_id, model_id, status, billing_mode, currency, amount, quota_requests, quota_tokens, quota_period_start)
    SELECT p.subscription_id, u.id, p.model, 'active', p.mode, p.currency, 0, p.quota, NULL, p.period_start
    FROM people p JOIN users_made u ON u.id = p.user_id RETURNING id, user_id
)
INSERT INTO api_keys (id, subscription_id, user_id, name, key_hash, key_prefix)
SELECT gen_random_uuid(), s.id, s.user_id, 'chaos', p.key_hash, left(p.key_hash, 8)
FROM people p JOIN subscriptions_made s ON s.id = p.subscription_id WHERE p.key_hash IS NOT NULL;

-- name: grant_credits
-- Credits that a prepaid customer begins with.
SELECT add_user_credits($1::uuid, $2::numeric, 'bonus', description => 'chaos', idempotency_key => 'chaos:' || $1::text);

-- name: model
-- A model that traffic uses.
INSERT INTO models (id, name, provider, description, capabilities, context_length, input_price_per_1k, output_price_per_1k)
VALUES ($1, $1, 'chaos', $1, ARRAY['chat'], 1000, 0, 0) ON CONFLICT DO NOTHING;

-- name: price
-- What usage of a model, a tool or a feature costs.
INSERT INTO model_prices (model_id, tool_name, currency, valid_from, valid_to, input_price_per_1k, cached_input_price_per_1k,
                          output_price_per_1k, price_per_request)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: power_level
-- By what a power level multiplies a price: the model must know it.
UPDATE power_level_configs SET cost_multiplier = $2 WHERE power_level = $1;

-- name: progress
-- What each service has read of its topic since the beginning, whatever the epoch.
SELECT (SELECT coalesce(sum(next_offset - start_offset), 0) FROM ingest_positions)::bigint AS ingested,
       (SELECT coalesce(sum(next_offset - start_offset), 0) FROM aggregator_positions)::bigint AS aggregated,
       (SELECT coalesce(sum(next_offset - start_offset), 0) FROM billing_positions)::bigint AS rated;

-- name: position
-- Where a partition of usage.events stands in its present epoch.
SELECT next_offset FROM ingest_positions WHERE topic = $1 AND partition = $2 ORDER BY epoch DESC LIMIT 1;

-- name: terminate_sessions
-- Ends every session of the workers.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name IN ('tallystick-ingest', 'tallystick-aggregator', 'tallystick-billing');

-- name: terminate_session
-- Ends one of them, chosen by a number; those in a transaction come first.
SELECT pg_terminate_backend(pid)
FROM (SELECT pid, row_number() OVER (ORDER BY (xact_start IS NULL), pid) - 1 AS place,
             count(*) FILTER (WHERE xact_start IS NOT NULL) OVER () AS busy, count(*) OVER () AS everyone
      FROM pg_stat_activity
      WHERE datname = current_database() AND application_name IN ('tallystick-ingest', 'tallystick-aggregator', 'tallystick-billing')) s
WHERE place = $1::bigint % greatest(CASE WHEN busy > 0 THEN busy ELSE everyone END, 1);

-- name: read_only
-- What a demoted server says to new sessions.
ALTER DATABASE tallystick SET default_transaction_read_only = on;

-- name: writable
-- Undoes it.
ALTER DATABASE tallystick RESET default_transaction_read_only;

-- name: make_next_month
-- The partition of next month, which is empty: no event may lie so far ahead.
SELECT ensure_usage_partition(now() + interval '1 month');

-- name: drop_next_month
-- Drops it again, in front of workers that may believe it is there. Who waits long for the lock makes everybody wait behind it.
DO $$ BEGIN PERFORM set_config('lock_timeout', '500ms', true); EXECUTE format('DROP TABLE %I', ensure_usage_partition(now() + interval '1 month')); END $$;

-- name: drop_last_month
-- Drops the partition of last month as long as no event lies in it: the next late one finds none.
DO $$
DECLARE
    part text := ensure_usage_partition(date_trunc('month', now(), 'UTC') - interval '1 hour');
    used boolean;
BEGIN
    PERFORM set_config('lock_timeout', '500ms', true);
    EXECUTE format('LOCK TABLE usage_logs, %I IN ACCESS EXCLUSIVE MODE', part);
    EXECUTE format('SELECT EXISTS (SELECT FROM %I)', part) INTO used;
    IF NOT used THEN
        EXECUTE format('DROP TABLE %I', part);
    END IF;
END $$;

-- name: tablespace
-- A directory within the data directory (allow_in_place_tablespaces), over which a small file system is mounted.
CREATE TABLESPACE small LOCATION '';

-- name: tablespace_directory
-- Where the small disk is that is to become full.
SELECT current_setting('data_directory') || '/pg_tblspc/' || oid FROM pg_tablespace WHERE spcname = 'small';

-- name: move_to_small_disk
-- The journal of batches grows with every transaction of ingest: where it has no room, nothing is stored.
ALTER TABLE usage_batches SET TABLESPACE small;

-- name: move_rated_to_small_disk
-- So does rated usage, with every transaction of billing.
ALTER TABLE rated_usage SET TABLESPACE small;

-- name: say_full
-- Where no file system can be mounted, the server says for a while what it says on a full one.
CREATE OR REPLACE FUNCTION chaos_disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;

-- name: pretend_full
-- ... for the journal of batches, which every transaction of ingest writes to.
CREATE TRIGGER chaos_disk_is_full BEFORE INSERT ON usage_batches FOR EACH ROW EXECUTE FUNCTION chaos_disk_is_full();

-- name: make_room
-- The disk has room again: nothing says any more that it is full.
DROP TRIGGER IF EXISTS chaos_disk_is_full ON usage_batches;

-- name: begin_epoch
-- What docs/how-to/topic-recreated.md tells an operator to run.
INSERT INTO ingest_positions (cluster, topic, partition, epoch, start_offset, next_offset)
SELECT cluster, topic, partition, max(epoch) + 1, 0, 0 FROM ingest_positions
WHERE topic = $1 GROUP BY cluster, topic, partition;

-- name: accept_loss
-- What docs/how-to/retention-overrun.md tells an operator to run: partition $2 goes on at $4 instead of $3.
WITH accepted AS (
    UPDATE ingest_positions p
    SET next_offset = $4, gaps = gaps + ($4 - next_offset), updated_at = now()
    WHERE topic = $1 AND partition = $2 AND next_offset = $3 AND $4 > next_offset
      AND epoch = (SELECT max(epoch) FROM ingest_positions e WHERE (e.cluster, e.topic, e.partition) = (p.cluster, p.topic, p.partition))
    RETURNING cluster, topic, partition, epoch
)
INSERT INTO usage_batches (batch_id, kind, cluster, topic, partition, epoch, first_offset, next_offset,
                           inserted, duplicates, quarantined, held, gaps, message_count)
SELECT gen_random_uuid(), 'kafka', cluster, topic, partition, epoch, $3, $4, 0, 0, 0, 0, $4 - $3, 0
FROM accepted;

-- name: stored
-- What the log holds of the sources $1, by what distinguishes usage in the books; days are counted from $2.
SELECT subscription_id::text AS subscription_id, floor(extract(epoch FROM created_at - $2::timestamptz) / 86400)::integer AS day,
       coalesce(model_id, tool_name) AS item, power_level, byok, status_code < 400 AS ok,
       sum(quantity)::bigint AS requests, sum(request_tokens)::bigint AS request_tokens, sum(response_tokens)::bigint AS response_tokens,
       sum(cached_tokens)::bigint AS cached_tokens, sum(quantity * latency_ms)::bigint AS latency_ms
FROM usage_logs WHERE source = $1 GROUP BY 1, 2, 3, 4, 5, 6;

-- name: summarised
-- The summaries of days.
SELECT subscription_id::text AS subscription_id, floor(extract(epoch FROM period_start - $1::timestamptz) / 86400)::integer AS day,
       model_id || tool_name AS item, request_count, error_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms
FROM usage_summaries WHERE period_type = 'day';

-- name: counters
-- Quota counters by subscription, to be compared with the model's.
SELECT id::text AS subscription_id, used_requests, used_tokens, status::text AS status, suspended_reasons FROM subscriptions;

-- name: rated
-- Requests that were rated and what they are worth, by subscription.
SELECT subscription_id::text AS subscription_id, sum(requests)::bigint AS requests, sum(amount) AS amount,
       bool_or(amount IS NULL) AS unrated
FROM rated_usage GROUP BY subscription_id;

-- name: accounts
-- Prepaid accounts by user: what is left, and what is owed.
SELECT user_id::text AS user_id, balance, owed FROM user_credits;

-- name: settled
-- What the ledger's settlements come to, by user, in credits.
SELECT user_id::text AS user_id, sum(amount) AS amount FROM credit_settlements GROUP BY user_id;

-- name: invoiced
-- What each customer's invoices come to before rounding.
SELECT user_id::text AS user_id, sum(exact_subtotal) AS amount, count(*) AS invoices FROM invoices WHERE number IS NOT NULL GROUP BY user_id;

-- name: invoices
-- Every invoice: its sums, those of its lines, and its number.
SELECT i.number, i.user_id::text AS user_id, i.currency, i.period_start, i.period_end, i.exact_subtotal, i.subtotal, i.total, i.tax,
       (SELECT coalesce(sum(l.exact_amount), 0) FROM invoice_lines l WHERE l.invoice_id = i.id) AS lines_exact,
       (SELECT coalesce(sum(l.amount), 0) FROM invoice_lines l WHERE l.invoice_id = i.id) AS lines_amount
FROM invoices i WHERE i.kind = 'usage';

-- name: quarantined
-- Quarantined records by reason.
SELECT reason, count(*) AS records FROM quarantined_events GROUP BY reason;

-- name: counted
-- What became of all other records. Held events that were attributed since count by what became of them then.
SELECT (SELECT coalesce(sum(duplicates), 0) FROM usage_batches)::bigint AS duplicates,
       (SELECT count(*) FROM held_events WHERE attributed_at IS NULL) AS held,
       (SELECT coalesce(sum(gaps), 0) FROM usage_batches)::bigint AS gaps;

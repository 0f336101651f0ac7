-- The SQL of partitions: which there are, what keeps a month from being archived, what is noted of it. What is done to one partition
-- is in partition.sql.

-- name: take_turn
-- One command at a time, and no healing of summaries (services/aggregator/rebuild) while a month leaves the log.
SELECT pg_try_advisory_lock(hashtextextended('tallystick.archive', 0));

-- name: end_turn
-- Lets the next one.
SELECT pg_advisory_unlock(hashtextextended('tallystick.archive', 0));

-- name: months
-- Every month that is in usage_logs, on its way out of it, or archived. Rows are as the planner estimates them, or archived.
WITH tables AS (
    SELECT c.relname AS name, c.oid, i.inhrelid IS NOT NULL AND NOT i.inhdetachpending AS attached, c.reltuples
    FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'usage_logs'::regclass
    WHERE c.relkind = 'r' AND c.relname ~ '^usage_logs_\d{4}_\d{2}$' AND pg_table_is_visible(c.oid)
), archives AS (
    SELECT 'usage_logs_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM') AS name, state, file, (manifest -> 'sums' ->> 'rows')::bigint AS rows
    FROM usage_archives
)
SELECT name, coalesce(a.state, 'attached') AS state, coalesce(t.attached, false) AS attached,
       CASE WHEN t.oid IS NULL THEN a.rows ELSE greatest(t.reltuples, 0)::bigint END AS rows,
       coalesce(pg_total_relation_size(t.oid), 0) AS bytes, a.file
FROM tables t FULL JOIN archives a USING (name)
ORDER BY name;

-- name: place
-- Where the table of a month ($1) is: attached, detaching, detached, or NULL if there is none.
SELECT CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'detaching' ELSE 'attached' END
FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'usage_logs'::regclass
WHERE c.oid = to_regclass($1);

-- name: archive
-- What is noted of a month.
SELECT state, file, sha256, manifest FROM usage_archives WHERE month = $1;

-- name: ensure
-- Makes the partition of a time if it is missing; NULL if that month is archived.
SELECT ensure_usage_partition($1);

-- name: count_missing
-- How many of a month ($1) and the $2 after it have no partition, and are not archived.
SELECT count(*) FROM generate_series(0, $2::integer) n
CROSS JOIN LATERAL (SELECT ($1::timestamptz AT TIME ZONE 'UTC') + n * interval '1 month' AS month) m
WHERE to_regclass('usage_logs_' || to_char(m.month, 'YYYY_MM')) IS NULL
  AND m.month AT TIME ZONE 'UTC' NOT IN (SELECT month FROM archived_months);

-- name: keep_usage_ids
-- Begins a new generation of identities where it is time, and drops those that guard nothing any more.
SELECT begun, dropped FROM keep_usage_ids($1, $2, $3);

-- name: guard
-- Guards the identities of a month that came back and are not guarded any more.
SELECT guard_usage_ids($1);

-- name: attach
-- Makes the table of a month a partition again.
SELECT attach_usage_partition($1);

-- name: open_holds
-- Legal holds that concern times from $1 up to $2.
SELECT id, why FROM usage_holds WHERE released_at IS NULL AND held_from < $2 AND held_to > $1 ORDER BY placed_at;

-- name: place_hold
-- Keeps usage of times from $2 up to $3 in the database.
INSERT INTO usage_holds (id, held_from, held_to, subscription_id, why) VALUES ($1, $2, $3, $4, $5);

-- name: release_hold
-- Ends a hold, with the reason; nothing if it is unknown or was ended.
UPDATE usage_holds SET released_at = now(), released_why = $2 WHERE id = $1 AND released_at IS NULL RETURNING id;

-- name: subscription_exists
-- Whether there is such a subscription.
SELECT EXISTS (SELECT FROM subscriptions WHERE id = $1);

-- name: open_invoices
-- Invoices that have to do with times from $1 up to $2, by their period or by a line's, and are not issued, not paid, or disputed.
SELECT coalesce(i.number, 'draft ' || i.id) AS name, i.status
FROM invoices i
WHERE (i.status NOT IN ('paid', 'cancelled') OR i.disputed_at IS NOT NULL)
  AND (i.kind = 'usage' AND i.period_start < $2 AND i.period_end > $1
       OR EXISTS (SELECT FROM invoice_lines l
                  WHERE l.invoice_id = i.id
                    AND (l.period_start < $2 AND l.period_end > $1 OR l.first_event_at < $2 AND l.last_event_at >= $1)))
ORDER BY name;

-- name: unbilled
-- Usage of hours from $1 up to $2 that waits for a price, a settlement or an invoice: how many events.
SELECT coalesce(sum(requests), 0)::bigint FROM rated_usage
WHERE hour >= $1 AND hour < $2 AND settlement_id IS NULL AND invoice_line_id IS NULL;

-- name: open_quarantine
-- Refused records, not replayed or discarded, that may be usage of a month: they came between its start $1 and the time $2 up to which
-- its events are accepted.
SELECT count(*) FROM quarantined_events
WHERE resolution IS NULL AND coalesce(published_at, quarantined_at) >= $1 AND coalesce(published_at, quarantined_at) < $2;

-- name: open_held
-- Events of times from $1 up to $2 that wait for their subscription or key.
SELECT count(*) FROM held_events WHERE attributed_at IS NULL AND occurred_at >= $1 AND occurred_at < $2;

-- name: wait_briefly
-- For a lock that others would queue behind.
SELECT set_config('lock_timeout', '5s', true);

-- name: begin_archive
-- From now on nobody makes the month anew. An archive of it that was restored is superseded.
INSERT INTO usage_archives (month, state) VALUES ($1, 'archiving')
ON CONFLICT (month) DO UPDATE SET state = 'archiving', begun_at = now();

-- name: give_up
-- The month stays: forgets that it was to be archived, but not an earlier archive of it.
DELETE FROM usage_archives WHERE month = $1 AND restored_at IS NULL;

-- name: give_up_again
-- The same for a month that had been archived and restored before.
UPDATE usage_archives SET state = 'restored' WHERE month = $1;

-- name: forget_sums
-- Makes room for sums that are computed again.
DELETE FROM usage_archive_sums WHERE month = $1;

-- name: forget_batches
-- The same for the rows by batch.
DELETE FROM usage_archive_batches WHERE month = $1;

-- name: note_archive
-- Notes the file of a month that is still attached: the moment it is detached, its sums stand for it.
UPDATE usage_archives SET file = $2, sha256 = $3, manifest = $4, archived_at = now() WHERE month = $1;

-- name: finish_archive
-- The table is gone: only the file has the month.
UPDATE usage_archives SET state = 'archived' WHERE month = $1;

-- name: note_restored
-- The month is in usage_logs again; its sums rest until it is archived again.
UPDATE usage_archives SET state = 'restored', restored_at = now() WHERE month = $1;

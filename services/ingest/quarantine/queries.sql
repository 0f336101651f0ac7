-- Quarantine, the operator's side, in the order of its commands. These run with the rights of an operator, not of ingest's role.

-- name: act_as
-- Who acts in this transaction, for audit_logs.
SELECT set_config('tallystick.actor', $1, true);

-- name: open_by_reason
-- How many records are open, by reason, and since when.
SELECT reason, count(*) AS records, min(quarantined_at) AS since
FROM quarantined_events WHERE resolution IS NULL AND ($1::text IS NULL OR reason = $1)
GROUP BY reason ORDER BY count(*) DESC, reason;

-- name: count_chosen
-- How many open records a choice names.
SELECT count(*) FROM quarantined_events
WHERE resolution IS NULL AND ($1::text IS NULL OR reason = $1) AND ($2::uuid[] IS NULL OR id = ANY($2));

-- name: list_open
-- Open records, the newest first.
SELECT id, reason, detail, cluster, topic, partition, epoch, record_offset, record_key, record_value, record_headers, published_at,
       batch_id, quarantined_at, tried_at, resolution, resolved_at, resolved_by, resolved_why, resolved_batch_id
FROM quarantined_events WHERE resolution IS NULL AND ($1::text IS NULL OR reason = $1)
ORDER BY id DESC LIMIT $2;

-- name: by_ids
-- Records by their ids, resolved ones too.
SELECT id, reason, detail, cluster, topic, partition, epoch, record_offset, record_key, record_value, record_headers, published_at,
       batch_id, quarantined_at, tried_at, resolution, resolved_at, resolved_by, resolved_why, resolved_batch_id
FROM quarantined_events WHERE id = ANY($1::uuid[]) ORDER BY id;

-- name: take
-- The next open records of a choice, after $1. Their rows stay locked until the transaction ends, so that nobody else replays or
-- discards them meanwhile. SKIP LOCKED: what another replay has in hand is its own. `held_before`: this offset is in held_events already.
SELECT q.id, q.cluster, q.topic, q.partition, q.epoch, q.record_offset, q.record_key, q.record_value, q.record_headers, q.quarantined_at,
       EXISTS (SELECT FROM held_events h WHERE (h.cluster, h.topic, h.partition, h.epoch, h.record_offset)
               = (q.cluster, q.topic, q.partition, q.epoch, q.record_offset)) AS held_before
FROM quarantined_events q
WHERE q.resolution IS NULL AND q.id > $1 AND ($2::text IS NULL OR q.reason = $2) AND ($3::uuid[] IS NULL OR q.id = ANY($3))
ORDER BY q.id LIMIT $4
FOR UPDATE OF q SKIP LOCKED;

-- name: resolve_replayed
-- Marks records as taken in by a replay batch.
WITH resolved AS (
    UPDATE quarantined_events
    SET resolution = 'replayed', resolved_at = now(), resolved_by = $3, resolved_why = $4, resolved_batch_id = $2
    WHERE id = ANY($1::uuid[]) AND resolution IS NULL
    RETURNING id, reason, detail
)
INSERT INTO audit_logs (action, resource_type, resource_id, before, after)
SELECT 'quarantine.replayed', 'quarantined_event', id::text,
       jsonb_build_object('reason', reason, 'detail', detail, 'resolution', NULL),
       jsonb_build_object('resolution', 'replayed', 'batch_id', $2, 'why', $4)
FROM resolved;

-- name: refuse_again
-- Keeps records open with the reason that holds now; audited where it is another one than before.
WITH tried AS (
    SELECT q.id, q.reason AS old_reason, q.detail AS old_detail, t.reason, t.detail
    FROM unnest($1::uuid[], $2::text[], $3::text[]) AS t (id, reason, detail) JOIN quarantined_events q USING (id)
    WHERE q.resolution IS NULL
), kept AS (
    UPDATE quarantined_events q SET reason = t.reason, detail = t.detail, tried_at = now() FROM tried t WHERE q.id = t.id
)
INSERT INTO audit_logs (action, resource_type, resource_id, before, after)
SELECT 'quarantine.refused_again', 'quarantined_event', id::text,
       jsonb_build_object('reason', old_reason, 'detail', old_detail), jsonb_build_object('reason', reason, 'detail', detail)
FROM tried WHERE (old_reason, old_detail) <> (reason, detail);

-- name: discard
-- Gives records up: their bytes are kept, but they are not open any more. What somebody else has in hand is left to them.
WITH chosen AS (
    SELECT id, reason, detail FROM quarantined_events
    WHERE resolution IS NULL AND ($1::text IS NULL OR reason = $1) AND ($2::uuid[] IS NULL OR id = ANY($2))
    ORDER BY id FOR UPDATE SKIP LOCKED
), discarded AS (
    UPDATE quarantined_events q SET resolution = 'discarded', resolved_at = now(), resolved_by = $3, resolved_why = $4
    FROM chosen c WHERE q.id = c.id
)
INSERT INTO audit_logs (action, resource_type, resource_id, before, after)
SELECT 'quarantine.discarded', 'quarantined_event', id::text,
       jsonb_build_object('reason', reason, 'detail', detail, 'resolution', NULL),
       jsonb_build_object('resolution', 'discarded', 'why', $4)
FROM chosen;

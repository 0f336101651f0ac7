-- Held events, the operator's side. These run with the rights of an operator, not of ingest's role.

-- name: act_as
-- Who acts, for audit_logs.
SELECT set_config('tallystick.actor', $1, true);

-- name: waiting_for
-- Who is waited for, by how many events, and since when: the longest first, at most $1 (NULL: all).
SELECT reason, subscription_id, api_key_id, api_key_hash, original_id, count(*) AS events, min(held_at) AS since,
       extract(epoch FROM now() - min(held_at))::float8 AS oldest_seconds
FROM held_events WHERE attributed_at IS NULL AND expired_at IS NULL
GROUP BY reason, subscription_id, api_key_id, api_key_hash, original_id ORDER BY min(held_at) LIMIT $1;

-- name: list_waiting
-- Events that wait, the oldest first.
SELECT id, reason, subscription_id, api_key_id, api_key_hash, original_id, occurred_at, cluster, topic, partition, epoch, record_offset, record_key,
       record_value, record_headers, batch_id, held_at, attributed_at, attributed_batch_id, expired_at, expired_by, expired_why
FROM held_events WHERE attributed_at IS NULL AND expired_at IS NULL ORDER BY held_at, id LIMIT $1;

-- name: by_ids
-- Events by their ids, attributed and expired ones too.
SELECT id, reason, subscription_id, api_key_id, api_key_hash, original_id, occurred_at, cluster, topic, partition, epoch, record_offset, record_key,
       record_value, record_headers, batch_id, held_at, attributed_at, attributed_batch_id, expired_at, expired_by, expired_why
FROM held_events WHERE id = ANY($1::uuid[]) ORDER BY held_at, id;

-- name: owner_exists
-- Whether all that an event ($1) waits for exists by now. With the rights of ingest, which attributes it then.
SELECT (h.subscription_id IS NULL OR EXISTS (SELECT FROM subscriptions s WHERE s.id = h.subscription_id))
   AND (h.api_key_id IS NULL OR EXISTS (SELECT FROM api_keys k WHERE k.id = h.api_key_id))
   AND (h.api_key_hash IS NULL OR EXISTS (SELECT FROM api_keys k WHERE k.key_hash = h.api_key_hash))
   AND (h.original_id IS NULL OR EXISTS (SELECT FROM usage_ids i WHERE i.id = h.original_id))
FROM held_events h WHERE h.id = $1;

-- name: expire
-- Gives up waiting: the bytes are kept, but the events are never attributed. What a worker attributes at this moment is left to it.
WITH chosen AS (
    SELECT id, reason, held_at FROM held_events
    WHERE id = ANY($1::uuid[]) AND attributed_at IS NULL AND expired_at IS NULL
    ORDER BY id FOR UPDATE SKIP LOCKED
), expired AS (
    UPDATE held_events h SET expired_at = now(), expired_by = $2, expired_why = $3 FROM chosen c WHERE h.id = c.id
)
INSERT INTO audit_logs (action, resource_type, resource_id, before, after)
SELECT 'held.expired', 'held_event', id::text,
       jsonb_build_object('reason', reason, 'held_at', held_at, 'expired', false), jsonb_build_object('expired', true, 'why', $3)
FROM chosen;

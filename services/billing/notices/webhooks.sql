-- The SQL of webhooks: endpoints, deliveries, attempts. Messages and deliveries are queued by the trigger queue_webhooks.

-- name: add_endpoint
-- Registers an endpoint of a user, or of the whole installation ($2 NULL).
INSERT INTO webhook_endpoints (id, user_id, url, description, event_types, encrypted_secret, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: endpoints
-- Endpoints with how they do, of all or of one user, without their secrets.
SELECT e.id, e.user_id, e.url, e.description, e.event_types, e.enabled, e.disabled_at, e.disabled_reason, e.failures, e.failing_since,
       e.previous_until, e.created_at, e.created_by,
       (SELECT count(*) FROM webhook_deliveries d WHERE d.endpoint_id = e.id AND d.status = 'pending') AS pending
FROM webhook_endpoints e
WHERE ($1::uuid IS NULL OR e.user_id = $1) AND ($2::uuid IS NULL OR e.id = $2)
ORDER BY e.created_at, e.id;

-- name: disable_endpoint
-- Stops writing to an endpoint; returns whether it was enabled. What waits for it waits on.
UPDATE webhook_endpoints SET enabled = false, disabled_at = $2, disabled_reason = $3 WHERE id = $1 AND enabled
RETURNING id;

-- name: enable_endpoint
-- Writes to an endpoint again, as if it had never failed.
UPDATE webhook_endpoints SET enabled = true, disabled_at = NULL, disabled_reason = NULL, failures = 0, failing_since = NULL WHERE id = $1
RETURNING id;

-- name: due_again
-- What waits for an endpoint is tried again now.
UPDATE webhook_deliveries SET next_attempt_at = $2, failures = 0 WHERE endpoint_id = $1 AND status = 'pending';

-- name: rotate_secret
-- Gives an endpoint another secret; until $3 deliveries are signed with the one before as well.
UPDATE webhook_endpoints SET encrypted_previous_secret = encrypted_secret, previous_until = $3, encrypted_secret = $2 WHERE id = $1
RETURNING id;

-- name: secrets
-- All stored secrets, locked, for another key.
SELECT id, encrypted_secret, encrypted_previous_secret FROM webhook_endpoints ORDER BY id FOR UPDATE;

-- name: reseal
-- Stores secrets that were encrypted anew.
UPDATE webhook_endpoints SET encrypted_secret = $2, encrypted_previous_secret = $3 WHERE id = $1;

-- name: claim
-- Takes deliveries that are due at $1, at most $2 in all and $3 of one endpoint, none of the endpoints $4, which have enough on their way,
-- for a worker that has until $5: after that another one takes them up. Endpoints that work come first; one that fails gets one at a
-- time, so none while it has one on its way ($6): who does not answer cannot keep others waiting. Then who has waited longest. SKIP LOCKED: two workers share the work. The request is made after this has
-- committed, so that nothing is locked while an endpoint takes its time.
WITH ready AS (
    SELECT e.id, e.failing_since IS NOT NULL AS failing,
           (SELECT min(next_attempt_at) FROM webhook_deliveries d WHERE d.endpoint_id = e.id AND d.status = 'pending') AS first_due
    FROM webhook_endpoints e
    WHERE e.enabled AND NOT e.id = ANY($4::uuid[]) AND NOT (e.failing_since IS NOT NULL AND e.id = ANY($6::uuid[]))
), chosen AS (
    SELECT d.id, d.endpoint_id
    FROM (SELECT * FROM ready WHERE first_due <= $1 ORDER BY failing, first_due LIMIT $2) r
    CROSS JOIN LATERAL (
        SELECT id, endpoint_id FROM webhook_deliveries
        WHERE endpoint_id = r.id AND status = 'pending' AND next_attempt_at <= $1
        ORDER BY next_attempt_at, created_at LIMIT CASE WHEN r.failing THEN 1 ELSE $3::int END FOR UPDATE SKIP LOCKED) d
    LIMIT $2
), taken AS (
    UPDATE webhook_deliveries d SET attempts = attempts + 1, next_attempt_at = $5
    FROM chosen WHERE d.id = chosen.id
    RETURNING d.id, d.endpoint_id, d.message_id, d.attempts, d.failures
), begun AS (
    INSERT INTO webhook_attempts (delivery_id, attempt, started_at) SELECT id, attempts, $1 FROM taken
)
SELECT t.id, t.endpoint_id, t.attempts, t.failures, e.user_id, e.url, m.id AS message_id, m.type, m.body, e.encrypted_secret,
       CASE WHEN e.previous_until > $1 THEN e.encrypted_previous_secret END AS encrypted_previous_secret
FROM taken t JOIN webhook_endpoints e ON e.id = t.endpoint_id JOIN webhook_messages m ON m.id = t.message_id;

-- name: end_attempt
-- Writes into the delivery log what a request came to.
UPDATE webhook_attempts SET outcome = $3, response_status = $4, latency_ms = $5, detail = $6 WHERE delivery_id = $1 AND attempt = $2;

-- name: succeed
-- Marks a delivery as made, by whichever attempt.
UPDATE webhook_deliveries SET status = 'delivered', next_attempt_at = NULL, finished_at = $2 WHERE id = $1 AND status = 'pending';

-- name: fail
-- Marks a delivery as failed once more: to be tried again at $4, or given up (NULL). Only by the attempt that holds it: a worker that
-- slept through its time must not undo what another has done since.
UPDATE webhook_deliveries
SET failures = failures + 1, status = CASE WHEN $4::timestamptz IS NULL THEN 'failed' ELSE 'pending' END, next_attempt_at = $4,
    finished_at = CASE WHEN $4::timestamptz IS NULL THEN $3::timestamptz END
WHERE id = $1 AND attempts = $2 AND status = 'pending';

-- name: endpoint_succeeded
-- Forgets the failures of an endpoint.
UPDATE webhook_endpoints SET failures = 0, failing_since = NULL WHERE id = $1 AND failures > 0;

-- name: endpoint_failed
-- Counts a failure of an endpoint.
UPDATE webhook_endpoints SET failures = failures + 1, failing_since = coalesce(failing_since, $2) WHERE id = $1
RETURNING failures, failing_since, enabled;

-- name: deliveries
-- The delivery log, newest first: of an endpoint, a status, a delivery or an event, as far as they are named; at most $5.
SELECT d.id, d.endpoint_id, d.message_id, m.type, d.status, d.attempts, d.next_attempt_at, d.finished_at, d.created_at,
       a.outcome, a.response_status, a.latency_ms, a.detail, a.started_at AS last_attempt_at
FROM webhook_deliveries d
JOIN webhook_messages m ON m.id = d.message_id
LEFT JOIN webhook_attempts a ON a.delivery_id = d.id AND a.attempt = d.attempts
WHERE ($1::uuid IS NULL OR d.endpoint_id = $1) AND ($2::text IS NULL OR d.status = $2) AND ($3::uuid IS NULL OR d.id = $3)
  AND ($4::text IS NULL OR d.message_id = $4)
ORDER BY d.created_at DESC, d.id LIMIT $5;

-- name: attempts_of
-- Every attempt of a delivery.
SELECT attempt, started_at, outcome, response_status, latency_ms, detail FROM webhook_attempts WHERE delivery_id = $1 ORDER BY attempt;

-- name: redeliver
-- Makes deliveries due again with all their tries, whatever became of them: the ones named ($1), or those of endpoint $2 that were
-- queued since $3 and, with $4, that failed. Returns them; those of a disabled endpoint wait until it is enabled.
UPDATE webhook_deliveries SET status = 'pending', failures = 0, next_attempt_at = $5, finished_at = NULL
WHERE CASE WHEN $1::uuid[] IS NOT NULL THEN id = ANY($1)
           ELSE endpoint_id = $2 AND created_at >= $3 AND (NOT $4::boolean OR status = 'failed') END
RETURNING id;

-- name: ping
-- Queues a message for one endpoint alone, whatever it asked for; returns the delivery.
WITH message AS (
    INSERT INTO webhook_messages (id, type, user_id, occurred_at, body)
    SELECT $2, $3, e.user_id, $4, $5 FROM webhook_endpoints e WHERE e.id = $1 RETURNING id
)
INSERT INTO webhook_deliveries (endpoint_id, message_id) SELECT $1, id FROM message RETURNING id;

-- name: backlog
-- Deliveries that wait at enabled endpoints, for how many seconds at $1 the most overdue has, and how many endpoints are disabled.
SELECT (SELECT count(*) FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
        WHERE d.status = 'pending' AND e.enabled) AS pending,
       (SELECT coalesce(greatest(0, extract(epoch FROM $1::timestamptz - min(d.next_attempt_at))), 0)::float8
        FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id WHERE d.status = 'pending' AND e.enabled) AS overdue_seconds,
       (SELECT count(*) FROM webhook_endpoints WHERE NOT enabled) AS disabled;

-- name: forget
-- Deletes messages from before $1, with their log, unless one of their deliveries is still to be made; at most $2 at a time.
DELETE FROM webhook_messages
WHERE id IN (SELECT m.id FROM webhook_messages m
             WHERE m.created_at < $1
               AND NOT EXISTS (SELECT FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
                               WHERE d.message_id = m.id AND d.status = 'pending' AND e.enabled)
             ORDER BY m.created_at LIMIT $2)
RETURNING id;

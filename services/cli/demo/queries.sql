-- The SQL of the demo and of `tallystick replay`: whom traffic is sent for, how far the pipeline is, what came of it.

-- name: subscribers
-- Subscriptions that traffic can be sent for, each with the hash of one of its keys. First those that nothing suspends
-- (no quota, invoiced), in an order that later sign-ups do not change: a trace is assigned to the first ones.
SELECT s.id::text AS subscription_id, s.model_id AS model,
       (SELECT k.key_hash FROM api_keys k WHERE k.subscription_id = s.id AND k.is_active ORDER BY k.id LIMIT 1) AS key_hash
FROM subscriptions s
WHERE s.status IN ('active', 'trialing', 'suspended')
ORDER BY (s.quota_requests IS NULL AND s.quota_tokens IS NULL AND s.billing_mode = 'postpaid') DESC, s.created_at, s.id;

-- name: models
-- Models that are served.
SELECT id, provider FROM models WHERE is_active ORDER BY id;

-- name: sign_up_user
-- A customer who signs up while usage of the coming subscription is already arriving.
INSERT INTO users (username, email, full_name, email_verified)
VALUES ($1, $1 || '@example.com', 'Signed up during the demo', true)
ON CONFLICT DO NOTHING;

-- name: sign_up_subscription
-- The subscription that gateways knew before the database did: $1 its id, $2 the customer's name, $3 the model.
INSERT INTO subscriptions (id, user_id, model_id, status, billing_mode, quota_requests, quota_tokens)
SELECT $1::uuid, u.id, $3, 'active', 'postpaid', NULL, NULL FROM users u WHERE u.username = $2
ON CONFLICT DO NOTHING;

-- name: foreign_usage
-- Whether the log holds usage that neither a demo nor a trace left there.
SELECT EXISTS (SELECT FROM usage_logs WHERE source NOT LIKE '/demo/%' AND source NOT LIKE '/trace/%');

-- name: foreign_users
-- Whether there are users that neither the seed nor a demo made.
SELECT EXISTS (SELECT FROM users WHERE email NOT LIKE '%@example.%');

-- name: stored
-- What ingest has made of all records so far. Held events that were attributed since count by what became of them then.
SELECT coalesce(sum(inserted), 0)::bigint AS inserted, coalesce(sum(duplicates), 0)::bigint AS duplicates,
       coalesce(sum(quarantined), 0)::bigint AS quarantined,
       coalesce(sum(next_offset - first_offset), 0)::bigint AS consumed,
       (SELECT count(*) FROM held_events WHERE attributed_at IS NULL) AS held
FROM usage_batches;

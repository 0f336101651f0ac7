-- Keys of users at providers. The audit trail is written by triggers.

-- name: lock_provider
-- One change at a time of the keys of user $1 at provider $2: two at once would both become the default.
SELECT pg_advisory_xact_lock(hashtextextended('tallystick.provider_keys ' || $1::uuid::text || ' ' || $2, 0));

-- name: store_key
-- Stores a key ($1) of user $2 at provider $3, called $4: token $5 made with secret $6, hint $7, the default if $8 or if there is none yet;
-- stored at $9, to be replaced by $10.
INSERT INTO user_provider_keys (id, user_id, provider, key_name, encrypted_api_key, encryption_key_id, key_hint, is_default, rotated_at, created_at,
                                rotation_due_at, usage_month)
VALUES ($1, $2, $3, $4, $5, $6, $7,
        $8 OR NOT EXISTS (SELECT FROM user_provider_keys WHERE user_id = $2 AND provider = $3 AND is_default), $9, $9, $10,
        date_trunc('month', $9::timestamptz, 'UTC'));

-- name: no_default
-- No key of user $1 at provider $2 is the default.
UPDATE user_provider_keys SET is_default = false WHERE user_id = $1 AND provider = $2 AND is_default;

-- name: make_default
-- Key $1 is the default.
UPDATE user_provider_keys SET is_default = true WHERE id = $1;

-- name: find_key
-- Key $1; of user $2, if one is given.
SELECT id, user_id, provider, key_name, key_hint, is_default, is_active, last_used_at, monthly_requests, monthly_tokens, usage_month, total_requests,
    rotated_at, rotation_due_at, created_at
FROM user_provider_keys WHERE id = $1 AND ($2::uuid IS NULL OR user_id = $2);

-- name: replace_key
-- Key $1 has a new token ($2) made with secret $3, and hint $4, as of $5; to be replaced by $6.
UPDATE user_provider_keys
SET encrypted_api_key = $2, encryption_key_id = $3, key_hint = $4, rotated_at = $5, rotation_due_at = $6, rotation_reminded_at = NULL
WHERE id = $1;

-- name: delete_key
-- Key $1 is gone, with its token.
DELETE FROM user_provider_keys WHERE id = $1;

-- name: next_default
-- Who has no default at provider $2 any more gets the oldest key as that.
UPDATE user_provider_keys SET is_default = true
WHERE id = (SELECT id FROM user_provider_keys WHERE user_id = $1 AND provider = $2 AND is_active ORDER BY created_at, id LIMIT 1)
  AND NOT EXISTS (SELECT FROM user_provider_keys WHERE user_id = $1 AND provider = $2 AND is_default);

-- name: list_keys
-- Keys of user $1 (of all without one) at provider $2 (at all without one), by provider and name; $3 at most after $4 of them, behind
-- ($5, $6, $7) if that is given.
SELECT id, user_id, provider, key_name, key_hint, is_default, is_active, last_used_at, monthly_requests, monthly_tokens, usage_month, total_requests,
    rotated_at, rotation_due_at, created_at
FROM user_provider_keys WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR provider = $2)
  AND ($5::text IS NULL OR (provider, key_name, id) > ($5, $6::text, $7::uuid))
ORDER BY provider, key_name, id LIMIT $3 OFFSET $4;

-- name: tokens
-- The tokens after id $1, $2 at most.
SELECT id, encrypted_api_key, encryption_key_id FROM user_provider_keys WHERE id > $1 ORDER BY id LIMIT $2;

-- name: tokens_of_other_secrets
-- The tokens after id $1 that secret $2 did not make, $3 at most, taken so that a replacement meanwhile is not undone.
SELECT id, encrypted_api_key, encryption_key_id FROM user_provider_keys WHERE id > $1 AND encryption_key_id <> $2 ORDER BY id LIMIT $3
FOR UPDATE SKIP LOCKED;

-- name: reencrypt
-- The same keys ($1), with tokens ($2) made by secret $3.
UPDATE user_provider_keys k SET encrypted_api_key = n.token, encryption_key_id = $3
FROM unnest($1::uuid[], $2::text[]) AS n (id, token) WHERE k.id = n.id;

-- name: note_reencryption
-- Says in the audit trail that $3 let $1 keys be encrypted anew with secret $2.
INSERT INTO audit_logs (actor, action, resource_type, details)
VALUES ($3, 'provider_keys.reencrypted', 'provider_key', jsonb_build_object('keys', $1::int, 'secret', $2::text));

-- name: count_by_secret
-- How many keys each secret has made.
SELECT encryption_key_id, count(*) AS keys FROM user_provider_keys GROUP BY encryption_key_id ORDER BY encryption_key_id;

-- What administrators read over HTTP. Lists are newest first; the last parameters of each are the sort key of the row to go on after (NULL:
-- from the beginning), the limit and the offset.

-- name: payments
-- Payments, of a user ($1: id or e-mail address), in a status ($2); each NULL: any.
SELECT p.id, p.user_id, u.email, p.invoice_id, i.number AS invoice_number, p.package_id, c.name AS package, p.amount, p.currency,
       p.status, p.provider, p.reference, p.failure_reason, p.refunded_amount, p.allocated_amount, p.processed_at, p.created_at
FROM payments p JOIN users u ON u.id = p.user_id LEFT JOIN invoices i ON i.id = p.invoice_id LEFT JOIN credit_packages c ON c.id = p.package_id
WHERE ($1::text IS NULL OR u.id::text = lower($1) OR lower(u.email) = lower($1)) AND ($2::text IS NULL OR p.status = $2)
  AND ($3::timestamptz IS NULL OR (p.created_at, p.id) < ($3, $4::uuid))
ORDER BY p.created_at DESC, p.id DESC LIMIT $5 OFFSET $6;

-- name: overdue
-- Issued invoices that are due at $3 and not paid, of a user ($1: id or e-mail address), disputed or not ($2); each NULL: any; or one ($5).
-- The longest due first, with the last step that was made, and whether the customer can be charged by a provider of $4.
SELECT i.id, i.number, i.user_id, u.email, i.status, i.currency, i.total, i.total - i.amount_credited - i.amount_paid AS outstanding, i.due_date,
       i.disputed_at, i.dispute_reason, d.step AS last_step, d.action AS last_action, d.made_at AS last_at,
       EXISTS (SELECT FROM payments p WHERE p.invoice_id = i.id AND p.status IN ('pending', 'processing')) AS under_way,
       EXISTS (SELECT FROM dunning_attempts s WHERE s.invoice_id = i.id AND s.action = 'suspend' AND s.lifted_at IS NULL) AS suspended,
       EXISTS (SELECT FROM payment_methods m JOIN user_credits c ON c.user_id = m.user_id AND c.stripe_customer_id IS NOT NULL
               WHERE m.user_id = i.user_id AND m.is_default AND m.detached_at IS NULL AND m.provider = ANY ($4::text[])) AS chargeable
FROM invoices i JOIN users u ON u.id = i.user_id
LEFT JOIN LATERAL (SELECT step, action, made_at FROM dunning_attempts a WHERE a.invoice_id = i.id ORDER BY step DESC LIMIT 1) d ON true
WHERE i.status IN ('sent', 'partially_paid', 'overdue') AND i.due_date <= $3 AND i.total - i.amount_credited - i.amount_paid > 0
  AND ($1::text IS NULL OR u.id::text = lower($1) OR lower(u.email) = lower($1))
  AND ($2::boolean IS NULL OR (i.disputed_at IS NOT NULL) = $2) AND ($5::uuid IS NULL OR i.id = $5)
  AND ($6::timestamptz IS NULL OR (i.due_date, i.id) > ($6, $7::uuid))
ORDER BY i.due_date, i.id LIMIT $8 OFFSET $9;

-- name: issued_invoice
-- The id of an issued invoice by its id ($1) or number ($2).
SELECT id FROM invoices WHERE (id = $1::uuid OR number = $2::text) AND number IS NOT NULL;

-- name: dunning_steps
-- What was done about an invoice ($1) that was not paid, and how charges ended. Steps are counted from 1.
SELECT d.step + 1 AS step, d.action, d.due_at, d.made_at, d.payment_id, p.status AS payment_status, d.lifted_at
FROM dunning_attempts d LEFT JOIN payments p ON p.id = d.payment_id WHERE d.invoice_id = $1 ORDER BY d.step;

-- name: subscriptions
-- Subscriptions of a user ($1: id or e-mail address), on a plan or to a model ($2), in a status ($3); each NULL: any.
SELECT s.id, s.user_id, u.email, s.plan_id, s.model_id, s.status::text AS status, s.suspended_reasons, s.billing_mode, s.currency, s.amount,
       s.quota_requests, s.quota_tokens, s.used_requests, s.used_tokens, s.reset_at, s.current_period_start, s.current_period_end, s.trial_end,
       s.cancel_at_period_end, s.expires_at, s.created_at
FROM subscriptions s JOIN users u ON u.id = s.user_id
WHERE ($1::text IS NULL OR u.id::text = lower($1) OR lower(u.email) = lower($1)) AND ($2::text IS NULL OR $2 IN (s.plan_id, s.model_id))
  AND ($3::text IS NULL OR s.status::text = $3)
  AND ($4::timestamptz IS NULL OR (s.created_at, s.id) < ($4, $5::uuid))
ORDER BY s.created_at DESC, s.id DESC LIMIT $6 OFFSET $7;

-- name: subscription
-- One subscription ($1), as the list shows it.
SELECT s.id, s.user_id, u.email, s.plan_id, s.model_id, s.status::text AS status, s.suspended_reasons, s.billing_mode, s.currency, s.amount,
       s.quota_requests, s.quota_tokens, s.used_requests, s.used_tokens, s.reset_at, s.current_period_start, s.current_period_end, s.trial_end,
       s.cancel_at_period_end, s.expires_at, s.created_at
FROM subscriptions s JOIN users u ON u.id = s.user_id WHERE s.id = $1;

-- name: models
-- Models of a provider ($1), used or not ($2), whose id or name contains a text ($3); each NULL: any. By id, after $4.
SELECT id, name, provider, description, capabilities, context_length, input_price_per_1k, output_price_per_1k, metadata, is_active, created_at,
       updated_at
FROM models
WHERE ($1::text IS NULL OR provider = $1) AND ($2::boolean IS NULL OR is_active = $2)
  AND ($3::text IS NULL OR strpos(lower(id || ' ' || name), lower($3)) > 0) AND ($4::text IS NULL OR id > $4)
ORDER BY id LIMIT $5 OFFSET $6;

-- name: model
-- One model ($1).
SELECT id, name, provider, description, capabilities, context_length, input_price_per_1k, output_price_per_1k, metadata, is_active, created_at,
       updated_at
FROM models WHERE id = $1;

-- name: put_model
-- Makes a model ($1), or puts it in the place of what was known of it.
INSERT INTO models (id, name, provider, description, capabilities, context_length, input_price_per_1k, output_price_per_1k, metadata, is_active)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, provider = excluded.provider, description = excluded.description, capabilities = excluded.capabilities,
    context_length = excluded.context_length, input_price_per_1k = excluded.input_price_per_1k,
    output_price_per_1k = excluded.output_price_per_1k, metadata = excluded.metadata, is_active = excluded.is_active
RETURNING created_at = updated_at AS is_new;

-- name: withdraw_model
-- Lets nobody subscribe to a model ($1) any more; true if there is one.
UPDATE models SET is_active = false WHERE id = $1 RETURNING true;

-- name: plan_rows
-- The plans ($1, or all), whether they can be subscribed to, and by how many live subscriptions they are.
SELECT p.id, p.name, p.description, p.features, p.is_active, p.created_at,
       (SELECT count(*) FROM subscriptions s WHERE s.plan_id = p.id AND s.status NOT IN ('cancelled', 'expired')) AS subscriptions
FROM plans p WHERE $1::text IS NULL OR p.id = $1 ORDER BY p.id;

-- name: version_meters
-- What the versions of a plan ($1, or of all) count and charge, as it was written.
SELECT id, meters FROM plan_versions WHERE $1::text IS NULL OR plan_id = $1;

-- name: open_plan
-- Lets a plan ($1) be subscribed to, or not any more ($2); true if there is one.
UPDATE plans SET is_active = $2 WHERE id = $1 RETURNING true;

-- name: power_levels
-- The power levels ($1, or all).
SELECT power_level, name, description, preferred_providers, fallback_strategy, cost_multiplier, max_latency_ms, min_quality_score, is_active
FROM power_level_configs WHERE $1::text IS NULL OR power_level = $1 ORDER BY cost_multiplier, power_level;

-- name: set_power_level
-- Changes a power level ($1).
UPDATE power_level_configs
SET name = $2, description = $3, preferred_providers = $4, fallback_strategy = $5, cost_multiplier = $6, max_latency_ms = $7,
    min_quality_score = $8, is_active = $9
WHERE power_level = $1;

-- name: quarantined
-- Records in quarantine, for a reason ($1), open ones or resolved ones ($2: open, replayed, discarded); each NULL: any. Without their bytes.
SELECT id, reason, detail, cluster, topic, partition, epoch, record_offset, published_at, batch_id, quarantined_at, tried_at, resolution,
       resolved_at, resolved_by, resolved_why, resolved_batch_id
FROM quarantined_events
WHERE ($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR coalesce(resolution, 'open') = $2)
  AND ($3::timestamptz IS NULL OR (quarantined_at, id) < ($3, $4::uuid))
ORDER BY quarantined_at DESC, id DESC LIMIT $5 OFFSET $6;

-- name: held
-- Events that wait, or waited, for their subscription, key or original ($1: waiting, attributed, expired; NULL: any), for a reason ($2; NULL:
-- any). Without their bytes.
SELECT id, reason, subscription_id, api_key_id, original_id, occurred_at, cluster, topic, partition, epoch, record_offset, batch_id, held_at,
       attributed_at, attributed_batch_id, expired_at, expired_by, expired_why
FROM held_events
WHERE ($1::text IS NULL OR $1 = CASE WHEN expired_at IS NOT NULL THEN 'expired' WHEN attributed_at IS NOT NULL THEN 'attributed' ELSE 'waiting' END)
  AND ($2::text IS NULL OR reason = $2)
  AND ($3::timestamptz IS NULL OR (held_at, id) < ($3, $4::uuid))
ORDER BY held_at DESC, id DESC LIMIT $5 OFFSET $6;

-- name: audit
-- The audit trail: by an actor ($1), by or about a user ($2), of one action or its kind ($3: subscription.suspended or subscription), of a
-- resource ($4 type, $5 id), in [$6, $7); each NULL: any.
SELECT id, created_at, actor, admin_id, user_id, action, resource_type, resource_id, before, after, details, host(ip_address) AS ip_address,
       user_agent, metadata->>'request_id' AS request_id
FROM audit_logs
WHERE ($1::text IS NULL OR actor = $1) AND ($2::uuid IS NULL OR user_id = $2 OR admin_id = $2)
  AND ($3::text IS NULL OR action = $3 OR starts_with(action, $3 || '.')) AND ($4::text IS NULL OR resource_type = $4)
  AND ($5::text IS NULL OR resource_id = $5) AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7)
  AND ($8::timestamptz IS NULL OR (created_at, id) < ($8, $9::uuid))
ORDER BY created_at DESC, id DESC LIMIT $10 OFFSET $11;

-- name: activity
-- What a user ($1) did in the portal, one action ($2) or any.
SELECT id, user_id, action, data, created_at FROM user_activity
WHERE user_id = $1 AND ($2::text IS NULL OR action = $2) AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4::uuid))
ORDER BY created_at DESC, id DESC LIMIT $5 OFFSET $6;

-- name: notes
-- What administrators wrote about a user ($1), flagged or not ($2); each NULL: any.
SELECT n.id, n.user_id, n.admin_id, a.username AS admin, n.note, n.is_flagged, n.created_at
FROM admin_notes n JOIN users a ON a.id = n.admin_id
WHERE ($1::uuid IS NULL OR n.user_id = $1) AND ($2::boolean IS NULL OR n.is_flagged = $2)
  AND ($3::timestamptz IS NULL OR (n.created_at, n.id) < ($3, $4::uuid))
ORDER BY n.created_at DESC, n.id DESC LIMIT $5 OFFSET $6;

-- name: note
-- One note ($1).
SELECT n.id, n.user_id, n.admin_id, a.username AS admin, n.note, n.is_flagged, n.created_at
FROM admin_notes n JOIN users a ON a.id = n.admin_id WHERE n.id = $1;

-- name: add_note
-- Writes a note ($5) about a user ($2) by an administrator ($3), flagged or not ($4); nothing where there is no such user.
INSERT INTO admin_notes (id, user_id, admin_id, is_flagged, note)
SELECT $1, u.id, $3, $4, $5 FROM users u WHERE u.id = $2 AND u.anonymised_at IS NULL RETURNING id;

-- name: change_note
-- Changes a note ($1): its text ($2) and its flag ($3), as far as they are given.
UPDATE admin_notes SET note = coalesce($2, note), is_flagged = coalesce($3, is_flagged) WHERE id = $1;

-- name: delete_note
-- Deletes a note ($1); true if there is one.
DELETE FROM admin_notes WHERE id = $1 RETURNING true;

-- name: sessions
-- Logins, of a user ($1) or of all, that are valid at $2: of each the pair of tokens that was made last.
SELECT s.family AS id, s.user_id, u.email, s.logged_in_at, s.created_at AS refreshed_at, s.expires_at, host(s.ip_address) AS ip_address, s.user_agent
FROM sessions s JOIN users u ON u.id = s.user_id
WHERE ($1::uuid IS NULL OR s.user_id = $1) AND s.expires_at > $2 AND s.used_at IS NULL
  AND ($3::timestamptz IS NULL OR (s.logged_in_at, s.family) < ($3, $4::uuid))
ORDER BY s.logged_in_at DESC, s.family DESC LIMIT $5 OFFSET $6;

-- name: end_sessions
-- Ends one login ($1), or all of a user ($2), and notes it.
WITH ended AS (
    DELETE FROM sessions WHERE family = $1 OR user_id = $2 RETURNING family, user_id, logged_in_at, expires_at
)
INSERT INTO audit_logs (user_id, action, resource_type, resource_id, before)
SELECT user_id, 'session.revoked', 'session', family::text, jsonb_build_object('logged_in_at', min(logged_in_at), 'expires_at', max(expires_at))
FROM ended GROUP BY user_id, family;

-- name: users
-- Users whose e-mail address, name or user name contains a text ($1), with a role ($2), of a tier ($3), active or not ($4); each NULL: any.
SELECT u.id, u.username, u.email, u.full_name, u.roles, u.subscription_tier, u.is_active, u.email_verified, u.last_login_at, u.anonymised_at,
       u.created_at, u.updated_at
FROM users u
WHERE ($1::text IS NULL OR strpos(lower(concat_ws(' ', u.email, u.username, u.full_name)), lower($1)) > 0)
  AND ($2::text IS NULL OR $2 = ANY (u.roles)) AND ($3::text IS NULL OR u.subscription_tier = $3) AND ($4::boolean IS NULL OR u.is_active = $4)
  AND ($5::timestamptz IS NULL OR (u.created_at, u.id) < ($5, $6::uuid))
ORDER BY u.created_at DESC, u.id DESC LIMIT $7 OFFSET $8;

-- name: count_users
-- How many users there are of the same description.
SELECT count(*) FROM users u
WHERE ($1::text IS NULL OR strpos(lower(concat_ws(' ', u.email, u.username, u.full_name)), lower($1)) > 0)
  AND ($2::text IS NULL OR $2 = ANY (u.roles)) AND ($3::text IS NULL OR u.subscription_tier = $3) AND ($4::boolean IS NULL OR u.is_active = $4);

-- name: user_names
-- What users ($1) are called: by their name, else by their e-mail address.
SELECT id, coalesce(nullif(full_name, ''), email) AS name FROM users WHERE id = ANY($1::uuid[]);

-- name: user
-- One user ($1).
SELECT u.id, u.username, u.email, u.full_name, u.roles, u.subscription_tier, u.is_active, u.email_verified, u.last_login_at, u.anonymised_at,
       u.created_at, u.updated_at
FROM users u WHERE u.id = $1;

-- name: user_facts
-- What there is of a user ($1): subscriptions by status, credits, notes, and the activity of the portal.
SELECT (SELECT coalesce(jsonb_object_agg(status, n), '{}')
        FROM (SELECT s.status::text AS status, count(*) AS n FROM subscriptions s WHERE s.user_id = $1 GROUP BY s.status) AS by_status) AS subscriptions,
       get_user_balance($1) AS credits,
       (SELECT count(*) FROM admin_notes n WHERE n.user_id = $1) AS notes,
       (SELECT count(*) FROM admin_notes n WHERE n.user_id = $1 AND n.is_flagged) AS flagged_notes,
       a.total_actions, a.actions_this_week, a.last_activity, a.most_common_action
FROM get_user_activity_summary($1) a;

-- name: user_stats
-- How many users there are, were here today, came this week; and how many hours of usage are known of them.
SELECT total_users, active_users_today, new_users_this_week, total_usage_metrics FROM get_user_stats();

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
-- Models that are served; one that only embeds gives no answer back.
SELECT id, provider, NOT ('embeddings' = ANY (capabilities) AND cardinality(capabilities) = 1) AS answers
FROM models WHERE is_active ORDER BY id;

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

-- name: most_active_customer
-- Who has used most this month and last, as far as it is summed up.
SELECT u.id, u.username AS name
FROM users u JOIN subscriptions s ON s.user_id = u.id JOIN usage_summaries t ON t.subscription_id = s.id
WHERE t.period_type = 'month' AND u.is_active
GROUP BY u.id, u.username ORDER BY sum(t.request_count) DESC, u.id LIMIT 1;

-- name: foreign_usage
-- A source of usage that neither a demo nor a trace left there, if there is one.
SELECT source FROM usage_logs WHERE source NOT LIKE '/demo/%' AND source NOT LIKE '/trace/%' LIMIT 1;

-- name: counted
-- What ingest has made of all records so far. Held events that were attributed since count by what became of them then.
SELECT (SELECT coalesce(sum(duplicates), 0) FROM usage_batches)::bigint AS duplicates,
       (SELECT coalesce(sum(quarantined), 0) FROM usage_batches)::bigint AS quarantined,
       (SELECT count(*) FROM held_events WHERE attributed_at IS NULL) AS held,
       (SELECT count(*) FROM usage_logs WHERE source LIKE $1) AS stored;

-- name: stored_usage
-- What the log holds of the sources $1 (a LIKE pattern), by subscription.
SELECT subscription_id::text AS subscription_id, sum(quantity) AS requests, coalesce(sum(quantity) FILTER (WHERE status_code >= 400), 0) AS errors,
       sum(request_tokens)::bigint AS request_tokens, sum(response_tokens)::bigint AS response_tokens,
       sum(cached_tokens)::bigint AS cached_tokens
FROM usage_logs WHERE source LIKE $1 GROUP BY subscription_id;

-- name: progress
-- How far each service is with topic $2 of cluster $1, in one look. Events of a message that an inbox holds were applied by its service;
-- the aggregator's is pruned up to its watermark.
WITH pruned AS (
    SELECT message_count, inserted FROM usage_batches WHERE recorded_at < (SELECT pruned_before FROM aggregator_inbox_watermark)
)
SELECT (SELECT coalesce(sum(p.next_offset), 0) FROM ingest_positions p
        WHERE p.cluster = $1 AND p.topic = $2
          AND p.epoch = (SELECT max(e.epoch) FROM ingest_positions e WHERE (e.cluster, e.topic, e.partition) = (p.cluster, p.topic, p.partition))
       )::bigint AS position,
       (SELECT coalesce(sum(message_count), 0) FROM usage_batches)::bigint AS announced,
       (SELECT coalesce(sum(inserted), 0) FROM usage_batches)::bigint AS stored,
       ((SELECT count(*) FROM aggregator_inbox) + (SELECT coalesce(sum(message_count), 0) FROM pruned))::bigint AS aggregated_messages,
       ((SELECT coalesce(sum(event_count), 0) FROM aggregator_inbox) + (SELECT coalesce(sum(inserted), 0) FROM pruned))::bigint AS aggregated,
       (SELECT count(*) FROM billing_inbox) AS rated_messages,
       (SELECT coalesce(sum(event_count), 0) FROM billing_inbox)::bigint AS rated,
       (SELECT count(*) FROM ingest_outbox) AS ingest_outbox,
       (SELECT count(*) FROM aggregator_outbox) AS aggregator_outbox,
       (SELECT count(*) FROM billing_outbox) AS billing_outbox,
       (SELECT count(*) FROM rated_usage
        WHERE settlement_id IS NULL AND invoice_line_id IS NULL AND amount IS NOT NULL AND billing_mode = 'prepaid') AS unsettled,
       (SELECT count(*) FROM held_events h WHERE h.attributed_at IS NULL
           AND EXISTS (SELECT FROM subscriptions s WHERE s.id = h.subscription_id)) AS attributable,
       (SELECT count(*) FROM subscriptions WHERE status_version > status_published_version) AS unpublished_statuses;

-- name: top_summaries
-- The largest month summaries, with whose they are.
SELECT u.username, coalesce(nullif(m.model_id, ''), m.tool_name) AS what, to_char(m.period_start AT TIME ZONE 'UTC', 'YYYY-MM') AS month,
       m.request_count, m.error_count, m.request_tokens, m.response_tokens, m.avg_latency_ms
FROM usage_summaries m JOIN subscriptions s ON s.id = m.subscription_id JOIN users u ON u.id = s.user_id
WHERE m.period_type = 'month'
ORDER BY m.total_tokens DESC, m.subscription_id LIMIT $1;

-- name: quarantine
-- Refused records by reason, with one explanation of each.
SELECT reason, count(*) AS records, (array_agg(detail ORDER BY quarantined_at, record_offset))[1] AS example
FROM quarantined_events GROUP BY reason ORDER BY records DESC, reason;

-- name: suspended
-- Who is suspended and why, with what a quota was judged by: a few ($1) for each set of reasons, and how many there are of it.
SELECT username, suspended_reasons, used_requests, quota_requests, used_tokens, quota_tokens, alike
FROM (SELECT u.username, s.*, count(*) OVER same AS alike, row_number() OVER (same ORDER BY s.used_tokens DESC, s.id) AS place
      FROM subscriptions s JOIN users u ON u.id = s.user_id
      WHERE s.status = 'suspended'
      WINDOW same AS (PARTITION BY s.suspended_reasons)) ranked
WHERE place <= $1 ORDER BY alike DESC, suspended_reasons, place;

-- name: invoice_count
-- How many invoices are issued.
SELECT count(*) FROM invoices WHERE number IS NOT NULL;

-- name: an_invoice
-- The issued invoice whose customer pays most for usage: nothing that a plan includes comes off it. With the subscription that used most.
SELECT i.id, i.number, i.user_id, u.full_name, u.email, i.period_start, i.period_end, i.issue_date, i.due_date, i.subtotal, i.tax, i.total,
       i.currency, (SELECT l.subscription_id::text FROM invoice_lines l WHERE l.invoice_id = i.id AND l.kind = 'usage'
                    GROUP BY 1 ORDER BY sum(l.amount) DESC, 1 LIMIT 1) AS subscription_id
FROM invoices i JOIN users u ON u.id = i.user_id
WHERE i.number IS NOT NULL AND i.kind = 'usage' AND i.total > 0
ORDER BY EXISTS (SELECT FROM invoice_lines l WHERE l.invoice_id = i.id AND l.kind = 'discount'),
         (SELECT coalesce(sum(l.amount), 0) FROM invoice_lines l WHERE l.invoice_id = i.id AND l.kind = 'usage') DESC, i.number LIMIT 1;

-- name: largest_usage_line
-- The line of invoice $1 that bills most for usage of a model.
SELECT id, position, price_id, dimensions ->> 'model_id' AS model FROM invoice_lines
WHERE invoice_id = $1 AND kind = 'usage' AND dimensions ->> 'model_id' <> '' ORDER BY amount DESC, position LIMIT 1;

-- name: invoice_lines
-- Its largest lines ($2 of them), and how many it has in all.
SELECT position, description, quantity, unit, amount, exact_amount, event_count, count(*) OVER () AS lines
FROM invoice_lines WHERE invoice_id = $1 ORDER BY amount DESC, position LIMIT $2;

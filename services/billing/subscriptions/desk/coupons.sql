-- The SQL of coupons.

-- name: locked_coupon
-- A coupon; its row lock orders those who redeem it.
SELECT code, percent, amount_off, currency, plan_ids, valid_from, valid_to, max_redemptions, redemptions FROM coupons WHERE code = $1 FOR UPDATE;

-- name: redeemer
-- What a coupon must fit: the plan and the currency of a subscription.
SELECT s.user_id, s.plan_id, s.currency, s.status::text AS status, s.billing_mode,
       EXISTS (SELECT FROM coupon_redemptions r WHERE r.subscription_id = s.id AND r.code = $2) AS already
FROM subscriptions s WHERE s.id = $1;

-- name: count_redemption
-- One redemption more; the table refuses one too many.
UPDATE coupons SET redemptions = redemptions + 1 WHERE code = $1;

-- name: redeem
-- Notes who redeemed a coupon, once.
INSERT INTO coupon_redemptions (id, code, subscription_id, redeemed_at, redeemed_by) VALUES ($1, $2, $3, $4, $5);

-- name: audit_coupon
-- Notes what was done with a coupon: $1 what, $2 which, $3 details, $4 of which user.
INSERT INTO audit_logs (user_id, action, resource_type, resource_id, details) VALUES ($4, $1, 'coupon', $2, $3::jsonb);

-- name: create_coupon
-- A new coupon.
INSERT INTO coupons (code, name, percent, amount_off, currency, applies_to, plan_ids, periods, valid_from, valid_to, max_redemptions)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: list_coupons
-- All coupons, in the order in which they were made.
SELECT code, name, percent, amount_off, currency, applies_to, plan_ids, periods, valid_from, valid_to, max_redemptions, redemptions
FROM coupons ORDER BY created_at, code;

-- name: end_coupon
-- Ends a coupon at $2, if it could still be redeemed then.
UPDATE coupons SET valid_to = $2 WHERE code = $1 AND (valid_to IS NULL OR valid_to > $2) RETURNING code;

-- name: unknown_plans
-- Which of these plans there are not.
SELECT id FROM unnest($1::text[]) AS id WHERE id NOT IN (SELECT p.id FROM plans p);

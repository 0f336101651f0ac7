-- migrate:up
-- Counting usage updates subscriptions more often than anything else does. What the triggers would leave as it is, is decided by WHEN,
-- without a call: half of what an update cost.

-- The rule says nothing new of a subscription without a reason to be suspended whose quotas are not reached, nor of one that no quota
-- suspends. Inserts are judged always: a WHEN that both share cannot ask for less than either needs.
DROP TRIGGER enforce_subscription_quota ON subscriptions;
CREATE TRIGGER enforce_subscription_quota BEFORE UPDATE ON subscriptions
    FOR EACH ROW WHEN (NOT (
        NEW.suspended_reasons = '{}' AND NEW.status_before_suspension IS NULL
        AND (NEW.status IN ('pending', 'paused', 'cancelled', 'expired')
             OR NEW.status IN ('active', 'trialing')
                AND (NEW.used_requests >= NEW.quota_requests) IS NOT TRUE AND (NEW.used_tokens >= NEW.quota_tokens) IS NOT TRUE)))
    EXECUTE FUNCTION check_subscription_quota();
CREATE TRIGGER enforce_new_subscription_quota BEFORE INSERT ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION check_subscription_quota();

-- Whoever sets it to now() by itself needs no trigger for it.
DROP TRIGGER update_subscriptions_updated_at ON subscriptions;
CREATE TRIGGER update_subscriptions_updated_at BEFORE UPDATE ON subscriptions
    FOR EACH ROW WHEN (NEW.updated_at IS DISTINCT FROM now())
    EXECUTE FUNCTION update_updated_at_column();

UPDATE role_rights SET columns = columns || '{updated_at}'::text[]
WHERE (role, object, privilege) = ('tallystick_aggregator', 'subscriptions', 'UPDATE');
SELECT apply_role_rights();

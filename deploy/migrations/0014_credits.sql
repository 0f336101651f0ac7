-- migrate:up
-- Prepaid credits are a sum of grants, each with a priority and perhaps an end; grants in money are applied to invoices; credits are
-- bought, renewed, given back for usage that is voided, and worth what the rate of their currency says.

-- ---------------------------------------------------------------------------------------------------------------------
-- Grants in money (the seeds' table credits): applied to invoices
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE credit_applications (
    invoice_id uuid        NOT NULL REFERENCES invoices (id) ON DELETE RESTRICT,
    credit_id  uuid        NOT NULL REFERENCES credits (id) ON DELETE RESTRICT,
    kind       text        NOT NULL CHECK (kind IN ('applied', 'restored')),
    amount     numeric     NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (invoice_id, credit_id, kind)
);

CREATE INDEX idx_credit_applications_credit ON credit_applications (credit_id);  -- what became of a grant

CREATE TRIGGER credit_applications_append_only BEFORE UPDATE OR DELETE ON credit_applications
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_applications_no_truncate BEFORE TRUNCATE ON credit_applications
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

COMMENT ON TABLE  credit_applications IS 'Which grant in money (credits) paid how much of which invoice. Append-only: an invoice that is voided restores.';
COMMENT ON COLUMN credit_applications.amount IS 'In the currency of the grant and of the invoice.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Rates: what a unit of money is worth in credits
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE credit_rates (
    currency         varchar(3)  NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    valid_from       timestamptz NOT NULL CHECK (valid_from = date_trunc('hour', valid_from, 'UTC')),
    credits_per_unit numeric     NOT NULL CHECK (credits_per_unit > 0 AND credits_per_unit < 'Infinity'),
    created_by       text        NOT NULL DEFAULT coalesce(nullif(current_setting('tallystick.actor', true), ''), session_user),
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (currency, valid_from)
);

COMMENT ON TABLE  credit_rates IS 'Credits that one unit of a currency is worth, by the hour of the usage. Usage in a currency without a rate waits.';
COMMENT ON COLUMN credit_rates.valid_from IS 'From this hour until the next rate of the currency.';

-- What the one setting for all currencies was, as far as it was used; else what the packages on sale come to at their dearest.
INSERT INTO credit_rates (currency, valid_from, credits_per_unit, created_by)
SELECT currency, '2000-01-01Z', (array_agg(credits_per_unit ORDER BY created_at DESC))[1], 'migration'
FROM credit_settlements WHERE currency IS NOT NULL GROUP BY currency;
INSERT INTO credit_rates (currency, valid_from, credits_per_unit, created_by)
VALUES ('USD', '2000-01-01Z', 10, 'migration'), ('EUR', '2000-01-01Z', 10, 'migration')
ON CONFLICT DO NOTHING;

-- What was debited at a rate must be given back at the same one: the past of a rate is fixed.
CREATE FUNCTION protect_credit_rate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' AND NOT EXISTS (
        SELECT FROM credit_settlements WHERE currency = NEW.currency AND created_at >= NEW.valid_from) THEN
        RETURN NEW;
    ELSIF TG_OP = 'DELETE' AND OLD.valid_from > now() THEN
        RETURN OLD;  -- it never applied
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'TS003',
        MESSAGE = CASE WHEN TG_OP = 'INSERT' THEN format('usage in %s was settled since %s: its rate is fixed', NEW.currency, NEW.valid_from)
                       WHEN TG_OP = 'TRUNCATE' THEN 'credit_rates cannot be truncated'
                       ELSE format('the rate of %s from %s may have been used: it cannot be changed', OLD.currency, OLD.valid_from) END,
        HINT = 'Set a rate from a later hour.';
END $$;

COMMENT ON FUNCTION protect_credit_rate IS 'Trigger: a rate that may have been used is neither changed nor put in place of another (TS003).';

CREATE TRIGGER protect_credit_rates BEFORE INSERT OR UPDATE OR DELETE ON credit_rates
    FOR EACH ROW EXECUTE FUNCTION protect_credit_rate();
CREATE TRIGGER keep_credit_rates BEFORE TRUNCATE ON credit_rates
    FOR EACH STATEMENT EXECUTE FUNCTION protect_credit_rate();

CREATE VIEW credit_rate_periods AS
SELECT currency, credits_per_unit, valid_from,
       lead(valid_from, 1, 'infinity') OVER (PARTITION BY currency ORDER BY valid_from) AS valid_to
FROM credit_rates;

COMMENT ON VIEW credit_rate_periods IS 'The rates of credits with their ends: [valid_from, valid_to).';

-- ---------------------------------------------------------------------------------------------------------------------
-- Grants of prepaid credits
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE credit_transactions
    DROP CONSTRAINT valid_type,
    DROP CONSTRAINT sign_fits_type,
    DROP CONSTRAINT owes_only_by_usage,
    ADD CONSTRAINT valid_type CHECK (transaction_type IN
        ('purchase', 'usage', 'debit', 'refund', 'bonus', 'promotional', 'adjustment', 'admin_adjustment', 'allowance', 'expiry',
         'reversal', 'owed_settlement')),
    ADD CONSTRAINT sign_fits_type CHECK (CASE
        WHEN transaction_type IN ('purchase', 'bonus', 'promotional', 'allowance') THEN amount > 0
        WHEN transaction_type IN ('usage', 'debit') THEN amount <= 0 AND owed_change >= 0
        WHEN transaction_type = 'reversal' THEN amount >= 0 AND owed_change <= 0
        WHEN transaction_type = 'refund' THEN owed_change = 0 OR (owed_change > 0 AND amount <= 0)
        WHEN transaction_type = 'expiry' THEN amount < 0
        WHEN transaction_type = 'owed_settlement' THEN amount < 0 AND owed_change = amount
        ELSE amount <> 0 END),
    ADD CONSTRAINT owes_only_by_usage CHECK
        (owed_change = 0 OR transaction_type IN ('usage', 'debit', 'reversal', 'refund', 'owed_settlement'));

COMMENT ON COLUMN credit_transactions.transaction_type IS
    'Both spellings are kept: usage and debit, admin_adjustment and adjustment. owed_settlement: new credits that pay what was owed. reversal: usage that was voided. A refund that takes back bought credits may leave what is used of them owed.';

-- A payment buys once, whatever key it is told with.
CREATE UNIQUE INDEX one_purchase_per_payment ON credit_transactions (payment_id) WHERE transaction_type = 'purchase' AND payment_id IS NOT NULL;

CREATE TABLE credit_grants (
    id                 uuid        PRIMARY KEY,
    user_id            uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    transaction_id     uuid        NOT NULL UNIQUE REFERENCES credit_transactions (id) ON DELETE RESTRICT,
    sequence           bigint      NOT NULL,
    kind               text        NOT NULL CHECK (kind IN ('purchase', 'bonus', 'promotional', 'refund', 'allowance', 'adjustment', 'reversal')),
    name               text,
    amount             numeric     NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    remaining          numeric     NOT NULL CHECK (remaining >= 0),
    used               numeric     NOT NULL DEFAULT 0 CHECK (used >= 0),
    withdrawn          numeric     NOT NULL DEFAULT 0 CHECK (withdrawn >= 0),
    priority           integer     NOT NULL,
    expires_at         timestamptz,
    package_id         uuid        REFERENCES credit_packages (id) ON DELETE RESTRICT,
    payment_id         uuid        REFERENCES payments (id) ON DELETE RESTRICT,
    last_used_sequence bigint,
    open               boolean     NOT NULL GENERATED ALWAYS AS (remaining > 0) STORED,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT grant_is_accounted_for CHECK (remaining + used + withdrawn = amount),
    UNIQUE (user_id, sequence)
) WITH (fillfactor = 50);  -- room for HOT updates: every settlement changes what remains, which no index contains

-- Burn-down. By `open` and not by remaining > 0, which would make every change of remaining a change of the index.
CREATE INDEX idx_credit_grants_open ON credit_grants (user_id, priority, expires_at, sequence) WHERE open;
CREATE INDEX idx_credit_grants_expiring ON credit_grants (expires_at) WHERE open AND expires_at IS NOT NULL;
CREATE INDEX idx_credit_grants_payment ON credit_grants (payment_id) WHERE payment_id IS NOT NULL;  -- refunds

COMMENT ON TABLE  credit_grants IS 'Prepaid credits by where they came from: every credit of a balance is what remains of one of these. Changed by the credit functions only.';
COMMENT ON COLUMN credit_grants.transaction_id IS 'The ledger entry that granted it.';
COMMENT ON COLUMN credit_grants.sequence IS 'Number of that entry in the user''s ledger: the age of the grant.';
COMMENT ON COLUMN credit_grants.remaining IS 'What is left. Over all grants of a user it is the balance.';
COMMENT ON COLUMN credit_grants.used IS 'What usage took from it, less what was given back for usage that was voided.';
COMMENT ON COLUMN credit_grants.withdrawn IS 'What expired, was refunded or adjusted away.';
COMMENT ON COLUMN credit_grants.priority IS 'The lower is used first; then what expires first; then the oldest.';
COMMENT ON COLUMN credit_grants.expires_at IS 'From then on it pays nothing; what remains leaves the balance by a ledger entry. NULL: never.';
COMMENT ON COLUMN credit_grants.last_used_sequence IS 'The last ledger entry that used it: what was used last is given back first.';

CREATE TABLE credit_grant_postings (
    transaction_id uuid    NOT NULL REFERENCES credit_transactions (id) ON DELETE RESTRICT,
    grant_id       uuid    NOT NULL REFERENCES credit_grants (id) ON DELETE RESTRICT,
    amount         numeric NOT NULL CHECK (amount <> 0 AND abs(amount) < 'Infinity'),
    PRIMARY KEY (transaction_id, grant_id)
);

CREATE INDEX idx_credit_grant_postings_grant ON credit_grant_postings (grant_id);  -- what became of a grant

COMMENT ON TABLE  credit_grant_postings IS 'Which grant paid how much of which ledger entry. Append-only: the sums are the amount of each entry, and what remains of each grant.';
COMMENT ON COLUMN credit_grant_postings.amount IS 'Credits: positive came in, negative went.';

CREATE FUNCTION credit_grant_priority(kind text) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE kind WHEN 'allowance' THEN 10 WHEN 'promotional' THEN 20 WHEN 'bonus' THEN 30 ELSE 100 END
$$;

COMMENT ON FUNCTION credit_grant_priority IS 'The priority of a grant where none is given: what was given for nothing is used before what was bought.';

-- Spreads ledger entries that take credits over the open grants of their users, one entry for each user. Call it under the locks of
-- the accounts.
CREATE FUNCTION burn_credit_grants(
    p_entries uuid[], p_users uuid[], p_sequences bigint[], p_amounts numeric[], p_used boolean, p_first uuid[] DEFAULT '{}'
) RETURNS void LANGUAGE sql AS $$
    WITH open AS (
        SELECT e.id AS entry, e.sequence, e.amount, g.id, g.remaining,
               sum(g.remaining) OVER (PARTITION BY g.user_id ORDER BY g.id = ANY (p_first) DESC, g.priority, g.expires_at NULLS LAST, g.sequence
                                      ROWS UNBOUNDED PRECEDING) - g.remaining AS before
        FROM unnest(p_entries, p_users, p_sequences, p_amounts) AS e (id, user_id, sequence, amount)
        JOIN credit_grants g ON g.user_id = e.user_id AND g.open
    ), burnt AS (
        SELECT entry, sequence, id, least(remaining, amount - before) AS taken FROM open WHERE before < amount
    ), posted AS (
        INSERT INTO credit_grant_postings (transaction_id, grant_id, amount) SELECT entry, id, -taken FROM burnt
    )
    UPDATE credit_grants g SET
        remaining = g.remaining - b.taken,
        used = g.used + CASE WHEN p_used THEN b.taken ELSE 0 END,
        withdrawn = g.withdrawn + CASE WHEN p_used THEN 0 ELSE b.taken END,
        last_used_sequence = CASE WHEN p_used THEN b.sequence ELSE g.last_used_sequence END
    FROM burnt b WHERE g.id = b.id
$$;

COMMENT ON FUNCTION burn_credit_grants IS 'Takes ledger entries out of grants: those of p_first before all, then by priority, expiry and age. p_used: usage, which a reversal may give back.';

CREATE FUNCTION open_credit_grant(entry credit_transactions, p_amount numeric, p_priority integer, p_expires_at timestamptz) RETURNS uuid LANGUAGE sql AS $$
    WITH made AS (
        INSERT INTO credit_grants (id, user_id, transaction_id, sequence, kind, name, amount, remaining, priority, expires_at, package_id, payment_id)
        SELECT gen_random_uuid(), entry.user_id, entry.id, entry.sequence, kind, entry.description, p_amount, p_amount,
               coalesce(p_priority, credit_grant_priority(kind)), p_expires_at, entry.package_id, entry.payment_id
        FROM (SELECT CASE entry.transaction_type WHEN 'admin_adjustment' THEN 'adjustment' ELSE entry.transaction_type END AS kind) k
        RETURNING id
    )
    INSERT INTO credit_grant_postings (transaction_id, grant_id, amount) SELECT entry.id, id, p_amount FROM made RETURNING grant_id
$$;

COMMENT ON FUNCTION open_credit_grant IS 'Makes the grant of a ledger entry that adds credits. Call it under the lock of the account.';

-- What was given and taken before there were grants, in the order in which it happened.
DO $$
DECLARE
    entry credit_transactions;
BEGIN
    FOR entry IN SELECT * FROM credit_transactions WHERE amount <> 0 ORDER BY user_id, sequence LOOP
        IF entry.amount > 0 THEN
            PERFORM open_credit_grant(entry, entry.amount, NULL, NULL);
        ELSE
            PERFORM burn_credit_grants(ARRAY[entry.id], ARRAY[entry.user_id], ARRAY[entry.sequence], ARRAY[-entry.amount],
                                       entry.transaction_type IN ('usage', 'debit', 'owed_settlement'));
        END IF;
    END LOOP;
END $$;

CREATE TRIGGER credit_grant_postings_append_only BEFORE UPDATE OR DELETE ON credit_grant_postings
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_grant_postings_no_truncate BEFORE TRUNCATE ON credit_grant_postings
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- What was granted, to whom and by what is fixed; when it ends and in which order it is used may be changed.
CREATE TRIGGER credit_grants_fixed BEFORE UPDATE ON credit_grants
    FOR EACH ROW WHEN ((NEW.id, NEW.user_id, NEW.transaction_id, NEW.sequence, NEW.kind, NEW.amount, NEW.payment_id)
        IS DISTINCT FROM (OLD.id, OLD.user_id, OLD.transaction_id, OLD.sequence, OLD.kind, OLD.amount, OLD.payment_id))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_grants_kept BEFORE DELETE ON credit_grants
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER credit_grants_no_truncate BEFORE TRUNCATE ON credit_grants
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- ---------------------------------------------------------------------------------------------------------------------
-- Accounts: allowances, tiers, top-ups
-- ---------------------------------------------------------------------------------------------------------------------

ALTER TABLE user_credits
    ADD COLUMN allowance_granted_for timestamptz,
    ADD COLUMN auto_topup_limit integer NOT NULL DEFAULT 10 CHECK (auto_topup_limit >= 0),
    ADD COLUMN auto_topup_set_at timestamptz NOT NULL DEFAULT now();

COMMENT ON COLUMN user_credits.monthly_allowance IS 'Credits that each billing cycle includes; taken from the tier when that is set.';
COMMENT ON COLUMN user_credits.allowance_granted_for IS 'Begin of the last billing cycle whose allowance was granted.';
COMMENT ON COLUMN user_credits.auto_topup_limit IS 'Most top-ups in one billing cycle, lest an error spends without end.';
COMMENT ON COLUMN user_credits.auto_topup_set_at IS 'When it was last set: what failed before does not count any more.';

CREATE INDEX idx_user_credits_renewal ON user_credits (billing_cycle_end) WHERE auto_renew AND monthly_allowance > 0;
CREATE INDEX idx_user_credits_topup ON user_credits (user_id) WHERE auto_topup_package_id IS NOT NULL AND auto_topup_threshold IS NOT NULL;

CREATE TABLE credit_tiers (
    tier              text    PRIMARY KEY CHECK (tier IN ('trial', 'free', 'starter', 'professional', 'enterprise')),
    rank              integer NOT NULL,
    monthly_allowance numeric NOT NULL DEFAULT 0 CHECK (monthly_allowance >= 0 AND monthly_allowance < 'Infinity'),
    rollover_months   integer DEFAULT 0 CHECK (rollover_months >= 0)
);

INSERT INTO credit_tiers (tier, rank) VALUES ('trial', 0), ('free', 0), ('starter', 1), ('professional', 2), ('enterprise', 3);

COMMENT ON TABLE  credit_tiers IS 'Tiers of prepaid accounts: which may buy what, and the allowance that comes with each.';
COMMENT ON COLUMN credit_tiers.rank IS 'The higher may buy what the lower may (credit_packages.min_tier).';
COMMENT ON COLUMN credit_tiers.monthly_allowance IS 'What an account of this tier gets each billing cycle, from when the tier is set.';
COMMENT ON COLUMN credit_tiers.rollover_months IS 'How many months longer than its cycle an unused allowance lasts; 0: it ends with the cycle; NULL: it never does.';

ALTER TABLE credit_packages ADD COLUMN valid_days integer CHECK (valid_days > 0);

COMMENT ON COLUMN credit_packages.valid_days IS 'Days after which credits bought with it expire; NULL: never.';

CREATE TABLE topup_requests (
    id           uuid        PRIMARY KEY,
    user_id      uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    cause        text        NOT NULL CHECK (cause <> ''),
    package_id   uuid        NOT NULL REFERENCES credit_packages (id) ON DELETE RESTRICT,
    credits      numeric     NOT NULL CHECK (credits > 0),
    price        numeric     NOT NULL CHECK (price > 0),
    currency     varchar(3)  NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    status       text        NOT NULL DEFAULT 'requested' CHECK (status IN ('requested', 'completed', 'failed')),
    payment_id   uuid        UNIQUE REFERENCES payments (id) ON DELETE RESTRICT,
    failure      text,
    requested_at timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    CONSTRAINT once_per_cause_topup UNIQUE (user_id, cause),
    CONSTRAINT finished_has_date CHECK ((status = 'requested') = (finished_at IS NULL)),
    CONSTRAINT completed_by_payment CHECK ((status = 'completed') = (payment_id IS NOT NULL)),
    CONSTRAINT failed_has_reason CHECK ((status = 'failed') = (failure IS NOT NULL))
);

-- One at a time: two workers that see the same low balance buy once.
CREATE UNIQUE INDEX one_open_topup ON topup_requests (user_id) WHERE status = 'requested';
CREATE INDEX idx_topup_requests_open ON topup_requests (requested_at) WHERE status = 'requested';
CREATE INDEX idx_topup_requests_user ON topup_requests (user_id, requested_at);

COMMENT ON TABLE  topup_requests IS 'Packages that balances below their threshold asked to be bought. Payments executes them.';
COMMENT ON COLUMN topup_requests.cause IS 'The ledger entry after which the balance was too low, and which attempt it is: never asked twice.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The laws, checked at commit
-- ---------------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION check_credit_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    account user_credits;
    entry   credit_transactions;
    granted numeric;
BEGIN
    SELECT * INTO account FROM user_credits WHERE user_id = NEW.user_id;
    SELECT * INTO entry FROM credit_transactions WHERE user_id = NEW.user_id ORDER BY sequence DESC LIMIT 1;
    IF (account.balance, account.owed, account.ledger_sequence)
        IS DISTINCT FROM (coalesce(entry.balance_after, 0), coalesce(entry.owed_after, 0), coalesce(entry.sequence, 0))
        OR (account.balance > 0 AND account.owed > 0) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003',
            MESSAGE = format('credits of user %s: the account says %s (owed %s), the ledger %s (owed %s)',
                             NEW.user_id, account.balance, account.owed, coalesce(entry.balance_after, 0), coalesce(entry.owed_after, 0)),
            HINT = 'Change credits through add_user_credits, debit_user_credits and settle_user_credits only.';
    END IF;
    SELECT coalesce(sum(remaining), 0) INTO granted FROM credit_grants WHERE user_id = NEW.user_id AND open;
    IF account.balance <> granted THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003',
            MESSAGE = format('credits of user %s: the account says %s, its grants %s', NEW.user_id, account.balance, granted),
            HINT = 'Change credits through add_user_credits, debit_user_credits and settle_user_credits only.';
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION check_credit_balance IS 'Constraint trigger, at commit: the account is what the ledger sums to and what remains of its grants, and nothing is owed while there is a balance.';

-- An entry that the account does not follow yet fails here; one that it follows is judged with the account (above), which counts up
-- with every entry and only with it.
CREATE FUNCTION check_ledger_is_followed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM user_credits WHERE user_id = NEW.user_id AND ledger_sequence >= NEW.sequence) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS003',
            MESSAGE = format('credits of user %s: entry %s is in the ledger, but not in the account', NEW.user_id, NEW.sequence),
            HINT = 'Change credits through add_user_credits, debit_user_credits and settle_user_credits only.';
    END IF;
    RETURN NULL;
END $$;

COMMENT ON FUNCTION check_ledger_is_followed IS 'Constraint trigger, at commit: no ledger entry without its account.';

DROP TRIGGER ledger_is_followed ON credit_transactions;
CREATE CONSTRAINT TRIGGER ledger_is_followed AFTER INSERT ON credit_transactions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_ledger_is_followed();
CREATE CONSTRAINT TRIGGER credit_grants_follow_ledger AFTER INSERT OR UPDATE OF remaining ON credit_grants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_credit_balance();

-- ---------------------------------------------------------------------------------------------------------------------
-- Functions
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION roll_credit_cycle(p_user uuid, p_at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ended  timestamptz;
    months integer := 1;
BEGIN
    SELECT billing_cycle_end INTO ended FROM user_credits WHERE user_id = p_user AND billing_cycle_end <= p_at;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    WHILE (ended AT TIME ZONE 'UTC' + make_interval(months => months)) AT TIME ZONE 'UTC' <= p_at LOOP
        months := months + 1;
    END LOOP;
    UPDATE user_credits SET
        billing_cycle_start = (ended AT TIME ZONE 'UTC' + make_interval(months => months - 1)) AT TIME ZONE 'UTC',
        billing_cycle_end = (ended AT TIME ZONE 'UTC' + make_interval(months => months)) AT TIME ZONE 'UTC',
        credits_used_this_month = 0
    WHERE user_id = p_user;
END $$;

COMMENT ON FUNCTION roll_credit_cycle IS 'Begins the billing cycle that p_at is in. Call it under the lock of the account.';

-- The one lock of credits: two postings for a user at once cannot both see the same balance. Always in the order of ids, so that two
-- that lock several accounts do not wait for each other.
CREATE FUNCTION lock_credit_accounts(p_users uuid[], p_at timestamptz DEFAULT now()) RETURNS SETOF user_credits LANGUAGE plpgsql AS $$
DECLARE
    account uuid;
BEGIN
    PERFORM FROM user_credits WHERE user_id = ANY (p_users) ORDER BY user_id FOR UPDATE;
    IF EXISTS (SELECT FROM unnest(p_users) AS u (id) WHERE NOT EXISTS (SELECT FROM user_credits c WHERE c.user_id = u.id)) THEN
        FOR account IN SELECT DISTINCT u.id FROM unnest(p_users) AS u (id) WHERE NOT EXISTS (SELECT FROM user_credits c WHERE c.user_id = u.id) ORDER BY 1 LOOP
            IF NOT EXISTS (SELECT FROM users WHERE id = account) THEN
                RAISE EXCEPTION USING ERRCODE = 'TS005', MESSAGE = format('there is no user %s', account);
            END IF;
            INSERT INTO user_credits (user_id) VALUES (account) ON CONFLICT (user_id) DO NOTHING;
            PERFORM FROM user_credits WHERE user_id = account FOR UPDATE;
        END LOOP;
    END IF;
    FOR account IN
        SELECT c.user_id FROM user_credits c WHERE c.user_id = ANY (p_users) AND c.billing_cycle_end <= p_at
    LOOP
        PERFORM roll_credit_cycle(account, p_at);
    END LOOP;
    FOR account IN
        SELECT DISTINCT g.user_id FROM credit_grants g WHERE g.user_id = ANY (p_users) AND g.open AND g.expires_at <= p_at
    LOOP
        PERFORM expire_credit_grants(account, p_at);
    END LOOP;
    RETURN QUERY SELECT * FROM user_credits WHERE user_id = ANY (p_users) ORDER BY user_id;
END $$;

COMMENT ON FUNCTION lock_credit_accounts IS 'Locks, and makes where they are missing, the credit accounts of users; begins the billing cycles that are due and posts what has expired. TS005 for an unknown user.';

CREATE OR REPLACE FUNCTION lock_credit_account(p_user uuid) RETURNS user_credits LANGUAGE sql AS $$
    SELECT * FROM lock_credit_accounts(ARRAY[p_user])
$$;

COMMENT ON FUNCTION lock_credit_account IS 'lock_credit_accounts for one user.';

CREATE OR REPLACE FUNCTION post_credit_transaction(entry credit_transactions) RETURNS credit_transactions LANGUAGE plpgsql AS $$
DECLARE
    account user_credits;
    spent   boolean := entry.transaction_type IN ('usage', 'debit', 'reversal');
BEGIN
    SELECT * INTO account FROM user_credits WHERE user_id = entry.user_id;
    entry.id := coalesce(entry.id, gen_random_uuid());
    entry.sequence := account.ledger_sequence + 1;
    entry.previous_sequence := nullif(account.ledger_sequence, 0);
    entry.balance_before := account.balance;
    entry.balance_after := account.balance + entry.amount;
    entry.owed_change := coalesce(entry.owed_change, 0);
    entry.owed_after := account.owed + entry.owed_change;
    entry.request := coalesce(entry.request, '{}');
    entry.metadata := coalesce(entry.metadata, '{}');
    entry.created_at := clock_timestamp();  -- not now(): entries of one user are then in the order of their numbers
    INSERT INTO credit_transactions VALUES (entry.*);
    UPDATE user_credits SET
        balance = entry.balance_after, owed = entry.owed_after, ledger_sequence = entry.sequence,
        credits_used_this_month = greatest(0, credits_used_this_month + CASE WHEN spent THEN entry.owed_change - entry.amount ELSE 0 END)
    WHERE user_id = entry.user_id;
    IF entry.transaction_type <> 'owed_settlement' AND entry.balance_after < account.low_balance_threshold AND account.low_balance_threshold <= account.balance THEN
        INSERT INTO billing_alerts (user_id, type, cause, threshold, current_value, message)
        VALUES (entry.user_id, 'low_balance', 'entry ' || entry.id, account.low_balance_threshold, entry.balance_after,
                format('%s credits are left, less than the %s you wanted to be told at.',
                       trim_scale(entry.balance_after), trim_scale(account.low_balance_threshold)))
        ON CONFLICT (user_id, type, cause) DO NOTHING;
    END IF;
    RETURN entry;
END $$;

COMMENT ON FUNCTION post_credit_transaction IS 'Appends an entry to the ledger, moves the account, and tells of a balance that is low now. Its grants are the caller''s. Call it under the lock of the account.';

CREATE FUNCTION expire_credit_grants(p_user uuid, p_at timestamptz) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    expired credit_grants;
    entry   credit_transactions;
    total   numeric := 0;
BEGIN
    FOR expired IN
        SELECT * FROM credit_grants WHERE user_id = p_user AND open AND expires_at <= p_at ORDER BY expires_at, sequence
    LOOP
        entry := NULL;
        entry.user_id := p_user;
        entry.transaction_type := 'expiry';
        entry.amount := -expired.remaining;
        entry.description := concat_ws(': ', 'Expired', expired.name);
        entry.idempotency_key := format('expiry:%s:%s', expired.id, expired.withdrawn);
        entry.metadata := jsonb_build_object('grant_id', expired.id, 'expired_at', expired.expires_at);
        entry := post_credit_transaction(entry);
        PERFORM burn_credit_grants(ARRAY[entry.id], ARRAY[p_user], ARRAY[entry.sequence], ARRAY[expired.remaining], false, ARRAY[expired.id]);
        total := total + expired.remaining;
    END LOOP;
    RETURN total;
END $$;

COMMENT ON FUNCTION expire_credit_grants IS 'Takes what remains of a user''s expired grants out of the balance, one ledger entry for each. Call it under the lock of the account; locking it calls this.';

CREATE OR REPLACE FUNCTION debit_user_credits(
    user_id           uuid,
    amount            numeric,
    transaction_type  text    DEFAULT 'usage',
    request_id        text    DEFAULT NULL,
    description       text    DEFAULT NULL,
    idempotency_key   text    DEFAULT NULL,
    provider          text    DEFAULT NULL,
    model             text    DEFAULT NULL,
    prompt_tokens     bigint  DEFAULT NULL,
    completion_tokens bigint  DEFAULT NULL,
    power_level       text    DEFAULT NULL,
    metadata          jsonb   DEFAULT '{}'
) RETURNS TABLE (success boolean, new_balance numeric, transaction_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    asked   jsonb := jsonb_build_object('call', 'debit', 'amount', amount, 'type', transaction_type, 'request_id', request_id,
                         'description', description, 'provider', provider, 'model', model, 'prompt_tokens', prompt_tokens,
                         'completion_tokens', completion_tokens, 'power_level', power_level, 'metadata', metadata);
    account user_credits;
    entry   credit_transactions;
BEGIN
    IF amount IS NULL OR amount <= 0 OR amount >= 1e15 THEN  -- NaN and Infinity are above every number
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('a debit must be a number above zero, not %s', coalesce(amount::text, 'null'));
    ELSIF transaction_type NOT IN ('usage', 'debit', 'expiry', 'adjustment', 'admin_adjustment') THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('%L is not a type of debit', transaction_type),
            HINT = 'Types are usage, debit, expiry, adjustment and admin_adjustment.';
    END IF;
    account := lock_credit_account(user_id);
    entry := replayed_credit_transaction(user_id, idempotency_key, asked);
    IF entry.id IS NULL THEN
        IF account.balance < amount THEN
            RAISE EXCEPTION USING ERRCODE = 'TS001',
                MESSAGE = format('insufficient credits: %s needed, %s available, %s missing', amount, account.balance, amount - account.balance),
                DETAIL = jsonb_build_object('needed', amount, 'available', account.balance, 'missing', amount - account.balance, 'owed', account.owed)::text,
                HINT = 'Buy a credit package, or wait for the next allowance.';
        END IF;
        entry.user_id := user_id;
        entry.transaction_type := transaction_type;
        entry.amount := -amount;
        entry.request_id := request_id;
        entry.description := description;
        entry.idempotency_key := idempotency_key;
        entry.provider := provider;
        entry.model := model;
        entry.prompt_tokens := prompt_tokens;
        entry.completion_tokens := completion_tokens;
        entry.power_level := power_level;
        entry.metadata := metadata;
        entry.request := asked;
        entry := post_credit_transaction(entry);
        PERFORM burn_credit_grants(ARRAY[entry.id], ARRAY[user_id], ARRAY[entry.sequence], ARRAY[amount], transaction_type IN ('usage', 'debit'));
        IF entry.balance_after = 0 AND transaction_type IN ('usage', 'debit') THEN
            PERFORM suspend_exhausted_subscriptions(user_id);
        END IF;
    END IF;
    RETURN QUERY SELECT true, entry.balance_after, entry.id;
END $$;

DROP FUNCTION add_user_credits;
CREATE FUNCTION add_user_credits(
    user_id                  uuid,
    amount                   numeric,
    transaction_type         text  DEFAULT 'purchase',
    stripe_transaction_id    text  DEFAULT NULL,
    description              text  DEFAULT NULL,
    idempotency_key          text  DEFAULT NULL,
    payment_method           text  DEFAULT NULL,
    package_id               uuid  DEFAULT NULL,
    payment_id               uuid  DEFAULT NULL,
    invoice_id               uuid  DEFAULT NULL,
    stripe_payment_intent_id text  DEFAULT NULL,
    stripe_charge_id         text  DEFAULT NULL,
    metadata                 jsonb DEFAULT '{}',
    priority                 integer     DEFAULT NULL,
    expires_at               timestamptz DEFAULT NULL
) RETURNS TABLE (success boolean, new_balance numeric, transaction_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    asked   jsonb := jsonb_build_object('call', 'add', 'amount', amount, 'type', transaction_type, 'description', description,
                         'stripe_transaction_id', stripe_transaction_id, 'payment_method', payment_method, 'package_id', package_id,
                         'payment_id', payment_id, 'invoice_id', invoice_id, 'stripe_payment_intent_id', stripe_payment_intent_id,
                         'stripe_charge_id', stripe_charge_id, 'metadata', metadata)
                     || jsonb_strip_nulls(jsonb_build_object('priority', priority, 'expires_at', extract(epoch FROM expires_at)));
    account user_credits;
    entry   credit_transactions;
    paid    credit_transactions;
BEGIN
    IF amount IS NULL OR amount = 0 OR abs(amount) >= 1e15 OR (amount < 0 AND transaction_type NOT IN ('refund', 'adjustment', 'admin_adjustment')) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004',
            MESSAGE = format('credits of type %s cannot be %s', transaction_type, coalesce(amount::text, 'null')),
            HINT = 'Only refund, adjustment and admin_adjustment may take credits back, and no amount may be zero or without limit.';
    ELSIF transaction_type NOT IN ('purchase', 'bonus', 'promotional', 'refund', 'allowance', 'adjustment', 'admin_adjustment') THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('%L is not a type of credit', transaction_type),
            HINT = 'Types are purchase, bonus, promotional, refund, allowance, adjustment and admin_adjustment.';
    ELSIF amount < 0 AND (priority IS NOT NULL OR expires_at IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = 'credits that are taken back have neither priority nor expiry';
    END IF;
    account := lock_credit_account(user_id);
    entry := replayed_credit_transaction(user_id, idempotency_key, asked);
    IF entry.id IS NULL THEN
        IF expires_at <= now() THEN
            RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('credits that have expired already (%s) cannot be added', expires_at);
        ELSIF account.balance + amount < 0 THEN
            RAISE EXCEPTION USING ERRCODE = 'TS001',
                MESSAGE = format('insufficient credits: %s to take back, %s available, %s missing', -amount, account.balance, -amount - account.balance),
                DETAIL = jsonb_build_object('needed', -amount, 'available', account.balance, 'missing', -amount - account.balance, 'owed', account.owed)::text,
                HINT = 'They are used already: take back what is left.';
        END IF;
        entry.user_id := user_id;
        entry.transaction_type := transaction_type;
        entry.amount := amount;
        entry.description := description;
        entry.idempotency_key := idempotency_key;
        entry.payment_method := payment_method;
        entry.stripe_transaction_id := stripe_transaction_id;
        entry.stripe_payment_intent_id := stripe_payment_intent_id;
        entry.stripe_charge_id := stripe_charge_id;
        entry.package_id := package_id;
        entry.payment_id := payment_id;
        entry.invoice_id := invoice_id;
        entry.metadata := metadata;
        entry.request := asked;
        entry := post_credit_transaction(entry);
        IF amount > 0 THEN
            PERFORM open_credit_grant(entry, amount, priority, expires_at);
        ELSE
            PERFORM burn_credit_grants(ARRAY[entry.id], ARRAY[user_id], ARRAY[entry.sequence], ARRAY[-amount], false,
                ARRAY(SELECT g.id FROM credit_grants g WHERE g.user_id = entry.user_id AND g.payment_id = entry.payment_id));
        END IF;
        IF account.owed > 0 AND entry.balance_after > 0 THEN
            paid.user_id := user_id;
            paid.transaction_type := 'owed_settlement';
            paid.amount := -least(entry.balance_after, account.owed);
            paid.owed_change := paid.amount;
            paid.description := 'Pays usage that was owed';
            paid.metadata := jsonb_build_object('paid_by', entry.id);
            paid := post_credit_transaction(paid);
            PERFORM burn_credit_grants(ARRAY[paid.id], ARRAY[user_id], ARRAY[paid.sequence], ARRAY[-paid.amount], true);
        END IF;
        IF amount > 0 AND coalesce(paid.balance_after, entry.balance_after) > 0 THEN
            PERFORM clear_exhausted_subscriptions(user_id);
        END IF;
    END IF;
    RETURN QUERY SELECT true,
        coalesce((SELECT t.balance_after FROM credit_transactions t
                  WHERE t.user_id = entry.user_id AND t.sequence = entry.sequence + 1 AND t.metadata ->> 'paid_by' = entry.id::text), entry.balance_after),
        entry.id;
END $$;

COMMENT ON FUNCTION add_user_credits IS
    'Adds credits as a grant with a priority and perhaps an end, pays with them what is owed first, and reactivates what was suspended for credits_exhausted. A negative refund or adjustment takes back, never below zero (TS001), from the grants of payment_id first. Idempotent by key.';

CREATE FUNCTION reverse_user_credits(p_user uuid, p_amount numeric, p_key text, p_description text, p_metadata jsonb, p_request jsonb)
RETURNS credit_transactions LANGUAGE plpgsql AS $$
DECLARE
    account  user_credits;
    entry    credit_transactions;
    restored numeric;
BEGIN
    SELECT * INTO account FROM user_credits WHERE user_id = p_user;
    entry.user_id := p_user;
    entry.transaction_type := 'reversal';
    entry.owed_change := -least(account.owed, p_amount);
    entry.amount := p_amount + entry.owed_change;
    entry.description := p_description;
    entry.idempotency_key := p_key;
    entry.metadata := p_metadata;
    entry.request := p_request;
    entry := post_credit_transaction(entry);
    -- What was used last comes back first, to the grants that paid it, so that it ends when it would have ended.
    WITH burnt AS (
        SELECT g.id, g.used,
               sum(g.used) OVER (ORDER BY g.last_used_sequence DESC, g.priority DESC, g.expires_at DESC NULLS FIRST, g.sequence DESC
                                 ROWS UNBOUNDED PRECEDING) - g.used AS before
        FROM credit_grants g WHERE g.user_id = p_user AND g.used > 0 AND (g.expires_at IS NULL OR g.expires_at > now())
    ), back AS (
        SELECT id, least(used, entry.amount - before) AS amount FROM burnt WHERE before < entry.amount
    ), posted AS (
        INSERT INTO credit_grant_postings (transaction_id, grant_id, amount) SELECT entry.id, id, amount FROM back
    ), moved AS (
        UPDATE credit_grants g SET remaining = g.remaining + b.amount, used = g.used - b.amount FROM back b WHERE g.id = b.id
    )
    SELECT coalesce(sum(amount), 0) INTO restored FROM back;
    IF restored < entry.amount THEN  -- it was paid by grants that have expired since
        PERFORM open_credit_grant(entry, entry.amount - restored, NULL, NULL);
    END IF;
    IF entry.balance_after > 0 THEN
        PERFORM clear_exhausted_subscriptions(p_user);
    END IF;
    RETURN entry;
END $$;

COMMENT ON FUNCTION reverse_user_credits IS 'Gives back usage that was debited: first less is owed, the rest returns to the grants that paid last, or is a new grant where those have expired. Call it under the lock of the account.';

CREATE FUNCTION settle_credit_windows(
    p_users uuid[], p_amounts numeric[], p_keys text[], p_description text DEFAULT NULL, p_metadata jsonb[] DEFAULT '{}'
) RETURNS TABLE (key text, debited numeric, owed_added numeric, transaction_id uuid, new_balance numeric, total_owed numeric) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ids        uuid[];
    users      uuid[];
    sequences  bigint[];
    taken      numeric[];
    exhausted  uuid[];
    asked      record;
BEGIN
    FOR asked IN SELECT * FROM unnest(p_users, p_amounts, p_keys) AS a (user_id, amount, key)
                 WHERE a.amount IS NULL OR abs(a.amount) >= 1e15 OR coalesce(a.key, '') = '' LOOP
        IF coalesce(asked.key, '') = '' THEN
            RAISE EXCEPTION USING ERRCODE = 'TS002', MESSAGE = 'a settlement needs an idempotency key';
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('usage cannot be settled for %s credits', coalesce(asked.amount::text, 'null'));
    END LOOP;
    PERFORM lock_credit_accounts(p_users);
    FOR asked IN
        SELECT a.key, t.request, a.amount FROM unnest(p_users, p_amounts, p_keys) AS a (user_id, amount, key)
        JOIN credit_transactions t ON t.user_id = a.user_id AND t.idempotency_key = a.key
        WHERE t.request <> jsonb_build_object('call', 'settle', 'amount', a.amount)
    LOOP
        RAISE EXCEPTION USING ERRCODE = 'TS002', MESSAGE = format('idempotency key %L was used for another request', asked.key),
            DETAIL = format('first: %s, now: %s credits', asked.request, asked.amount),
            HINT = 'Repeat a call with the same parameters, or take a new key.';
    END LOOP;
    -- All debits in one statement: what a settlement costs is mostly statements.
    WITH due AS (
        SELECT gen_random_uuid() AS id, a.user_id, a.amount, a.key, coalesce(a.metadata, '{}') AS metadata, c.ledger_sequence + 1 AS sequence,
               c.balance, c.owed, least(c.balance, a.amount) AS debited
        FROM unnest(p_users, p_amounts, p_keys, p_metadata) AS a (user_id, amount, key, metadata)
        JOIN user_credits c ON c.user_id = a.user_id
        WHERE a.amount > 0 AND NOT EXISTS (SELECT FROM credit_transactions t WHERE t.user_id = a.user_id AND t.idempotency_key = a.key)
    ), posted AS (
        INSERT INTO credit_transactions (id, user_id, sequence, previous_sequence, transaction_type, amount, balance_before, balance_after,
                                         owed_change, owed_after, description, idempotency_key, request, metadata)
        SELECT id, user_id, sequence, nullif(sequence - 1, 0), 'usage', -debited, balance, balance - debited,
               amount - debited, owed + amount - debited, p_description, due.key, jsonb_build_object('call', 'settle', 'amount', amount), metadata
        FROM due
    ), moved AS (
        UPDATE user_credits c SET balance = c.balance - d.debited, owed = c.owed + d.amount - d.debited, ledger_sequence = d.sequence,
                                  credits_used_this_month = c.credits_used_this_month + d.amount
        FROM due d WHERE c.user_id = d.user_id
    )
    SELECT array_agg(d.id) FILTER (WHERE d.debited > 0), array_agg(d.user_id) FILTER (WHERE d.debited > 0),
           array_agg(d.sequence) FILTER (WHERE d.debited > 0), array_agg(d.debited) FILTER (WHERE d.debited > 0),
           array_agg(d.user_id ORDER BY d.user_id) FILTER (WHERE d.balance = d.debited)
    INTO ids, users, sequences, taken, exhausted FROM due d;
    IF ids IS NOT NULL THEN
        PERFORM burn_credit_grants(ids, users, sequences, taken, true);
    END IF;
    PERFORM suspend_exhausted_subscriptions(id) FROM unnest(exhausted) AS id;
    FOR asked IN
        SELECT a.* FROM unnest(p_users, p_amounts, p_keys, p_metadata) AS a (user_id, amount, key, metadata)
        WHERE a.amount < 0 AND NOT EXISTS (SELECT FROM credit_transactions t WHERE t.user_id = a.user_id AND t.idempotency_key = a.key)
        ORDER BY a.user_id
    LOOP
        PERFORM reverse_user_credits(asked.user_id, -asked.amount, asked.key, p_description, coalesce(asked.metadata, '{}'),
                                     jsonb_build_object('call', 'settle', 'amount', asked.amount));
    END LOOP;
    RETURN QUERY
        SELECT a.key, coalesce(-t.amount, 0), coalesce(t.owed_change, 0), t.id,
               coalesce(t.balance_after, c.balance), coalesce(t.owed_after, c.owed)
        FROM unnest(p_users, p_keys) AS a (user_id, key)
        JOIN user_credits c ON c.user_id = a.user_id
        LEFT JOIN credit_transactions t ON t.user_id = a.user_id AND t.idempotency_key = a.key;
END $$;

COMMENT ON FUNCTION settle_credit_windows IS
    'Debits usage that has happened already, of one window for each user: as far as the balance goes, the rest is owed; suspends the prepaid subscriptions of whom nothing is left. A negative amount is usage that was voided, and is given back. Idempotent by key. A user may be named once only.';

CREATE OR REPLACE FUNCTION settle_user_credits(
    p_user uuid, p_amount numeric, p_key text, p_description text DEFAULT NULL, p_metadata jsonb DEFAULT '{}'
) RETURNS TABLE (debited numeric, owed_added numeric, transaction_id uuid, new_balance numeric, total_owed numeric) LANGUAGE sql AS $$
    SELECT s.debited, s.owed_added, s.transaction_id, s.new_balance, s.total_owed
    FROM settle_credit_windows(ARRAY[p_user], ARRAY[p_amount], ARRAY[p_key], p_description, ARRAY[p_metadata]) s
$$;

COMMENT ON FUNCTION settle_user_credits IS 'settle_credit_windows for one user. Settle users in the order of their ids where several are settled in one transaction.';

ALTER TABLE credit_settlements
    DROP CONSTRAINT credit_settlements_amount_check,
    DROP CONSTRAINT credit_settlements_debited_check,
    DROP CONSTRAINT credit_settlements_owed_check,
    ADD CONSTRAINT amounts_are_finite CHECK (abs(amount) < 'Infinity'),
    ADD CONSTRAINT all_of_it_goes_one_way CHECK (CASE WHEN amount >= 0 THEN debited >= 0 AND owed >= 0 ELSE debited <= 0 AND owed <= 0 END);

COMMENT ON COLUMN credit_settlements.amount IS 'Credits: what was rated times credits_per_unit; debited from the balance, the rest owed. Negative where more usage was voided than used: given back.';

CREATE OR REPLACE FUNCTION get_user_balance(user_id uuid) RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT c.balance FROM user_credits c WHERE c.user_id = $1), 0)
         - coalesce((SELECT sum(g.remaining) FROM credit_grants g WHERE g.user_id = $1 AND g.open AND g.expires_at <= now()), 0)
$$;

COMMENT ON FUNCTION get_user_balance IS 'Credits that a user can use now: the balance without what has expired and is not posted yet; 0 for who never had any.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Buying, and taking back what was bought
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION purchase_credit_package(p_user uuid, p_package uuid, p_payment uuid, p_key text DEFAULT NULL)
RETURNS TABLE (success boolean, new_balance numeric, transaction_id uuid) LANGUAGE plpgsql AS $$
DECLARE
    package credit_packages;
    paid    payments;
    bought  credit_transactions;
    key     text := coalesce(p_key, 'purchase:' || p_payment);
BEGIN
    SELECT * INTO paid FROM payments WHERE id = p_payment FOR UPDATE;
    SELECT * INTO package FROM credit_packages WHERE id = p_package;
    SELECT * INTO bought FROM credit_transactions t WHERE t.payment_id = p_payment AND t.transaction_type = 'purchase';
    IF bought.id IS NOT NULL AND (bought.user_id, bought.package_id, bought.idempotency_key) IS NOT DISTINCT FROM (p_user, p_package, key) THEN
        RETURN QUERY SELECT true, bought.balance_after, bought.id;
        RETURN;
    END IF;
    IF paid.id IS NULL OR package.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TS005', MESSAGE = format('there is no %s',
            CASE WHEN paid.id IS NULL THEN 'payment ' || coalesce(p_payment::text, 'null') ELSE 'package ' || coalesce(p_package::text, 'null') END);
    ELSIF bought.id IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TS002', MESSAGE = format('payment %s has bought credits already', p_payment);
    ELSIF (paid.user_id, paid.package_id) IS DISTINCT FROM (p_user, p_package) THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('payment %s is not of user %s for package %L', p_payment, p_user, package.name);
    ELSIF paid.status <> 'completed' OR paid.refunded_amount > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('payment %s is %s: it buys nothing', p_payment,
            CASE WHEN paid.refunded_amount > 0 THEN 'refunded' ELSE paid.status END);
    ELSIF paid.currency <> package.currency THEN
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('payment %s is in %s, package %L is sold in %s', p_payment, paid.currency, package.name, package.currency);
    ELSIF paid.amount < package.price AND package.updated_at <= paid.created_at THEN  -- a price that was raised meanwhile does not count
        RAISE EXCEPTION USING ERRCODE = 'TS004', MESSAGE = format('payment %s is of %s %s, package %L costs %s', p_payment, paid.amount, paid.currency, package.name, package.price);
    END IF;
    RETURN QUERY SELECT * FROM add_user_credits(
        p_user, package.credits, 'purchase', description => package.name, idempotency_key => key, payment_method => paid.provider,
        package_id => p_package, payment_id => p_payment, stripe_transaction_id => CASE paid.provider WHEN 'stripe' THEN paid.provider_transaction_id END,
        expires_at => now() + make_interval(days => package.valid_days));
END $$;

COMMENT ON FUNCTION purchase_credit_package IS 'Adds the credits of a package that a completed payment bought; once per payment. TS004 says why a payment does not buy it.';

CREATE FUNCTION take_back_refunded_credits(p_payment uuid, p_key text, p_owe boolean DEFAULT false)
RETURNS TABLE (taken numeric, owed_added numeric, transaction_id uuid, new_balance numeric) LANGUAGE plpgsql AS $$
DECLARE
    paid    payments;
    bought  credit_transactions;
    account user_credits;
    entry   credit_transactions;
    back    numeric;
BEGIN
    SELECT * INTO paid FROM payments WHERE id = p_payment FOR UPDATE;
    SELECT * INTO bought FROM credit_transactions t WHERE t.payment_id = p_payment AND t.transaction_type = 'purchase';
    IF bought.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'TS005', MESSAGE = format('payment %s has bought no credits', p_payment);
    END IF;
    account := lock_credit_account(bought.user_id);
    -- In proportion to all that was refunded so far, less what was taken back so far: parts come to the whole exactly.
    SELECT CASE WHEN paid.refunded_amount = paid.amount THEN bought.amount ELSE round(bought.amount * paid.refunded_amount / paid.amount, 6) END
           + coalesce(sum(t.amount - t.owed_change), 0)
    INTO back FROM credit_transactions t WHERE t.payment_id = p_payment AND t.transaction_type = 'refund';
    IF back <= 0 THEN
        RETURN QUERY SELECT 0::numeric, 0::numeric, NULL::uuid, account.balance;
        RETURN;
    ELSIF back > account.balance AND NOT p_owe THEN
        RAISE EXCEPTION USING ERRCODE = 'TS001',
            MESSAGE = format('insufficient credits: %s to take back, %s available, %s missing', back, account.balance, back - account.balance),
            DETAIL = jsonb_build_object('needed', back, 'available', account.balance, 'missing', back - account.balance, 'owed', account.owed)::text,
            HINT = 'They are used already: refund less, or let what is used be owed.';
    END IF;
    entry.user_id := bought.user_id;
    entry.transaction_type := 'refund';
    entry.amount := -least(account.balance, back);
    entry.owed_change := back + entry.amount;
    entry.description := concat_ws(' ', 'Refund of', bought.description);
    entry.idempotency_key := p_key;
    entry.payment_method := bought.payment_method;
    entry.package_id := bought.package_id;
    entry.payment_id := p_payment;
    entry.request := jsonb_build_object('call', 'take back', 'payment', p_payment, 'refunded', paid.refunded_amount);
    entry := post_credit_transaction(entry);
    IF entry.amount < 0 THEN
        PERFORM burn_credit_grants(ARRAY[entry.id], ARRAY[entry.user_id], ARRAY[entry.sequence], ARRAY[-entry.amount], false,
            ARRAY(SELECT g.id FROM credit_grants g WHERE g.payment_id = p_payment));
    END IF;
    IF entry.owed_after > 0 THEN
        PERFORM suspend_exhausted_subscriptions(entry.user_id);
    END IF;
    RETURN QUERY SELECT -entry.amount, entry.owed_change, entry.id, entry.balance_after;
END $$;

COMMENT ON FUNCTION take_back_refunded_credits IS 'Takes back the credits of a payment in proportion to its refunded_amount, from the grant that it bought first. Used ones are refused (TS001), or owed with p_owe. Again, when more was refunded; a repeated call takes nothing.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Allowances, top-ups
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION renew_credit_allowance(p_user uuid, p_at timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    account  user_credits;
    rollover integer;
    begins   timestamptz;
    ends     timestamptz;
    granted  integer := 0;
BEGIN
    SELECT * INTO account FROM lock_credit_accounts(ARRAY[p_user], p_at);
    IF NOT account.auto_renew OR account.monthly_allowance = 0 OR account.allowance_granted_for >= account.billing_cycle_start THEN
        RETURN 0;
    END IF;
    SELECT rollover_months INTO rollover FROM credit_tiers WHERE tier = account.tier;
    begins := CASE WHEN account.allowance_granted_for IS NULL THEN account.billing_cycle_start
                   ELSE (account.allowance_granted_for AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' END;
    WHILE begins <= account.billing_cycle_start LOOP  -- cycles that passed meanwhile count as far as their allowance would still last
        ends := (begins AT TIME ZONE 'UTC' + make_interval(months => 1 + rollover)) AT TIME ZONE 'UTC';
        IF ends IS NULL OR ends > greatest(p_at, now()) THEN
            PERFORM add_user_credits(p_user, account.monthly_allowance, 'allowance',
                description => 'Allowance of ' || to_char(begins AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
                idempotency_key => 'allowance:' || to_char(begins AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI'), expires_at => ends);
            granted := granted + 1;
        END IF;
        begins := (begins AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    END LOOP;
    UPDATE user_credits SET allowance_granted_for = account.billing_cycle_start WHERE user_id = p_user;
    RETURN granted;
END $$;

COMMENT ON FUNCTION renew_credit_allowance IS 'Grants the allowance of the billing cycle that p_at is in, once; and those of cycles since the last one, as far as their allowance rolled over until now. Returns how many.';

CREATE FUNCTION request_credit_topups(p_users uuid[], p_at timestamptz) RETURNS SETOF topup_requests LANGUAGE sql AS $$
    INSERT INTO topup_requests (id, user_id, cause, package_id, credits, price, currency, requested_at)
    SELECT gen_random_uuid(), c.user_id, format('entry %s, attempt %s', c.ledger_sequence, 1 + h.failed), p.id, p.credits, p.price, p.currency, p_at
    FROM user_credits c
    JOIN credit_packages p ON p.id = c.auto_topup_package_id AND p.is_active AND p.price > 0
    CROSS JOIN LATERAL (
        SELECT greatest(c.auto_topup_set_at, max(t.finished_at)) AS good_at FROM topup_requests t WHERE t.user_id = c.user_id AND t.status = 'completed'
    ) g
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE t.status = 'requested') AS open, count(*) FILTER (WHERE t.status = 'failed') AS failed,
               count(*) FILTER (WHERE t.status = 'failed' AND t.finished_at > g.good_at) AS failed_since,
               max(t.finished_at) FILTER (WHERE t.status = 'failed') AS failed_at,
               count(*) FILTER (WHERE t.status = 'completed' AND t.requested_at >= c.billing_cycle_start) AS bought
        FROM topup_requests t WHERE t.user_id = c.user_id
    ) h
    WHERE (p_users IS NULL OR c.user_id = ANY (p_users)) AND c.balance < c.auto_topup_threshold
      AND h.open = 0 AND h.bought < c.auto_topup_limit AND h.failed_since < 3 AND (h.failed_at IS NULL OR h.failed_at <= p_at - interval '1 day')
    ON CONFLICT DO NOTHING
    RETURNING *
$$;

COMMENT ON FUNCTION request_credit_topups IS 'Asks for the package of each account (of p_users, or all) whose balance is below its threshold: one at a time, at most auto_topup_limit in a cycle, not within a day of one that failed, and not after three that failed in a row, until it is set anew. Returns what was asked for.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------------------------------

INSERT INTO role_rights (role, object, privilege, columns)
SELECT 'tallystick_billing', object, privilege, string_to_array(columns, ' ')
FROM (VALUES
    ('credits', 'SELECT INSERT', NULL),
    ('credits', 'UPDATE', 'remaining used_at'),
    ('credit_applications', 'SELECT INSERT', NULL),
    ('credit_grants credit_grant_postings credit_rates credit_rate_periods credit_packages credit_tiers', 'SELECT', NULL),
    ('topup_requests', 'SELECT', NULL),
    ('topup_requests', 'UPDATE', 'status payment_id failure finished_at'),
    ('lock_credit_accounts settle_credit_windows purchase_credit_package take_back_refunded_credits renew_credit_allowance request_credit_topups', 'EXECUTE', NULL)
) AS rights (objects, privileges, columns)
CROSS JOIN LATERAL string_to_table(objects, ' ') AS object
CROSS JOIN LATERAL string_to_table(privileges, ' ') AS privilege
ON CONFLICT DO NOTHING;

-- migrate:up
-- A price that turns out to have been wrong: usage that was rated by it is rated again, as new rows; nothing is edited.

-- A later revision of the price of some hours stands over what was there: the one in force is the highest that covers the hour.
ALTER TABLE model_prices
    ADD COLUMN revision integer NOT NULL DEFAULT 0 CHECK (revision >= 0),
    DROP CONSTRAINT one_price_at_a_time,
    ADD CONSTRAINT one_price_at_a_time EXCLUDE USING gist (
        (numrange(hash_array_extended(ARRAY[model_id, tool_name, feature_type, currency::text, revision::text], 0)::numeric,
                  hash_array_extended(ARRAY[model_id, tool_name, feature_type, currency::text, revision::text], 0)::numeric, '[]')) WITH &&,
        tstzrange(valid_from, valid_to) WITH &&);

COMMENT ON COLUMN model_prices.revision IS 'Which correction of the price it is: of the versions that cover an hour the highest revision is in force. 0: set ahead of its time.';

-- Rating reads this row FOR SHARE in its transaction, and a change of prices updates it: so the change waits for usage that is
-- being rated by the old prices, and whatever is rated after it knows the new ones. Without it a worker could go on by prices
-- that it remembers, after a reprice had looked for what they rated.
CREATE TABLE price_book (
    one        boolean     PRIMARY KEY DEFAULT true CHECK (one),
    version    bigint      NOT NULL DEFAULT 1,
    changed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO price_book DEFAULT VALUES;

COMMENT ON TABLE price_book IS 'One row: its version is raised by every change of prices or power levels.';

CREATE FUNCTION turn_price_book() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE price_book SET version = version + 1, changed_at = now();
    RETURN NULL;
END $$;

COMMENT ON FUNCTION turn_price_book IS 'Trigger: prices changed, whoever remembers them reads them anew.';

CREATE TRIGGER turn_price_book AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON model_prices
    FOR EACH STATEMENT EXECUTE FUNCTION turn_price_book();
CREATE TRIGGER turn_price_book AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON power_level_configs
    FOR EACH STATEMENT EXECUTE FUNCTION turn_price_book();

CREATE TABLE reprices (
    id           uuid        PRIMARY KEY,
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    prices       jsonb       NOT NULL CHECK (jsonb_typeof(prices) = 'array'),
    why          text        NOT NULL CHECK (why <> ''),
    applied_by   text        NOT NULL CHECK (applied_by <> ''),
    began_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT period_is_half_open CHECK (period_start < period_end),
    CONSTRAINT period_is_on_hours CHECK
        (period_start = date_trunc('hour', period_start, 'UTC') AND period_end = date_trunc('hour', period_end, 'UTC'))
);

COMMENT ON TABLE  reprices IS 'Corrections of prices that were applied to usage of the past: which prices, by whom and why.';
COMMENT ON COLUMN reprices.prices IS 'The ids of the price versions that it put in force.';

CREATE TRIGGER reprices_append_only BEFORE UPDATE OR DELETE ON reprices
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER reprices_no_truncate BEFORE TRUNCATE ON reprices
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

ALTER TABLE rating_runs
    ADD COLUMN reprice_id uuid REFERENCES reprices (id) ON DELETE RESTRICT,
    ADD COLUMN takes_back boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT repriced_by_a_reprice CHECK (kind = 'reprice' OR (reprice_id IS NULL AND NOT takes_back));

CREATE INDEX idx_rating_runs_reprice ON rating_runs (reprice_id) WHERE reprice_id IS NOT NULL;  -- from what was charged anew to what was taken back

COMMENT ON COLUMN rating_runs.reprice_id IS 'The reprice that this run belongs to. Its rows come in pairs: what was rated is taken back, and rated by the new price.';
COMMENT ON COLUMN rating_runs.takes_back IS 'Of a reprice: whether its rows take back what was rated, or charge it anew.';

-- From an invoice line or a settlement to the runs that rated its events, whose batches have them. A row that live usage made is its
-- own source. A row of a reprice stands for events that others have rated: those that the price which it takes back has rated,
-- in the same hour and alike in everything; and if that price came by an earlier reprice, those behind what that one took back.
CREATE FUNCTION rated_usage_sources(line uuid, settlement uuid) RETURNS TABLE (
    takes_back boolean, price_id uuid, multiplier numeric, subscription_id uuid, hour timestamptz, model_id text, tool_name text,
    feature_type text, power_level text, byok boolean, status_class smallint, rating_run_id uuid
) LANGUAGE sql STABLE AS $$
    WITH RECURSIVE billed AS MATERIALIZED (
        SELECT r.subscription_id, r.hour, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class, r.price_id,
               r.multiplier, r.rating_run_id, g.kind, g.takes_back
        FROM rated_usage r JOIN rating_runs g ON g.id = r.rating_run_id
        WHERE (line IS NOT NULL AND r.invoice_line_id = line) OR (settlement IS NOT NULL AND r.settlement_id = settlement)
    ), corrected AS (
        SELECT b.takes_back, b.price_id, b.multiplier, b.subscription_id, b.hour, b.model_id, b.tool_name, b.feature_type, b.power_level,
               b.byok, b.status_class, b.price_id AS rated_by
        FROM billed b WHERE b.kind = 'reprice'
        UNION
        SELECT c.takes_back, c.price_id, c.multiplier, c.subscription_id, c.hour, c.model_id, c.tool_name, c.feature_type, c.power_level,
               c.byok, c.status_class, back.price_id
        FROM corrected c
        JOIN rated_usage charge
          ON (charge.subscription_id, charge.hour, charge.model_id, charge.tool_name, charge.feature_type, charge.power_level, charge.byok,
              charge.status_class, charge.price_id, charge.multiplier)
           = (c.subscription_id, c.hour, c.model_id, c.tool_name, c.feature_type, c.power_level, c.byok, c.status_class, c.rated_by, c.multiplier)
        JOIN rating_runs charging ON charging.id = charge.rating_run_id AND charging.kind = 'reprice' AND NOT charging.takes_back
        JOIN rating_runs backing ON backing.reprice_id = charging.reprice_id AND backing.takes_back
        JOIN rated_usage back
          ON (back.subscription_id, back.hour, back.model_id, back.tool_name, back.feature_type, back.power_level, back.byok,
              back.status_class, back.rating_run_id, back.multiplier)
           = (c.subscription_id, c.hour, c.model_id, c.tool_name, c.feature_type, c.power_level, c.byok, c.status_class, backing.id, c.multiplier)
    )
    SELECT false, b.price_id, b.multiplier, b.subscription_id, b.hour, b.model_id, b.tool_name, b.feature_type, b.power_level, b.byok,
           b.status_class, b.rating_run_id
    FROM billed b WHERE b.kind <> 'reprice'
    UNION ALL
    SELECT c.takes_back, c.price_id, c.multiplier, c.subscription_id, c.hour, c.model_id, c.tool_name, c.feature_type, c.power_level, c.byok,
           c.status_class, r.rating_run_id
    FROM corrected c
    JOIN rated_usage r
      ON (r.subscription_id, r.hour, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok, r.status_class, r.price_id, r.multiplier)
       = (c.subscription_id, c.hour, c.model_id, c.tool_name, c.feature_type, c.power_level, c.byok, c.status_class, c.rated_by, c.multiplier)
    JOIN rating_runs g ON g.id = r.rating_run_id AND g.kind <> 'reprice'
    WHERE c.takes_back OR c.rated_by <> c.price_id  -- what is charged anew was rated by another price; what came later by this one is no part of it
$$;

COMMENT ON FUNCTION rated_usage_sources IS 'The rows of rated usage whose batches have the events behind a line or a settlement, the price that it charges them at, and whether it takes them back.';

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_billing', 'price_book', 'SELECT', NULL),
    ('tallystick_billing', 'price_book', 'UPDATE', '{changed_at}'),  -- nothing is updated: a lock needs the right to
    ('tallystick_billing', 'reprices', 'SELECT', NULL);

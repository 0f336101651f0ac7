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
    ADD CONSTRAINT repriced_by_a_reprice CHECK (kind = 'reprice' OR reprice_id IS NULL);

COMMENT ON COLUMN rating_runs.reprice_id IS 'The reprice that this run belongs to. Its rows come in pairs: what was rated is taken back, and rated by the new price.';

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_billing', 'price_book', 'SELECT', NULL),
    ('tallystick_billing', 'price_book', 'UPDATE', '{changed_at}'),  -- nothing is updated: a lock needs the right to
    ('tallystick_billing', 'reprices', 'SELECT', NULL);

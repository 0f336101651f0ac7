-- migrate:up
-- Least privilege: one database role per service, and one that only reads. Who runs migrations owns everything; docs/reference/roles.md
-- shows the rights as tables, docs/how-to/secure-postgres-and-kafka.md how to log in with them.
--
-- Roles belong to the server, rights to the database: so the rights are data (role_rights), and apply_role_rights() makes them so,
-- here, after every later migration, and when a database was restored on another server. A migration that makes a table for a
-- service inserts its rights.

CREATE TABLE role_rights (
    role      text   NOT NULL CHECK (role IN ('tallystick_ingest', 'tallystick_aggregator', 'tallystick_billing')),
    object    text   NOT NULL CHECK (object <> ''),
    privilege text   NOT NULL CHECK (privilege IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'EXECUTE')),
    columns   text[] CHECK (columns <> '{}'),
    PRIMARY KEY (role, object, privilege)
);

COMMENT ON TABLE  role_rights IS 'What the role of each service may do; apply_role_rights() grants exactly this. tallystick_readonly reads all but secret_columns.';
COMMENT ON COLUMN role_rights.object IS 'A table or view; with EXECUTE a function, all of its overloads, which then runs with the rights of its owner.';
COMMENT ON COLUMN role_rights.columns IS 'The columns that the privilege is for; NULL: all.';

CREATE TABLE secret_columns (
    relation text   NOT NULL PRIMARY KEY,
    columns  text[] CHECK (columns <> '{}')
);

COMMENT ON TABLE  secret_columns IS 'What tallystick_readonly does not see.';
COMMENT ON COLUMN secret_columns.columns IS 'NULL: nothing of the table is seen.';

INSERT INTO secret_columns (relation, columns) VALUES
    ('sessions', NULL),
    ('bridge_tokens', NULL),
    ('users', '{password_hash}'),
    ('api_keys', '{key_hash}'),
    ('user_provider_keys', '{encrypted_api_key}'),
    -- Records that nobody has judged: a gateway may have put anything into them.
    ('quarantined_events', '{record_key,record_value,record_headers}'),
    ('held_events', '{api_key_hash,record_key,record_value,record_headers}');

-- A row lock (SELECT … FOR UPDATE) needs the right to update some column: where nothing else is updated, it is the one named last.
INSERT INTO role_rights (role, object, privilege, columns)
SELECT 'tallystick_' || service, object, privilege, string_to_array(columns, ' ')
FROM (VALUES
    ('ingest', 'usage_logs', 'SELECT INSERT', NULL),
    ('ingest', 'usage_batches quarantined_events held_events ingest_positions', 'SELECT INSERT', NULL),
    ('ingest', 'ingest_positions', 'UPDATE', 'next_offset inserted duplicates quarantined held gaps updated_at'),
    ('ingest', 'held_events', 'UPDATE', 'attributed_at attributed_batch_id'),
    ('ingest', 'ingest_outbox', 'SELECT INSERT DELETE', NULL),
    ('ingest', 'ingest_outbox', 'UPDATE', 'created_at'),
    ('ingest', 'subscriptions', 'SELECT', 'id'),
    ('ingest', 'api_keys', 'SELECT', 'id key_hash subscription_id'),
    ('ingest', 'ensure_usage_partition', 'EXECUTE', NULL),

    ('aggregator', 'aggregator_inbox aggregator_positions usage_summaries provider_health provider_observations billing_alerts', 'SELECT INSERT', NULL),
    ('aggregator', 'aggregator_positions', 'UPDATE', 'next_offset applied duplicates gaps updated_at'),
    ('aggregator', 'usage_summaries', 'UPDATE',
     'request_count error_count request_tokens response_tokens cached_tokens latency_sum_ms latency_count latency_histogram updated_at'),
    ('aggregator', 'provider_health', 'UPDATE', NULL),
    ('aggregator', 'provider_observations', 'UPDATE DELETE', NULL),
    ('aggregator', 'aggregator_outbox', 'SELECT INSERT DELETE', NULL),
    ('aggregator', 'aggregator_outbox', 'UPDATE', 'created_at'),
    ('aggregator', 'subscriptions', 'SELECT', NULL),
    ('aggregator', 'subscriptions', 'UPDATE', 'used_requests used_tokens quota_period_start reset_at status_published_version'),
    ('aggregator', 'api_keys', 'SELECT', 'id last_used_at'),
    ('aggregator', 'api_keys', 'UPDATE', 'last_used_at'),
    ('aggregator', 'user_credits', 'SELECT', 'user_id balance'),
    ('aggregator', 'suspend_subscription clear_suspension refresh_usage_summary', 'EXECUTE', NULL),

    ('billing', 'billing_inbox billing_positions rating_runs rated_usage credit_settlements invoices invoice_lines billing_alerts job_runs', 'SELECT INSERT', NULL),
    ('billing', 'billing_positions', 'UPDATE', 'next_offset applied duplicates gaps updated_at'),
    ('billing', 'rated_usage', 'UPDATE', 'price_id multiplier currency amount cost_amount rated_at settlement_id invoice_line_id'),
    -- Of issued invoices the triggers fix the content, and refuse the deletion.
    ('billing', 'invoices', 'UPDATE', 'number status exact_subtotal subtotal tax_rate tax total items issue_date due_date paid_date metadata'),
    ('billing', 'invoices', 'DELETE', NULL),
    ('billing', 'job_runs', 'UPDATE', 'started_at finished_at worker result'),
    ('billing', 'billing_outbox', 'SELECT INSERT DELETE', NULL),
    ('billing', 'billing_outbox', 'UPDATE', 'created_at'),
    ('billing', 'model_prices power_level_configs plans subscriptions user_credits credit_transactions invoice_numbers', 'SELECT', NULL),
    -- What reconciliation compares, and what an invoice line is traced back to.
    ('billing', 'usage_logs usage_batches usage_summaries ingest_positions aggregator_inbox', 'SELECT', NULL),
    ('billing', 'quarantined_events', 'SELECT', 'batch_id'),
    ('billing', 'held_events', 'SELECT', 'batch_id attributed_batch_id'),
    ('billing', 'lock_credit_account settle_user_credits debit_user_credits add_user_credits take_invoice_number', 'EXECUTE', NULL),
    ('billing', 'suspend_subscription clear_suspension', 'EXECUTE', NULL)
) AS rights (service, objects, privileges, columns)
CROSS JOIN LATERAL string_to_table(objects, ' ') AS object
CROSS JOIN LATERAL string_to_table(privileges, ' ') AS privilege;

-- ---------------------------------------------------------------------------------------------------------------------
-- Making it so
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION create_service_roles() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    wanted text;
    -- Since PostgreSQL 16 who makes a role is its member, but may not act as it before saying so.
    acting text := CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['tallystick_ingest', 'tallystick_aggregator', 'tallystick_billing', 'tallystick_readonly'] LOOP
        BEGIN
            IF to_regrole(wanted) IS NULL THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;  -- roles belong to the server: another database just made it
            WHEN insufficient_privilege THEN
                RAISE WARNING 'role % is missing and % may not create it: until it is there, its service works with the rights of its login',
                    wanted, current_user
                    USING HINT = format('As an administrator: CREATE ROLE %I; GRANT %I TO %I; then run `tallystick migrate` again.', wanted, wanted, current_user);
                CONTINUE;
        END;
        BEGIN
            IF NOT pg_has_role(current_user, wanted, acting) THEN
                EXECUTE format('GRANT %I TO %I', wanted, current_user);
            END IF;
        EXCEPTION
            WHEN unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE WARNING '% may not act as role %', current_user, wanted
                    USING HINT = format('Only needed where services log in as %I. As an administrator: GRANT %I TO %I.', current_user, wanted, current_user);
        END;
    END LOOP;
END $$;

COMMENT ON FUNCTION create_service_roles IS 'Makes the roles that are missing, and lets the owner act as them; warns, with what to do, where it may not.';

-- A function that a role may call does what the role itself may not: it runs as its owner, with a search_path that nobody else can
-- put a table of theirs into, and for nobody but those roles. So do the two triggers that write, or judge, what the role cannot.
CREATE FUNCTION secure_functions() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    secured regprocedure;
BEGIN
    FOR secured IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace
          AND (proname IN ('audit_subscription', 'check_credit_balance') OR proname IN (SELECT object FROM role_rights WHERE privilege = 'EXECUTE'))
    LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path TO %I, pg_temp', secured, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', secured);
    END LOOP;
END $$;

COMMENT ON FUNCTION secure_functions IS 'Lets the functions that service roles call run as their owner, with a fixed search_path, and closes them to PUBLIC.';

-- The relations that tallystick_readonly sees, and which columns (NULL: all). Partitions are read through their parent.
CREATE FUNCTION readable_relations() RETURNS TABLE (relation name, columns text[]) LANGUAGE sql STABLE AS $$
    SELECT c.relname, CASE WHEN s.relation IS NOT NULL THEN ARRAY(
               SELECT attname FROM pg_attribute
               WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attname <> ALL (s.columns) ORDER BY attnum) END
    FROM pg_class c LEFT JOIN secret_columns s ON s.relation = c.relname
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
      AND pg_has_role(c.relowner, 'USAGE') AND (s.relation IS NULL OR s.columns IS NOT NULL)
$$;

COMMENT ON FUNCTION readable_relations IS 'What tallystick_readonly sees: everything but secret_columns.';

CREATE FUNCTION apply_role_rights() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    statement text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('tallystick.role_rights', 0));
    PERFORM create_service_roles();
    PERFORM secure_functions();
    FOR statement IN
        WITH roles AS (
            SELECT rolname, oid FROM pg_roles
            WHERE rolname IN ('tallystick_ingest', 'tallystick_aggregator', 'tallystick_billing', 'tallystick_readonly')
        ), rights AS (
            SELECT role, object, privilege, columns FROM role_rights
            UNION ALL
            SELECT 'tallystick_readonly', relation, 'SELECT', columns FROM readable_relations()
        ), granted AS (  -- what a role has now: of a relation as a whole or of its columns, or of a function
            SELECT a.grantee, format('TABLE %s', c.oid::regclass) AS what FROM pg_class c, aclexplode(c.relacl) a
            WHERE c.relnamespace = current_schema()::regnamespace
            UNION SELECT x.grantee, format('TABLE %s', c.oid::regclass) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) x
            WHERE c.relnamespace = current_schema()::regnamespace
            UNION SELECT a.grantee, format('FUNCTION %s', p.oid::regprocedure) FROM pg_proc p, aclexplode(p.proacl) a
            WHERE p.pronamespace = current_schema()::regnamespace
        ), statements (step, text) AS (
            SELECT 1, format('REVOKE ALL ON %s FROM %I', what, rolname) FROM granted JOIN roles ON oid = grantee
            UNION ALL
            SELECT 2, format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), rolname) FROM roles
            UNION ALL
            SELECT 3, format('GRANT %s ON %I TO %I',
                privilege || coalesce(' (' || (SELECT string_agg(quote_ident(name), ', ') FROM unnest(columns) name) || ')', ''), object, role)
            FROM rights JOIN roles ON rolname = role WHERE privilege <> 'EXECUTE'
            UNION ALL
            SELECT 3, format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, role)
            FROM rights JOIN roles ON rolname = role JOIN pg_proc p ON proname = object AND pronamespace = current_schema()::regnamespace
            WHERE privilege = 'EXECUTE'
            UNION ALL
            -- Row-level security is there for tenants. Services work for all of them: what they may do is said by their grants.
            SELECT 4, format('%s POLICY service_roles ON %I TO %s %s',
                CASE WHEN p.polname IS NULL THEN 'CREATE' ELSE 'ALTER' END, c.relname,
                string_agg(DISTINCT quote_ident(rolname), ', '), CASE WHEN p.polname IS NULL THEN 'USING (true)' END)
            FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polname = 'service_roles'
            JOIN rights ON object = c.relname AND privilege <> 'EXECUTE' JOIN roles ON rolname = role
            WHERE c.relnamespace = current_schema()::regnamespace AND c.relrowsecurity
            GROUP BY c.relname, p.polname, p.polroles
            HAVING array_agg(DISTINCT roles.oid) IS DISTINCT FROM ARRAY(SELECT unnest(p.polroles) ORDER BY 1)  -- it locks the table
        )
        SELECT text FROM statements ORDER BY step, text
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;

COMMENT ON FUNCTION apply_role_rights IS 'Gives every service role that exists exactly the rights of role_rights, and tallystick_readonly what it may read.';

SELECT apply_role_rights();

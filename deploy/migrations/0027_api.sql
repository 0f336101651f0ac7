-- migrate:up
-- The HTTP API's roles: tallystick_api, with which it looks up who asks, and tallystick_tenant, with which it reads for a tenant.

-- The roles are data from here on, so that a service that comes later needs no new version of the functions below.
CREATE TABLE service_roles (
    role    text PRIMARY KEY,
    purpose text NOT NULL
);

COMMENT ON TABLE service_roles IS 'The database roles of Tallystick, which create_service_roles() makes.';

INSERT INTO service_roles (role, purpose) VALUES
    ('tallystick_ingest', 'stores usage events, and nothing else'),
    ('tallystick_aggregator', 'sums usage up, counts it against quotas, publishes statuses'),
    ('tallystick_billing', 'rates usage, settles it against credits, issues invoices'),
    ('tallystick_api', 'recognises credentials, keeps accounts and reference data, enters the others for one transaction'),
    ('tallystick_tenant', 'reads what one tenant owns, by row-level security'),
    ('tallystick_readonly', 'reads everything but secrets');

ALTER TABLE role_rights DROP CONSTRAINT role_rights_role_check, ADD FOREIGN KEY (role) REFERENCES service_roles (role);

ALTER TABLE users DROP CONSTRAINT valid_roles,
    ADD CONSTRAINT valid_roles CHECK (roles <@ ARRAY['user', 'admin', 'finance', 'service'] AND cardinality(roles) > 0);
COMMENT ON COLUMN users.roles IS 'What the user may do: user, admin, finance, service (a gateway). The tier says what was bought, never what is allowed.';

CREATE OR REPLACE FUNCTION create_service_roles() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    wanted text;
    -- Since PostgreSQL 16 who makes a role is its member, but may not act as it before saying so.
    acting text := CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOR wanted IN SELECT role FROM service_roles ORDER BY role LOOP
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

-- What has a policy user_own_data is what tenants have; of it they see all but what is secret.
CREATE FUNCTION tenant_relations() RETURNS TABLE (relation name, columns text[]) LANGUAGE sql STABLE AS $$
    SELECT r.relation, r.columns
    FROM readable_relations() r JOIN pg_class c ON c.relname = r.relation AND c.relnamespace = current_schema()::regnamespace
    WHERE EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'user_own_data') AND c.relrowsecurity
$$;

COMMENT ON FUNCTION tenant_relations IS 'What tallystick_tenant may read beside its rows of role_rights: relations under row-level security, without secret_columns.';

CREATE OR REPLACE FUNCTION apply_role_rights() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    statement text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('tallystick.role_rights', 0));
    PERFORM create_service_roles();
    PERFORM secure_functions();
    FOR statement IN
        WITH roles AS (
            SELECT rolname, oid FROM pg_roles
            WHERE rolname IN (SELECT role FROM service_roles)
        ), rights AS (
            SELECT role, object, privilege, columns FROM role_rights
            UNION ALL
            SELECT 'tallystick_readonly', relation, 'SELECT', columns FROM readable_relations()
            UNION ALL
            SELECT 'tallystick_tenant', relation, 'SELECT', columns FROM tenant_relations()
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
            WHERE c.relnamespace = current_schema()::regnamespace AND c.relrowsecurity AND rolname <> 'tallystick_tenant'
            GROUP BY c.relname, p.polname, p.polroles
            HAVING array_agg(DISTINCT roles.oid) IS DISTINCT FROM ARRAY(SELECT unnest(p.polroles) ORDER BY 1)  -- it locks the table
        )
        SELECT text FROM statements ORDER BY step, text
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;


INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_api', 'users', 'SELECT', NULL),
    ('tallystick_api', 'api_keys', 'SELECT', NULL),
    ('tallystick_api', 'subscriptions', 'SELECT', NULL);
SELECT apply_role_rights();

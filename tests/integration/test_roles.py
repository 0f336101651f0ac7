"""Least privilege: each service's role may do all that its queries need, and nothing of what it must not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from docs.roles import PAGE, roles_page
from services.cli.reconcile import prove
from shared.errors import ConfigurationError
from shared.ids import uuid7
from shared.postgres import Connection, Pool, connect, create_pool, role_to_take
from shared.sql import Queries
from shared.worker import PipelineSettings, role_of
from tests.integration.roles import AGGREGATOR, API, BILLING, INGEST, OPERATOR, READONLY, TENANT, with_role
from tests.integration.schema_facts import NOON, log_usage, make_invoice, make_subscription, make_user, refused

ROOT = Path(__file__).parents[2]
SERVICES = (INGEST, AGGREGATOR, BILLING)
ROLES = (*SERVICES, READONLY)
OPERATORS = (
    "services.aggregator.rebuild",
    "services.ingest.partitions",
    "services.ingest.quarantine",
    "services.ingest.holding",
    "services.billing.credits.desk",
    "services.billing.plans.desk",
    "services.billing.rating.desk",
    "services.billing.subscriptions.desk",
)
"""What an administrator runs from the command line, with the rights of the owner."""
OPERATED: dict[str, tuple[str, ...]] = {
    "services.accounts.users": (
        "make_user", "user_taken", "lock_roles", "set_roles", "set_active", "end_sessions", "is_last_administrator", "lock_account",
        "change_account", "anonymise",
    ),
    "services.ingest": (),
    "services.ingest.quarantine": (),
    "services.ingest.holding": (),
    "services.billing.credits.desk": ("user", "add", "debit", "audit", "audit_once"),
    "services.billing.plans.desk": ("plan_version_is_given", "insert_plan", "insert_version", "mirror_plan"),
    "services.billing.rating.desk": (),
    "services.billing.subscriptions": (),
    "services.billing.subscriptions.desk": (),
}  # fmt: skip
"""What of it is done over HTTP as well, with the rights of the API's operator: all queries of a package, or these; a replay goes through ingest."""
READ = (
    ("usage", "queries.sql"),
    ("subscriptions", "queries.sql"),
    ("credits", "reading.sql"),
    ("alerts", "queries.sql"),
    ("catalogue", "queries.sql"),
    ("explaining", "queries.sql"),
    ("invoices", "queries.sql"),
)
"""What the API reads as a tenant, or as the reading role."""
OF_WHO_READS_ALL = ("series_of_everybody", "newest")
"""What no tenant asks, or what the API asks with the reading role for a tenant."""
OF_THE_API = (
    ("services.accounts.api_keys", "queries.sql"),
    ("services.accounts.sessions", "queries.sql"),
    ("services.api.auth", "queries.sql"),
    ("services.api.entitlements", "queries.sql"),
    ("services.api.reservations", "queries.sql"),
    ("services.api.usage", "own.sql"),
)
"""What the API does with the rights of its own role."""
ADMINISTRATION = ("sign_up_user", "sign_up_subscription", "subscribers")
"""What the demo does as one."""
OF_THE_WORKER = {"services.ingest.partitions": ("ensure",)}
"""Which queries of a package a worker runs, where the others are an administrator's."""
DENIED = "42501"
_PLANNED = re.compile(r"\A(\s*--[^\n]*\n)*\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH)\b")
"""Other statements make and drop things, which is the owner's right alone."""
_TEMPLATE = re.compile(r"[^'{]\{[a-z_]+\}")
"""A query of one relation among several, which its code names."""


def queries_of(role: str) -> Iterator[tuple[str, str]]:
    """Every query of a service, with where it stands; of the reading role those of the reading commands."""
    service = role.removeprefix("tallystick_")
    if role == READONLY:
        packages = ["services.billing.reconciliation", "services.billing.provenance", "services.cli.demo"]
        sets = [(package, Queries.load(package)) for package in packages]
        sets.append(("services.billing.invoices", Queries.load("services.billing.invoices", "reading.sql")))
        sets += read_over_http("")
    elif role == TENANT:
        sets = read_over_http("tenant_")
    elif role == API:
        sets = [(f"{package} {file}", Queries.load(package, file)) for package, file in OF_THE_API]
    else:
        files = sorted((ROOT / "services" / service).rglob("*.sql"))
        packages = [".".join(file.parent.relative_to(ROOT).parts) for file in files]
        used = packages_of_worker(service)
        found = zip(packages, files, strict=True)
        sets = [(package, Queries.load(package, file.name)) for package, file in found if package in used]
        sets.append(("outbox", Queries.load("shared", "outbox.sql", table=f"{service}_outbox")))
        sets.append(("positions", Queries.load("shared", "positions.sql", table=f"{service}_positions")))
    for package, queries in sets:
        for name, sql in queries.items():
            others = (*ADMINISTRATION, *OF_WHO_READS_ALL) if role == TENANT else ADMINISTRATION
            ours = name in OF_THE_WORKER.get(package, (name,)) and name not in others
            if ours and _PLANNED.search(sql) and not _TEMPLATE.search(sql):
                yield f"{package}.{name}", sql


def read_over_http(prefix: str) -> list[tuple[str, Queries]]:
    """What the API reads for tenants and for who reads all; `prefix` is of the views that tenants read."""
    tables = {table: prefix + table for table in ("usage_logs", "rated_usage")}
    return [
        (f"services.api.{package} {file}", Queries.load(f"services.api.{package}", file, **tables))
        for package, file in READ
    ]


def packages_of_worker(service: str) -> set[str]:
    """What a worker of the service imports. Other packages are an administrator's commands, which have the rights of the owner."""
    program = f"import sys, services.{service}.app; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()
    )


@asynccontextmanager
async def acting_as(connection: Connection, role: str) -> AsyncIterator[None]:
    """Have the rights of a role in a transaction of which nothing remains."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"SET LOCAL ROLE {role}")
    try:
        yield
    finally:
        await transaction.rollback()


_NAMES = (f"tried_{number}" for number in count())


async def plan(connection: Connection, sql: str) -> None:
    """Let the server begin to execute a query and stop before the first row: it has then checked all rights but those in functions."""
    name = next(_NAMES)
    await connection.execute(f"PREPARE {name} AS {sql}")
    parameters = await connection.fetchval(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1", name
    )
    arguments = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
    await connection.execute(f"EXPLAIN EXECUTE {name}{arguments}")


# What a role may do


@pytest.mark.parametrize("role", (*ROLES, TENANT, API))
async def test_a_role_may_do_all_that_its_queries_do(connection: Connection, role: str) -> None:
    problems, tried = [], 0
    await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    for name, sql in queries_of(role):
        async with acting_as(connection, role):
            try:
                await plan(connection, sql)
            except asyncpg.InsufficientPrivilegeError as error:
                problems.append(f"{name}: {error}")
        tried += 1
    assert tried > 10
    assert not problems, "insert the right into role_rights in a migration:\n" + "\n".join(problems)


async def test_the_operator_of_the_api_may_do_what_operators_do(connection: Connection) -> None:
    await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    problems, tried = [], 0
    for package, names in OPERATED.items():
        queries = Queries.load(package)
        for name in names or queries:
            async with acting_as(connection, OPERATOR):
                try:
                    await plan(connection, queries[name])
                except asyncpg.InsufficientPrivilegeError as error:
                    problems.append(f"{package}.{name}: {error}")
            tried += 1
    assert tried > 50
    assert not problems, "insert the right into role_rights in a migration:\n" + "\n".join(problems)


async def test_the_check_before_sees_a_right_that_is_missing(connection: Connection) -> None:
    for sql in (
        "UPDATE usage_summaries SET request_count = $1::bigint",
        "SELECT password_hash FROM users",
        "SELECT id FROM subscriptions FOR UPDATE",
        "SELECT * FROM add_user_credits($1::uuid, 1)",
        "SELECT take_invoice_number('default', 2026)",
    ):
        async with acting_as(connection, INGEST), refused(connection, DENIED):
            await plan(connection, sql)


async def test_ingest_stores_into_a_partition_of_its_own_making(database_pool: Pool) -> None:
    pool, owner = with_role(database_pool, INGEST), await database_pool.fetchval("SELECT current_user")
    async with pool.acquire() as connection:
        partition = await connection.fetchval("SELECT ensure_usage_partition($1)", NOON)
        columns = ("created_at", "id", "subscription_id", "batch_id", "model_id", "source", "request_id")
        row = (NOON, uuid7(), uuid7(), uuid7(), "gpt-4o", "/test", "1")
        await connection.copy_records_to_table("usage_logs", columns=columns, records=[row])
        assert await connection.fetchval("SELECT count(*) FROM usage_logs") == 1
        for sql in (
            f"SELECT FROM {partition}",
            f"INSERT INTO {partition} SELECT",
            f"DELETE FROM {partition}",  # noqa: S608
            f"DROP TABLE {partition}",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(sql)
    assert await database_pool.fetchval("SELECT tableowner FROM pg_tables WHERE tablename = $1", partition) == owner


async def test_usage_that_suspends_is_audited_though_no_service_may_write_the_trail(connection: Connection) -> None:
    subscription_id = await make_subscription(connection, quota_requests=1)
    await connection.execute("SET LOCAL ROLE tallystick_aggregator")
    await connection.execute("SELECT set_config('tallystick.actor', 'aggregator', true)")
    await connection.execute("UPDATE subscriptions SET used_requests = 1 WHERE id = $1", subscription_id)
    await connection.execute("RESET ROLE")
    row = await connection.fetchrow("SELECT * FROM audit_logs WHERE resource_id = $1", str(subscription_id))
    assert row is not None
    assert (row["actor"], row["action"]) == ("aggregator", "subscription.suspended")


async def test_billing_moves_credits_through_the_functions_alone(connection: Connection) -> None:
    user_id = await make_user(connection)
    await connection.execute("SET LOCAL ROLE tallystick_billing")
    await connection.execute("SELECT add_user_credits($1::uuid, 10, idempotency_key => 'a')", user_id)
    await connection.execute("SELECT settle_user_credits($1, 4, 'b')", user_id)
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert await connection.fetchval("SELECT balance FROM user_credits WHERE user_id = $1", user_id) == 6
    for sql in (
        "UPDATE user_credits SET balance = 100",
        "UPDATE credit_transactions SET amount = 0",
        "DELETE FROM credit_transactions",
    ):
        async with refused(connection, DENIED):
            await connection.execute(sql)


# What nobody, and what only some, may do

APPEND_ONLY = (
    "usage_logs",
    "usage_ids",
    "credit_transactions",
    "credit_settlements",
    "credit_grant_postings",
    "credit_applications",
    "audit_logs",
    "invoice_lines",
    "billing_inbox",
)
FORBIDDEN_TO_ALL = [
    *(f"{verb} {table}" for table in APPEND_ONLY for verb in ("DELETE FROM", "TRUNCATE")),
    "TRUNCATE aggregator_inbox",
    "UPDATE usage_logs SET request_tokens = 0",
    "UPDATE usage_ids SET created_at = now()",
    "DROP TABLE usage_ids_1",
    "UPDATE credit_transactions SET amount = 0",
    "UPDATE audit_logs SET actor = 'nobody'",
    "UPDATE invoice_lines SET amount = 0",
    "TRUNCATE invoices CASCADE",
    "DELETE FROM rated_usage",
    "TRUNCATE rated_usage",
    "INSERT INTO audit_logs (action) VALUES ('forged')",
    "INSERT INTO credit_transactions (user_id) VALUES (gen_random_uuid())",
    "UPDATE user_credits SET balance = 1000000",
    "UPDATE credit_grants SET remaining = 1000000",
    "UPDATE credit_rates SET credits_per_unit = 1",
    "UPDATE invoice_numbers SET next = 1",
    "UPDATE model_prices SET note = ''",
    "UPDATE subscriptions SET status = 'active'",
    "UPDATE subscriptions SET quota_tokens = NULL",
    "DELETE FROM subscriptions",
    "UPDATE users SET roles = '{admin}'",
    "UPDATE role_rights SET columns = NULL",
    "SELECT apply_role_rights()",
    "SELECT password_hash FROM users",
    "SELECT * FROM users",
    "SELECT encrypted_api_key FROM user_provider_keys",
    "SELECT FROM sessions",
    "SELECT FROM bridge_tokens",
    "SELECT post_credit_transaction(NULL::credit_transactions)",
    "CREATE TABLE mine ()",
]
FORBIDDEN = [
    (INGEST, "DELETE FROM aggregator_inbox"),
    (BILLING, "DELETE FROM aggregator_inbox"),
    (INGEST, "UPDATE quarantined_events SET resolution = 'discarded'"),
    (INGEST, "DELETE FROM held_events"),
    (INGEST, "UPDATE held_events SET record_value = ''"),
    (INGEST, "UPDATE ingest_positions SET start_offset = 0"),
    (INGEST, "DELETE FROM ingest_positions"),
    (INGEST, "INSERT INTO usage_summaries (subscription_id) VALUES (gen_random_uuid())"),
    (INGEST, "SELECT user_id FROM subscriptions"),
    (INGEST, "SELECT FROM user_credits"),
    (INGEST, "SELECT suspend_subscription(gen_random_uuid(), 'admin')"),
    (INGEST, "SELECT debit_user_credits(gen_random_uuid(), 1)"),
    (AGGREGATOR, "SELECT FROM usage_logs"),
    (AGGREGATOR, "INSERT INTO usage_logs (source) VALUES ('x')"),
    (AGGREGATOR, "DELETE FROM usage_summaries"),
    (AGGREGATOR, "DELETE FROM usage_hours"),
    (BILLING, "UPDATE usage_hours SET request_count = 0"),
    (AGGREGATOR, "UPDATE ingest_positions SET next_offset = 0"),
    (AGGREGATOR, "UPDATE billing_positions SET next_offset = 0"),
    (AGGREGATOR, "SELECT key_hash FROM api_keys"),
    (AGGREGATOR, "UPDATE api_keys SET is_active = true"),
    (AGGREGATOR, "SELECT stripe_customer_id FROM user_credits"),
    (AGGREGATOR, "SELECT FROM invoices"),
    (AGGREGATOR, "SELECT add_user_credits(gen_random_uuid(), 1)"),
    (AGGREGATOR, "SELECT ensure_usage_partition(now())"),
    (BILLING, "INSERT INTO usage_logs (source) VALUES ('x')"),
    (BILLING, "UPDATE usage_summaries SET request_count = 0"),
    (BILLING, "UPDATE rated_usage SET requests = 0"),
    (BILLING, "UPDATE subscriptions SET used_tokens = 0"),
    (BILLING, "SELECT record_value FROM quarantined_events"),
    (BILLING, "INSERT INTO model_prices (model_id) VALUES ('x')"),
    (BILLING, "SELECT FROM api_keys"),
    (TENANT, "SELECT cost_input_price_per_1k FROM model_prices"),
    (TENANT, "SELECT FROM usage_logs"),
    (TENANT, "SELECT FROM credit_grant_postings"),
    (READONLY, "SELECT key_hash FROM api_keys"),
    (READONLY, "SELECT record_value FROM quarantined_events"),
    (READONLY, "INSERT INTO job_runs (job) VALUES ('x')"),
    (READONLY, "SELECT FROM users FOR UPDATE"),
    (READONLY, "SELECT refresh_usage_summary()"),
    (READONLY, "SELECT take_invoice_number('default', 2026)"),
]


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_changes_what_is_final_or_reads_secrets(connection: Connection, role: str) -> None:
    for sql in FORBIDDEN_TO_ALL:
        async with acting_as(connection, role):
            await expect_denied(connection, sql)


@pytest.mark.parametrize(("role", "sql"), FORBIDDEN)
async def test_a_role_keeps_to_its_own(connection: Connection, role: str, sql: str) -> None:
    async with acting_as(connection, role):
        await expect_denied(connection, sql)


async def expect_denied(connection: Connection, sql: str) -> None:
    """Execute a statement that must fail for lack of a right."""
    try:
        await connection.execute(sql)
    except asyncpg.InsufficientPrivilegeError:
        return
    pytest.fail(f"allowed: {sql}")


async def test_billing_cannot_change_an_issued_invoice(connection: Connection) -> None:
    invoice = await make_invoice(
        connection, await make_user(connection), number="INV-2026-000001", status="sent", issue_date=NOON, due_date=NOON
    )
    async with acting_as(connection, BILLING):
        for sql in (
            "UPDATE invoices SET subtotal = 1, total = 1 WHERE id = $1",
            "UPDATE invoices SET number = 'X' WHERE id = $1",
        ):
            async with refused(connection, "TS003"):
                await connection.execute(sql, invoice)
        async with refused(connection, "TS003"):
            await connection.execute("DELETE FROM invoices WHERE id = $1", invoice)
        assert await connection.execute("UPDATE invoices SET status = 'overdue' WHERE id = $1", invoice) == "UPDATE 1"


# What the catalogue says


async def test_each_table_has_one_writing_service(connection: Connection) -> None:
    rows = await connection.fetch(
        """SELECT relname::text AS name, array_agg(role) AS roles FROM pg_class, unnest($1::text[]) AS role
           WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND has_table_privilege(role, oid, 'INSERT')
           GROUP BY relname HAVING count(*) > 1""",
        SERVICES,
    )
    assert {row["name"]: row["roles"] for row in rows} == {"billing_alerts": [AGGREGATOR, BILLING]}


async def test_no_role_has_a_right_on_a_partition_itself(connection: Connection) -> None:
    await log_usage(connection, uuid7())
    rows = await connection.fetch(
        """SELECT relname FROM pg_class, unnest($1::text[]) AS role
           WHERE relispartition AND relkind = 'r' AND has_any_column_privilege(role, oid, 'SELECT, INSERT, UPDATE')""",
        ROLES,
    )
    assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relispartition AND relkind = 'r'") > 0
    assert rows == []


async def test_nothing_that_looks_like_a_secret_can_be_read_by_dashboards(connection: Connection) -> None:
    rows = await connection.fetch(
        """SELECT attrelid::regclass::text AS relation, attname::text AS name FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
           WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped AND NOT relispartition
             AND relkind IN ('r', 'p', 'v', 'm') AND has_column_privilege($1, attrelid, attnum, 'SELECT')""",
        READONLY,
    )
    secret = re.compile(r"(^|_)(hash|password|secret|encrypted|token(?!_count))(_|$)")
    assert len(rows) > 300
    assert [f"{row['relation']}.{row['name']}" for row in rows if secret.search(row["name"])] == []


async def test_every_relation_can_be_read_by_dashboards_or_is_secret(connection: Connection) -> None:
    rows = await connection.fetch(
        """SELECT relname::text AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
             AND NOT relispartition AND NOT has_any_column_privilege($1, oid, 'SELECT')""",
        READONLY,
    )
    assert {row["name"] for row in rows} == {"sessions", "bridge_tokens"}


async def test_dashboards_see_the_rows_of_all_tenants(connection: Connection) -> None:
    await make_subscription(connection)
    async with acting_as(connection, READONLY):
        assert await connection.fetchval("SELECT count(*) FROM subscriptions") > 0
        assert await connection.fetchval("SELECT count(*) FROM active_subscriptions") > 0


async def test_functions_with_the_rights_of_the_owner_are_closed_and_cannot_be_misled(connection: Connection) -> None:
    rows: list[Any] = await connection.fetch(
        """SELECT proname::text AS name, coalesce(array_to_string(proconfig, ' '), '') AS settings,
                  has_function_privilege('tallystick_tenant', oid, 'EXECUTE') AS open
           FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"""
    )
    assert {"ensure_usage_partition", "suspend_subscription", "settle_user_credits", "audit_subscription"} <= {
        row["name"] for row in rows
    }
    assert [row["name"] for row in rows if "search_path=" not in row["settings"]] == []
    assert [row["name"] for row in rows if row["open"]] == []


async def test_rights_that_somebody_changed_are_put_right(connection: Connection) -> None:
    await connection.execute("GRANT DELETE ON usage_logs TO tallystick_ingest")
    await connection.execute("GRANT SELECT (password_hash) ON users TO tallystick_readonly")
    await connection.execute("REVOKE INSERT ON usage_batches FROM tallystick_ingest")
    await connection.execute("DROP POLICY service_roles ON invoices")
    await connection.execute("ALTER FUNCTION take_invoice_number SECURITY INVOKER RESET search_path")
    for step in ("create_service_roles", "secure_functions", "apply_role_rights"):
        await connection.execute(f"SELECT {step}()")
    async with acting_as(connection, INGEST):
        await expect_denied(connection, "DELETE FROM usage_logs")
    async with acting_as(connection, INGEST):
        await plan(connection, Queries.load("services.ingest")["record_batch"])
    async with acting_as(connection, READONLY):
        await expect_denied(connection, "SELECT password_hash FROM users")
    async with acting_as(connection, BILLING):
        assert await connection.fetchval("SELECT take_invoice_number('default', 2026)") == "INV-2026-000001"
    seen = await connection.fetchval("SELECT columns FROM readable_relations() WHERE relation = 'api_keys'")
    assert "key_prefix" in seen
    assert "key_hash" not in seen


async def test_the_reference_says_what_the_catalogue_says(connection: Connection) -> None:
    assert PAGE.read_text(encoding="utf-8") == await roles_page(connection), "run `make docs`"


# How a service comes to its role


async def test_a_session_keeps_its_role_for_life(database: str) -> None:
    pool = await create_pool(database, max_size=1, role=INGEST)
    try:
        assert [await pool.fetchval("SELECT current_user") for _ in range(3)] == [INGEST] * 3
    finally:
        await pool.close()


async def test_a_service_takes_its_role_where_it_can(database: str, empty_database: str) -> None:
    assert await role_to_take(database, "", BILLING) == (BILLING, "")
    assert await role_to_take(database, "none", BILLING) == (None, "it was told to")
    role, problem = await role_to_take(database, "", "nobody_has_made_this")
    assert (role, "does not exist" in problem) == (None, True)
    role, problem = await role_to_take(empty_database, "", BILLING)
    assert (role, problem) == (None, "tallystick_billing has no rights in this database")


async def test_a_worker_takes_its_role_by_itself_and_warns_where_it_cannot(
    database: str, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TALLYSTICK_DATABASE_ROLE", raising=False)

    def settings(url: str, **fields: Any) -> PipelineSettings:
        return PipelineSettings(database_url=url, kafka_bootstrap_servers="nowhere:1", **fields)

    with capture_logs() as logs:
        assert [await role_of(name, settings(database)) for name in ("ingest", "aggregator", "billing")] == [*SERVICES]
        assert await role_of("ingest", settings(empty_database, database_role="none")) is None
        assert logs == []
        assert await role_of("ingest", settings(empty_database)) is None
    assert [(entry["event"], entry["reason"]) for entry in logs] == [
        ("rights_of_the_login", "tallystick_ingest has no rights in this database")
    ]


async def test_a_role_that_was_asked_for_must_be_there(database: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"TALLYSTICK_DATABASE_ROLE: cannot act as nobody_has_made_this .*tallystick migrate"
    ):
        await role_to_take(database, "nobody_has_made_this", BILLING)


async def test_reconcile_reads_with_the_reading_role(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    roles: list[str | None] = []

    async def noting(dsn: str, *, role: str | None = None, **options: Any) -> asyncpg.Connection:
        roles.append(role)
        return await connect(dsn, role=role, **options)

    monkeypatch.setattr("shared.postgres.connect", noting)
    assert all(check.holds for check in await prove(database))
    assert roles == [READONLY]

"""Row-level security: the tenant role sees what is the tenant's, and is refused where no tenant is named."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest

from shared.ids import uuid7
from shared.postgres import Connection
from tests.integration.schema_facts import (
    HISTOGRAM,
    NOON,
    insert,
    log_usage,
    make_invoice,
    make_subscription,
    make_user,
    rate_usage,
    refused,
)

# app_current_user_id() is what the policies ask; without a tenant it asks refuse_missing_tenant().
TABLES = (
    "users", "subscriptions", "user_credits", "credit_transactions", "invoices", "invoice_lines", "usage_summaries", "tenant_usage_logs",
    "tenant_rated_usage", "usage_hours",
)  # fmt: skip


@pytest.fixture
async def tenants(connection: Connection) -> dict[str, UUID]:
    """Two tenants who have one of each, and an administrator of the lowest tier who has nothing."""
    people: dict[str, UUID] = {}
    for name in ("ada", "alan"):
        user = people[name] = await make_user(connection, subscription_tier="enterprise")
        subscription = await make_subscription(connection, user)
        await connection.execute("SELECT add_user_credits($1::uuid, 10)", user)
        await log_usage(connection, subscription)
        await rate_usage(connection, subscription, user)
        await insert(
            connection, "usage_summaries", subscription_id=subscription, period_type="hour", period_start=NOON, latency_histogram=HISTOGRAM
        )  # fmt: skip
        await insert(
            connection, "usage_hours", subscription_id=subscription, hour=NOON, kind=uuid7(), request_count=1, request_tokens=1, response_tokens=1,
            cached_tokens=0, latency_sum_ms=0, latency_count=0, byok=False, failed=False, model_id="x", tool_name="", provider="", feature_type="",
            power_level="balanced", app_id="", latency_histogram=HISTOGRAM,
        )  # fmt: skip
        invoice = await make_invoice(connection, user)
        await insert(
            connection, "invoice_lines", invoice_id=invoice, position=1, kind="adjustment", description="x", quantity=1, unit="x",
            exact_amount=0, amount=0,
        )  # fmt: skip
    people["admin"] = await make_user(connection, roles=["user", "admin"])
    return people


async def visible(connection: Connection, tenant: object) -> dict[str, int]:
    """Count what the tenant role sees of each table with this setting."""
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SET LOCAL ROLE tallystick_tenant")
    if tenant is not None:
        await connection.execute("SELECT set_config('app.current_user_id', $1, true)", str(tenant))
    counts: dict[str, Any] = {
        table: await connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608
        for table in TABLES
    }
    await transaction.rollback()
    return counts


async def test_a_tenant_sees_its_own(connection: Connection, tenants: dict[str, UUID]) -> None:
    assert await visible(connection, tenants["ada"]) == dict.fromkeys(TABLES, 1)


async def test_an_administrator_is_a_tenant_like_others_and_reads_all_as_another_role(
    connection: Connection, tenants: dict[str, UUID]
) -> None:
    assert (await visible(connection, tenants["admin"]))["invoices"] == 0
    await connection.execute("SET LOCAL ROLE tallystick_readonly")
    assert await connection.fetchval("SELECT count(*) FROM invoices") >= 2


async def test_somebody_who_is_nobody_sees_nothing(connection: Connection, tenants: dict[str, UUID]) -> None:
    assert await visible(connection, uuid7()) == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize("setting", [None, ""])
@pytest.mark.parametrize("table", TABLES)
async def test_a_question_without_a_tenant_is_an_error_and_not_an_empty_answer(
    connection: Connection, tenants: dict[str, UUID], setting: str | None, table: str
) -> None:
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    async with refused(connection, "TS013", "app.current_user_id is not set"):
        await connection.execute("SET LOCAL ROLE tallystick_tenant")
        if setting is not None:
            await connection.execute("SELECT set_config('app.current_user_id', $1, true)", setting)
        await connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608


async def test_every_relation_of_tenants_is_forced_on_its_owner_who_has_a_policy(connection: Connection) -> None:
    rows = await connection.fetch(
        """SELECT c.relname::text AS name, c.relforcerowsecurity AS forced,
                  EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'service_roles' AND c.relowner = ANY (p.polroles)) AS owner
           FROM pg_class c WHERE c.relrowsecurity AND c.relnamespace = 'public'::regnamespace"""
    )
    of_tenants = {row["relation"] for row in await connection.fetch("SELECT relation FROM tenant_relations()")}
    assert {"users", "invoices", "usage_summaries"} <= of_tenants <= {row["name"] for row in rows}
    assert [row["name"] for row in rows if not (row["forced"] and row["owner"])] == []


async def test_a_tenant_does_not_see_what_its_usage_costs_us(connection: Connection) -> None:
    seen = await connection.fetch(
        """SELECT attrelid::regclass::text AS relation, attname::text AS name FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
           WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped
             AND has_column_privilege('tallystick_tenant', attrelid, attnum, 'SELECT')"""
    )
    assert len(seen) > 100
    costs = [(row["relation"], row["name"]) for row in seen if row["name"].startswith("cost_")]
    assert costs == [("power_level_configs", "cost_multiplier")]  # of its price, as everybody may know


@pytest.mark.parametrize("table", ["usage_logs", "rated_usage", "usage_batches", "audit_logs", "admin_notes"])
async def test_a_tenant_has_no_right_to_the_rest(connection: Connection, table: str) -> None:
    async with refused(connection, "42501"):
        await connection.execute("SET LOCAL ROLE tallystick_tenant")
        await connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608


async def test_a_tenant_cannot_write(connection: Connection, tenants: dict[str, UUID]) -> None:
    async with refused(connection, "42501"):
        await connection.execute("SET LOCAL ROLE tallystick_tenant")
        await connection.execute("SELECT set_config('app.current_user_id', $1, true)", str(tenants["ada"]))
        await connection.execute("UPDATE user_credits SET balance = 1000000")


async def test_the_owner_is_not_hindered(connection: Connection, tenants: dict[str, UUID]) -> None:
    assert await connection.fetchval("SELECT count(*) FROM users") >= 3


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT FROM invoices ORDER BY created_at DESC LIMIT 5", r"idx_invoices_user_id.*Index Cond: \(user_id = "),
        (
            f"SELECT FROM usage_summaries WHERE period_type = 'day' AND period_start >= '{NOON}' AND model_id = 'x'",
            r"Index Cond: \(\(subscription_id = ANY .*period_type = .*period_start >= .*model_id = ",
        ),
        (
            f"SELECT FROM usage_hours WHERE hour >= '{NOON}'",
            r"Index Cond: \(\(subscription_id = ANY .*hour >= ",
        ),
        (
            f"SELECT FROM tenant_usage_logs WHERE created_at >= '{NOON}' AND created_at < '2026-10-20Z'",
            r"Index Cond: \(\(subscription_id = ANY .*created_at >= .*created_at < ",
        ),
        (
            f"SELECT FROM tenant_rated_usage WHERE hour >= '{NOON}'",
            r"Index Cond: \(\(subscription_id = ANY .*hour >= ",
        ),
    ],
    ids=["invoices", "summaries", "hours of uses", "log", "rated usage"],
)
async def test_a_tenants_question_goes_through_the_index(
    connection: Connection, tenants: dict[str, UUID], query: str, index: str
) -> None:
    """Also past the barrier of a view, which lets only comparisons through that cannot leak what they compare."""
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    await connection.execute("SET LOCAL enable_seqscan = off")
    await connection.execute("SET LOCAL enable_bitmapscan = off")
    await connection.execute("SELECT set_config('app.current_user_id', $1, true)", str(tenants["ada"]))
    await connection.execute("SET LOCAL ROLE tallystick_tenant")
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {query}"))
    assert re.search(index, plan, re.DOTALL), plan

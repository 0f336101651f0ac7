"""Row-level security: the tenant role sees what is the tenant's, an administrator everything, and nobody without a tenant anything."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from shared.ids import uuid7
from shared.postgres import Connection
from tests.integration.schema_facts import insert, make_invoice, make_subscription, make_user, refused

# app_current_user_id() and app_current_user_is_admin() are what the policies ask.
TABLES = ("users", "subscriptions", "user_credits", "credit_transactions", "invoices", "invoice_lines")


@pytest.fixture
async def tenants(connection: Connection) -> dict[str, UUID]:
    """Two tenants who have one of each, and an administrator of the lowest tier who has nothing."""
    people: dict[str, UUID] = {}
    for name in ("ada", "alan"):
        user = people[name] = await make_user(connection, subscription_tier="enterprise")
        await make_subscription(connection, user)
        await connection.execute("SELECT add_user_credits($1::uuid, 10)", user)
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


async def test_an_administrator_sees_all_by_role_not_by_tier(connection: Connection, tenants: dict[str, UUID]) -> None:
    expected = {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}  # noqa: S608
    assert await visible(connection, tenants["admin"]) == expected
    assert expected["users"] >= 3


@pytest.mark.parametrize("setting", [None, "", uuid7()])
async def test_without_a_tenant_nothing_is_visible(
    connection: Connection, tenants: dict[str, UUID], setting: object
) -> None:
    assert await visible(connection, setting) == dict.fromkeys(TABLES, 0)


async def test_a_retired_administrator_sees_only_what_is_theirs(
    connection: Connection, tenants: dict[str, UUID]
) -> None:
    await connection.execute("UPDATE users SET is_active = false WHERE id = $1", tenants["admin"])
    assert (await visible(connection, tenants["admin"]))["invoices"] == 0


@pytest.mark.parametrize("table", ["usage_logs", "rated_usage", "model_prices", "audit_logs", "admin_notes"])
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

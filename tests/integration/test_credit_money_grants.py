"""Grants in money: used up by invoices in the order of priority, expiry and age, and given back when an invoice is void."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from services.billing.credits.grants import GrantRefused, applied_to, apply_grants, available, give, restore_grants
from shared.postgres import Connection, Pool, transaction
from tests.integration.roles import BILLING, with_role
from tests.integration.schema_facts import make_invoice, make_user

AT = datetime(2026, 11, 1, tzinfo=UTC)


async def grant(
    connection: Connection,
    user: UUID,
    amount: str,
    *,
    currency: str = "USD",
    priority: int = 100,
    days: int | None = None,
) -> UUID:
    return await give(
        connection, user, Decimal(amount), currency, kind="promotional", reason=f"{amount} off", priority=priority,
        expires_at=None if days is None else AT + timedelta(days=days),
    )  # fmt: skip


async def apply(connection: Connection, user: UUID, amount: str, invoice: UUID) -> list[tuple[UUID, Decimal]]:
    return [
        (g.grant_id, g.amount) for g in await apply_grants(connection, user, "USD", Decimal(amount), invoice, at=AT)
    ]


async def test_grants_are_used_by_priority_then_expiry_then_age(connection: Connection) -> None:
    user = await make_user(connection)
    old, young = await grant(connection, user, "4"), await grant(connection, user, "4")
    late, soon = await grant(connection, user, "3", days=20), await grant(connection, user, "3", days=10)
    first = await grant(connection, user, "2", priority=1)
    expired, other = await grant(connection, user, "50", days=-1), await grant(connection, user, "50", currency="EUR")
    assert await available(connection, user, "USD", at=AT) == 16
    invoice = await make_invoice(connection, user)
    used = await apply(connection, user, "13.50", invoice)
    assert used == [(first, 2), (soon, 3), (late, 3), (old, 4), (young, Decimal("1.50"))]
    left = dict(await connection.fetch("SELECT id, remaining FROM credits WHERE user_id = $1 AND remaining > 0", user))
    assert left == {young: Decimal("2.50"), expired: 50, other: 50}


async def test_an_invoice_uses_grants_once_and_gives_them_back_once(connection: Connection) -> None:
    user = await make_user(connection)
    await grant(connection, user, "10")
    invoice = await make_invoice(connection, user)
    used = await apply(connection, user, "4", invoice)
    assert await apply(connection, user, "9", invoice) == used
    assert await available(connection, user, "USD", at=AT) == 6
    assert [(g.grant_id, g.amount) for g in await restore_grants(connection, invoice)] == used
    assert await restore_grants(connection, invoice) == []
    assert await applied_to(connection, invoice) == []
    assert await available(connection, user, "USD", at=AT) == 10


async def test_an_invoice_uses_whole_minor_units(connection: Connection) -> None:
    user = await make_user(connection)
    await connection.execute(
        "INSERT INTO credits (user_id, amount, currency, reason, type) VALUES ($1, 1.239, 'USD', 'imported', 'refund')",
        user,
    )
    assert [amount for _, amount in await apply(connection, user, "5", await make_invoice(connection, user))] == [
        Decimal("1.23")
    ]


@pytest.mark.parametrize(
    ("amount", "kind"), [("0", "refund"), ("-1", "refund"), ("NaN", "refund"), ("0.001", "refund"), ("1", "gift")]
)
async def test_a_grant_that_makes_no_sense_is_refused(connection: Connection, amount: str, kind: str) -> None:
    with pytest.raises(GrantRefused):
        await give(connection, await make_user(connection), Decimal(amount), "USD", kind=kind, reason="x")


async def test_two_invoices_at_once_share_the_money(database_pool: Pool) -> None:
    async with database_pool.acquire() as connection:
        user = await make_user(connection)
        await grant(connection, user, "10")
        invoices = [
            await make_invoice(
                connection, user, period_start=AT + timedelta(days=n), period_end=AT + timedelta(days=n + 1)
            )
            for n in range(4)
        ]
    billing = with_role(database_pool, BILLING)

    async def use(invoice: UUID) -> Decimal:
        async with transaction(billing) as connection:
            return sum((g.amount for g in await apply_grants(connection, user, "USD", Decimal(4), invoice)), Decimal(0))

    assert sorted(await asyncio.gather(*map(use, invoices))) == [0, 2, 4, 4]

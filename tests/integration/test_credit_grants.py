"""Grants of prepaid credits: which is used first, which paid what, what ends, and what comes back.

Their functions: burn_credit_grants, open_credit_grant, credit_grant_priority, expire_credit_grants, reverse_user_credits, settle_credit_windows,
lock_credit_accounts, roll_credit_cycle, check_ledger_is_followed, protect_credit_rate.
"""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from deploy.migrate import DIRECTORY, migrate
from shared.ids import uuid7
from shared.postgres import Connection, create_pool
from tests.integration.billing_facts import NOON
from tests.integration.credit_model import obey_the_laws
from tests.integration.schema_facts import insert, make_subscription, make_user, refused, subscription, violates


async def give(connection: Connection, user: UUID, amount: str, kind: str = "purchase", **more: Any) -> UUID:
    """Add credits; return the grant."""
    named = "".join(f", {name} => ${n}" for n, name in enumerate(more, 4))
    call = f"SELECT transaction_id FROM add_user_credits($1, $2::text::numeric, $3{named})"  # noqa: S608
    entry = await connection.fetchval(call, user, amount, kind, *more.values())
    found = await connection.fetchval("SELECT id FROM credit_grants WHERE transaction_id = $1", entry)
    assert found is not None
    return UUID(int=found.int)


async def settle(connection: Connection, user: UUID, amount: str) -> UUID:
    """Settle usage, or give it back; return the ledger entry."""
    row = await connection.fetchval(
        "SELECT transaction_id FROM settle_user_credits($1, $2::text::numeric, $3)", user, amount, uuid7().hex
    )
    return UUID(int=row.int)


async def paid(connection: Connection, entry: UUID) -> dict[UUID, Any]:
    rows = await connection.fetch("SELECT grant_id, amount FROM credit_grant_postings WHERE transaction_id = $1", entry)
    return {row["grant_id"]: row["amount"] for row in rows}


async def left(connection: Connection, user: UUID) -> dict[UUID, Any]:
    return dict(await connection.fetch("SELECT id, remaining FROM credit_grants WHERE user_id = $1 AND open", user))


async def in_days(connection: Connection, days: int) -> Any:
    return await connection.fetchval("SELECT now() + make_interval(days => $1)", days)


async def test_grants_are_used_by_priority_then_expiry_then_age_and_it_is_known_which_paid(
    connection: Connection,
) -> None:
    user = await make_user(connection)
    bought, later = await give(connection, user, "10"), await give(connection, user, "10")
    gift = await give(connection, user, "5", "bonus")
    ends = await give(connection, user, "3", expires_at=await in_days(connection, 9))
    first = await give(connection, user, "1", priority=0)
    assert await paid(connection, await settle(connection, user, "0.5")) == {first: Decimal("-0.5")}
    assert await paid(connection, await settle(connection, user, "12")) == {
        first: Decimal("-0.5"), gift: -5, ends: -3, bought: Decimal("-3.5"),
    }  # fmt: skip
    assert await left(connection, user) == {bought: Decimal("6.5"), later: 10}


async def test_what_has_expired_pays_nothing_and_leaves_by_a_ledger_entry(connection: Connection) -> None:
    user = await make_user(connection)
    ending = await give(connection, user, "8", expires_at=await in_days(connection, 1))
    await give(connection, user, "2")
    await settle(connection, user, "3")
    await connection.execute("UPDATE credit_grants SET expires_at = now() WHERE id = $1", ending)
    assert await connection.fetchval("SELECT get_user_balance($1)", user) == 2
    async with refused(connection, "TS001", "3 needed, 2 available"):
        await connection.execute("SELECT debit_user_credits($1, 3)", user)
    await settle(connection, user, "1")
    rows = await connection.fetch("SELECT * FROM credit_transactions WHERE user_id = $1 ORDER BY sequence", user)
    assert [(row["transaction_type"], row["amount"]) for row in rows][3:] == [("expiry", -5), ("usage", -1)]
    assert await paid(connection, rows[3]["id"]) == {ending: -5}
    async with refused(connection, "TS004", "expired already"):
        await give(connection, user, "1", expires_at=await in_days(connection, -1))


async def test_voided_usage_returns_to_the_grants_that_paid_last(connection: Connection) -> None:
    user = await make_user(connection)
    old, gift = await give(connection, user, "10"), await give(connection, user, "4", "bonus")
    await settle(connection, user, "6")
    newer = await give(connection, user, "3", priority=1)
    await settle(connection, user, "1")
    entry = await settle(connection, user, "-4")
    assert await paid(connection, entry) == {newer: 1, old: 2, gift: 1}
    assert (
        await connection.fetchval("SELECT transaction_type FROM credit_transactions WHERE id = $1", entry) == "reversal"
    )
    assert await left(connection, user) == {old: 10, gift: 1, newer: 3}


async def test_voided_usage_that_an_expired_grant_paid_is_a_new_grant(connection: Connection) -> None:
    user = await make_user(connection)
    ended = await give(connection, user, "5", expires_at=await in_days(connection, 1))
    await settle(connection, user, "4")
    await connection.execute("UPDATE credit_grants SET expires_at = now() WHERE id = $1", ended)
    entry = await settle(connection, user, "-3")
    fresh = await connection.fetchrow("SELECT * FROM credit_grants WHERE transaction_id = $1", entry)
    assert (fresh["kind"], fresh["amount"], fresh["expires_at"]) == ("reversal", 3, None)
    assert await left(connection, user) == {fresh["id"]: 3}


async def test_voided_usage_first_reduces_what_is_owed_and_lifts_the_suspension_it_caused(
    connection: Connection,
) -> None:
    user = await make_user(connection)
    id_ = await make_subscription(connection, user, billing_mode="prepaid")
    await give(connection, user, "5")
    await settle(connection, user, "12")
    assert (await subscription(connection, id_))["status"] == "suspended"
    await settle(connection, user, "-7")
    assert (await subscription(connection, id_))["status"] == "suspended", "the debt is paid, but nothing is left"
    await settle(connection, user, "-1")
    account = await connection.fetchrow(
        "SELECT balance, owed, credits_used_this_month AS used FROM user_credits WHERE user_id = $1", user
    )
    assert tuple(account) == (1, 0, 4)
    assert (await subscription(connection, id_))["status"] == "active"


async def test_many_windows_are_settled_by_one_call_and_a_repeated_call_changes_nothing(connection: Connection) -> None:
    users = [await make_user(connection) for _ in range(4)]
    for user in users[:3]:
        await give(connection, user, "10")
    await settle(connection, users[2], "6")
    amounts, keys = [Decimal(n) for n in (4, 15, -2, 3)], [f"window {n}" for n in range(4)]
    call = "SELECT * FROM settle_credit_windows($1, $2, $3) ORDER BY key"
    first = await connection.fetch(call, users, amounts, keys)
    assert [(row["debited"], row["owed_added"], row["new_balance"], row["total_owed"]) for row in first] == [
        (4, 0, 6, 0), (10, 5, 0, 5), (-2, 0, 6, 0), (0, 3, 0, 3),
    ]  # fmt: skip
    assert await connection.fetch(call, users, amounts, keys) == first
    async with refused(connection, "TS002"):
        await connection.fetch(call, users, [Decimal(1), *amounts[1:]], keys)
    async with refused(connection, "23505"):
        await connection.fetch(call, [users[0]] * 2, amounts[:2], ["a", "b"])


@pytest.mark.parametrize("kind", ["debit", "expiry"])
async def test_a_balance_that_falls_below_the_threshold_is_told_once_by_whatever_it_falls(
    connection: Connection, kind: str
) -> None:
    user = await make_user(connection)
    await give(connection, user, "10")
    await connection.execute("UPDATE user_credits SET low_balance_threshold = 5 WHERE user_id = $1", user)
    for _ in range(3):
        await connection.execute("SELECT debit_user_credits($1, 3, $2)", user, kind)
    rows = await connection.fetch("SELECT type, current_value FROM billing_alerts WHERE user_id = $1", user)
    assert [tuple(row) for row in rows] == [("low_balance", 4)]


async def test_a_grant_cannot_say_more_than_the_ledger(connection: Connection) -> None:
    user = await make_user(connection)
    grant = await give(connection, user, "10")
    async with refused(connection, "TS003", "the account says 10, its grants 4"):
        await connection.execute("UPDATE credit_grants SET remaining = 4, used = 6 WHERE id = $1", grant)
    async with violates(connection, "grant_is_accounted_for"):
        await connection.execute("UPDATE credit_grants SET remaining = 4 WHERE id = $1", grant)
    for statement in (
        "UPDATE credit_grants SET amount = 99, remaining = 99",
        "DELETE FROM credit_grants",
        "UPDATE credit_grant_postings SET amount = 1",
        "DELETE FROM credit_grant_postings",
        "TRUNCATE credit_grant_postings",
    ):
        async with refused(connection, "TS003", "append-only"):
            await connection.execute(statement)


async def test_an_entry_without_its_account_is_refused(connection: Connection) -> None:
    user = await make_user(connection)
    await give(connection, user, "5")
    for when in ("IMMEDIATE", "DEFERRED"):
        await connection.execute(f"SET CONSTRAINTS ALL {when}")
    async with refused(connection, "TS003", "entry 2 is in the ledger, but not in the account"):
        await insert(
            connection, "credit_transactions", user_id=user, sequence=2, previous_sequence=1, transaction_type="bonus",
            amount=Decimal(1), balance_before=Decimal(5), balance_after=Decimal(6),
        )  # fmt: skip


async def test_the_past_of_a_rate_is_fixed(connection: Connection) -> None:
    user = await make_user(connection)
    await insert(
        connection, "credit_settlements", id=uuid7(), user_id=user, window_start=NOON, window_end=NOON + timedelta(seconds=5),
        rated_amount=Decimal(0), currency="USD", credits_per_unit=Decimal(10), amount=Decimal(0), debited=Decimal(0), owed=Decimal(0),
    )  # fmt: skip
    rate = {"currency": "USD", "credits_per_unit": Decimal(20)}
    async with refused(connection, "TS003", "its rate is fixed"):
        await insert(connection, "credit_rates", **rate, valid_from=NOON)
    soon = (await in_days(connection, 1)).replace(minute=0, second=0, microsecond=0)
    await insert(connection, "credit_rates", **rate, valid_from=soon)
    async with refused(connection, "TS003", "cannot be changed"):
        await connection.execute("UPDATE credit_rates SET credits_per_unit = 1")
    await connection.execute("DELETE FROM credit_rates WHERE valid_from = $1", soon)
    async with refused(connection, "TS003"):
        await connection.execute("DELETE FROM credit_rates")


async def test_ledgers_from_before_there_were_grants_are_replayed_by_the_migration(
    empty_database: str, tmp_path: Path
) -> None:
    for file in sorted(DIRECTORY.glob("000*.sql")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    await migrate(empty_database, directory=tmp_path)
    pool, rng = await create_pool(empty_database), random.Random(3)
    async with pool.acquire() as connection:
        users = [await make_user(connection) for _ in range(3)]
    for number in range(60):
        user, amount = rng.choice(users), Decimal(rng.randrange(1, 900)) / 7 // Decimal("0.000001") / 1000000
        statement = rng.choice(("add_user_credits($1, $2, 'bonus')", f"settle_user_credits($1, $2, 'key {number}')"))
        await pool.execute(f"SELECT {statement}", user, amount)
    before = await pool.fetch("SELECT user_id, balance, owed FROM user_credits ORDER BY user_id")
    (tmp_path / "0014_credits.sql").write_bytes((DIRECTORY / "0014_credits.sql").read_bytes())
    await migrate(empty_database, directory=tmp_path)
    for user in users:
        await obey_the_laws(pool, user)
        await pool.execute("SELECT add_user_credits($1, 1000), settle_user_credits($1, 3, 'after')", user)
        await obey_the_laws(pool, user)
    assert [row["owed"] for row in before].count(0) < 3, "some owed, some had credits"
    await pool.close()

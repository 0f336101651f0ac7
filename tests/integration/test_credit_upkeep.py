"""Credits by the calendar and by payment: expiry, allowances (renew_credit_allowance), top-ups (request_credit_topups), packages
(purchase_credit_package), refunds (take_back_refunded_credits)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from services.billing.credits import topups
from services.billing.credits.jobs import credit_jobs
from services.billing.credits.purchases import NotForSale, offer, packages, purchase_package, take_back_refunded
from services.billing.credits.upkeep import expire_credits, renew_allowances
from shared.clock import FixedClock
from shared.ids import uuid7
from shared.jobs import run_due
from shared.outbox import Outbox
from shared.postgres import Connection, Pool, transaction
from tests.integration.roles import BILLING, with_role
from tests.integration.schema_facts import insert, make_subscription, make_user, refused, subscription

NOVEMBER, DECEMBER = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
OUTBOX = Outbox("billing_outbox")


async def account(connection: Connection | Pool, user: UUID) -> tuple[Any, Any]:
    return tuple(await connection.fetchrow("SELECT balance, owed FROM user_credits WHERE user_id = $1", user))


async def renewing(pool: Pool, *, tier: str = "starter", rollover: int | None = 0, allowance: int = 100) -> UUID:
    """A user with an allowance, whose present cycle is the next ten years' first month: time does not disturb the test."""
    async with pool.acquire() as connection:
        user = await make_user(connection)
        await connection.execute("UPDATE credit_tiers SET rollover_months = $2 WHERE tier = $1", tier, rollover)
        await insert(
            connection, "user_credits", user_id=user, tier=tier, monthly_allowance=Decimal(allowance), auto_renew=True,
            billing_cycle_start=datetime(2036, 11, 1, tzinfo=UTC), billing_cycle_end=datetime(2036, 12, 1, tzinfo=UTC),
        )  # fmt: skip
    return user


async def allowances(pool: Pool, user: UUID) -> list[tuple[Any, ...]]:
    rows = await pool.fetch(
        "SELECT name, amount, expires_at FROM credit_grants WHERE user_id = $1 AND kind = 'allowance' ORDER BY sequence",
        user,
    )
    return [tuple(row) for row in rows]


def november(day: int) -> datetime:
    return datetime(2036, 11, day, tzinfo=UTC)


async def test_an_allowance_is_granted_once_a_cycle_and_ends_with_it(database_pool: Pool) -> None:
    user, billing = await renewing(database_pool), with_role(database_pool, BILLING)
    for day in (1, 2, 30):
        await asyncio.gather(*(renew_allowances(billing, november(day)) for _ in range(3)))
    assert await allowances(database_pool, user) == [
        ("Allowance of 2036-11-01", 100, datetime(2036, 12, 1, tzinfo=UTC))
    ]
    december = datetime(2036, 12, 5, tzinfo=UTC)
    assert (await renew_allowances(billing, december)).postings == 1
    assert await account(database_pool, user) == (100, 0), "what was left of November has expired"
    types = await database_pool.fetch(
        "SELECT transaction_type FROM credit_transactions WHERE user_id = $1 ORDER BY sequence", user
    )
    assert [row[0] for row in types] == ["allowance", "expiry", "allowance"]
    assert (await renew_allowances(billing, december)).accounts == 0


@pytest.mark.parametrize(("rollover", "left", "granted"), [(0, 100, 2), (1, 200, 3), (None, 400, 4)])
async def test_an_unused_allowance_lasts_as_long_as_its_tier_says_also_over_cycles_that_were_missed(
    database_pool: Pool, rollover: int | None, left: int, granted: int
) -> None:
    user = await renewing(database_pool, rollover=rollover)
    await renew_allowances(database_pool, november(1))
    await renew_allowances(database_pool, datetime(2037, 2, 3, tzinfo=UTC))
    assert await account(database_pool, user) == (left, 0)
    assert len(await allowances(database_pool, user)) == granted


async def test_who_does_not_renew_or_has_no_allowance_gets_none(database_pool: Pool) -> None:
    off, nothing = await renewing(database_pool), await renewing(database_pool, allowance=0)
    await database_pool.execute("UPDATE user_credits SET auto_renew = false WHERE user_id = $1", off)
    assert (await renew_allowances(database_pool, november(1))).accounts == 0
    assert await allowances(database_pool, off) == await allowances(database_pool, nothing) == []


async def test_expired_credits_leave_the_balances_of_those_who_do_nothing(database_pool: Pool) -> None:
    billing, users = with_role(database_pool, BILLING), []
    async with database_pool.acquire() as connection:
        for n in range(3):
            users.append(await make_user(connection))
            await connection.execute(
                "SELECT add_user_credits($1, 10, 'bonus', expires_at => now() + make_interval(days => $2))",
                users[-1],
                n + 1,
            )
    later = datetime.now(UTC) + timedelta(days=2, hours=1)
    done = await expire_credits(billing, later)
    assert (done.accounts, done.postings) == (2, 2)
    assert [await account(database_pool, user) for user in users] == [(0, 0), (0, 0), (10, 0)]
    assert (await expire_credits(billing, later)).accounts == 0


async def test_the_jobs_run_with_the_rights_of_billing(database_pool: Pool) -> None:
    billing, clock = with_role(database_pool, BILLING), FixedClock(november(3))
    user = await renewing(database_pool)
    jobs = list(credit_jobs(billing, clock))
    for job in jobs:
        assert await run_due(billing, clock, job, worker="test") == 1
    assert await account(database_pool, user) == (100, 0)
    assert await database_pool.fetchval("SELECT count(*) FROM job_runs WHERE finished_at IS NOT NULL") == len(jobs)


# --- packages and refunds --------------------------------------------------------------------------------------------


async def pay(connection: Connection, user: UUID, package: str = "Value Pack", **columns: Any) -> tuple[UUID, UUID]:
    """A completed payment for a package; returns package and payment."""
    found = await connection.fetchrow("SELECT id, price, currency FROM credit_packages WHERE name = $1", package)
    facts = {
        "amount": found["price"],
        "currency": found["currency"],
        "status": "completed",
        "provider": "manual",
        "package_id": found["id"],
    }
    payment = await insert(connection, "payments", user_id=user, **{**facts, **columns})
    return found["id"], payment["id"]


async def test_a_payment_buys_its_package_once(connection: Connection) -> None:
    user = await make_user(connection)
    package, payment = await pay(connection, user)
    await connection.execute("UPDATE credit_packages SET valid_days = 90 WHERE id = $1", package)
    for _ in range(3):
        assert await purchase_package(connection, user, package, payment) == 500
    grant = await connection.fetchrow(
        "SELECT *, expires_at - now() AS lasts FROM credit_grants WHERE user_id = $1", user
    )
    assert (grant["kind"], grant["name"], grant["payment_id"], grant["lasts"]) == (
        "purchase",
        "Value Pack",
        payment,
        timedelta(days=90),
    )
    async with refused(connection, "TS002", "has bought credits already"):
        await purchase_package(connection, user, package, payment, "another key")


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"status": "pending"}, "is pending"),
        ({"refunded_amount": Decimal(1)}, "is refunded"),
        ({"currency": "EUR"}, "is in EUR"),
        ({"amount": Decimal(44)}, "costs 45"),
    ],
)
async def test_a_payment_that_does_not_fit_buys_nothing(
    connection: Connection, columns: dict[str, Any], why: str
) -> None:
    user = await make_user(connection)
    package, payment = await pay(connection, user, **columns)
    async with refused(connection, "TS004", why):
        await purchase_package(connection, user, package, payment)
    other = await make_user(connection)
    async with refused(connection, "TS004", "is not of user"):
        await purchase_package(connection, other, package, payment)


async def test_a_package_is_offered_to_whom_it_is_for(connection: Connection) -> None:
    user = await make_user(connection)
    assert [p.name for p in await packages(connection)] == ["Starter Pack", "Value Pack", "Pro Pack", "Enterprise Pack"]
    await connection.execute("UPDATE credit_packages SET min_tier = 'professional' WHERE name = 'Pro Pack'")
    await connection.execute("UPDATE credit_packages SET is_active = false WHERE name = 'Value Pack'")
    assert (await offer(connection, user, "starter pack")).credits == 100
    for name, why in (("Pro Pack", "tier professional"), ("Value Pack", "not on sale"), ("Gold", "no package")):
        with pytest.raises(NotForSale, match=why):
            await offer(connection, user, name)
    await insert(connection, "user_credits", user_id=user, tier="enterprise")
    assert (await offer(connection, user, "Pro Pack")).credits == 1000


async def refund(connection: Connection, payment: UUID, total: str, *, owe: bool = False) -> Any:
    await connection.execute("UPDATE payments SET refunded_amount = $2::text::numeric WHERE id = $1", payment, total)
    return await take_back_refunded(connection, payment, f"refund {total}", owe=owe)


async def test_refunds_take_back_in_proportion_and_parts_come_to_the_whole(connection: Connection) -> None:
    user = await make_user(connection)
    await connection.execute("SELECT add_user_credits($1, 7, 'bonus')", user)
    package, payment = await pay(connection, user)
    await purchase_package(connection, user, package, payment)
    assert (await refund(connection, payment, "0.01")).credits == Decimal("0.111111")
    assert (await refund(connection, payment, "0.01")).credits == 0
    assert (await refund(connection, payment, "20")).credits == Decimal("222.111111")
    assert await account(connection, user) == (Decimal("284.777778"), 0)
    assert (await refund(connection, payment, "45")).balance == 7
    grants = await connection.fetch(
        "SELECT kind, remaining, withdrawn FROM credit_grants WHERE user_id = $1 ORDER BY sequence", user
    )
    assert [tuple(row) for row in grants] == [("bonus", 7, 0), ("purchase", 0, 500)]


async def test_a_refund_of_used_credits_is_refused_or_owed(connection: Connection) -> None:
    user = await make_user(connection)
    id_ = await make_subscription(connection, user, billing_mode="prepaid")
    package, payment = await pay(connection, user)
    await purchase_package(connection, user, package, payment)
    await connection.execute("SELECT settle_user_credits($1, 300, 'w')", user)
    async with refused(connection, "TS001", "500 to take back, 200 available, 300 missing"):
        await refund(connection, payment, "45")
    taken = await refund(connection, payment, "45", owe=True)
    assert (taken.credits, taken.owed, await account(connection, user)) == (200, 300, (0, 300))
    assert (await subscription(connection, id_))["status"] == "suspended"
    async with refused(connection, "TS005", "bought no credits"):
        await take_back_refunded(connection, uuid7(), "x")


# --- top-ups ---------------------------------------------------------------------------------------------------------


async def low(connection: Connection, **columns: Any) -> UUID:
    user = await make_user(connection)
    package = await connection.fetchval("SELECT id FROM credit_packages WHERE name = 'Starter Pack'")
    facts = {"auto_topup_threshold": Decimal(20), "auto_topup_package_id": package}
    await insert(connection, "user_credits", user_id=user, **{**facts, **columns})
    await connection.execute("SELECT add_user_credits($1, 5)", user)
    return user


async def test_a_low_balance_asks_once_and_is_filled_by_the_payment(database_pool: Pool) -> None:
    billing = with_role(database_pool, BILLING)
    async with database_pool.acquire() as connection:
        user = await low(connection)

    async def ask() -> int:
        async with transaction(billing) as connection:
            return len(await topups.request(connection, OUTBOX, NOVEMBER))

    assert sum(await asyncio.gather(*(ask() for _ in range(6)))) == 1
    told = msgspec.json.decode(await database_pool.fetchval("SELECT value FROM billing_outbox"))
    assert (told["type"], told["data"]["price"]) == ("tallystick.credits.topup_requested.v1", "10")
    async with transaction(billing) as connection:
        (wanted,) = await topups.claim_topups(connection)
        async with transaction(billing) as other:
            assert await topups.claim_topups(other) == []
    async with database_pool.acquire() as owner:
        _, payment = await pay(owner, user, "Starter Pack")
    for _ in range(2):
        async with transaction(billing) as connection:
            assert await topups.complete_topup(connection, wanted.id, payment, NOVEMBER) == 105
    assert await ask() == 0
    assert await account(database_pool, user) == (105, 0)


async def test_a_failed_top_up_is_asked_again_after_a_day_and_a_cycle_has_a_limit(connection: Connection) -> None:
    user = await low(connection, auto_topup_limit=1, billing_cycle_start=NOVEMBER, billing_cycle_end=DECEMBER)

    async def ask(at: datetime) -> list[UUID]:
        return [topup.id for topup in await topups.request(connection, OUTBOX, at, [user])]

    (first,) = await ask(NOVEMBER)
    await topups.fail_topup(connection, first, "card declined", NOVEMBER)
    assert await ask(NOVEMBER + timedelta(hours=23)) == []
    (second,) = await ask(NOVEMBER + timedelta(hours=24))
    _, payment = await pay(connection, user, "Starter Pack")
    await topups.complete_topup(connection, second, payment, NOVEMBER + timedelta(hours=25))
    await connection.execute("SELECT debit_user_credits($1, 100)", user)
    assert await ask(NOVEMBER + timedelta(days=9)) == [], "one in a cycle"


async def test_after_three_failures_in_a_row_nothing_is_asked_until_it_is_set_anew(connection: Connection) -> None:
    user = await low(connection, auto_topup_set_at=NOVEMBER - timedelta(days=1))
    asked = []
    for day in range(6):
        for topup in await topups.request(connection, OUTBOX, NOVEMBER + timedelta(days=day), [user]):
            asked.append(day)
            await topups.fail_topup(connection, topup.id, "card declined", NOVEMBER + timedelta(days=day))
    assert asked == [0, 1, 2]
    await connection.execute(
        "UPDATE user_credits SET auto_topup_set_at = $2 WHERE user_id = $1", user, NOVEMBER + timedelta(days=6)
    )
    assert len(await topups.request(connection, OUTBOX, NOVEMBER + timedelta(days=7), [user])) == 1

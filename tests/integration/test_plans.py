"""Charges of plans on a real database: once each, by what was in force, with late usage as a difference."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from services.billing.plans.desk.explaining import ChargeExplanation, explain_charge
from services.billing.plans.due import charges_due
from services.ingest.rows import UsageRow
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Pool
from tests.integration.billing_facts import NOON, NOVEMBER, OCTOBER, Desk, ingest, make_price, usage

START = OCTOBER.start
DECEMBER = Period.parse_month("2026-12")


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool, per_1k=("1", "1", "1"))
    return Desk(database_pool)


async def store(desk: Desk, table: str, facts: dict[str, Any]) -> None:
    """Insert one row."""
    values = ", ".join(f"${i}" for i in range(1, len(facts) + 1))
    await desk.pool.execute(f"INSERT INTO {table} ({', '.join(facts)}) VALUES ({values})", *facts.values())  # noqa: S608


async def make_plan(desk: Desk, plan: str = "team", *, amount: str = "100", **version: Any) -> str:
    """Store a plan whose only version is as told."""
    facts = {
        "plan_id": plan, "valid_from": datetime(2020, 1, 1, tzinfo=UTC), "amount": Decimal(amount), "currency": "USD",
        "interval": "month", "billing_periods": "calendar", **version,
    }  # fmt: skip
    await desk.pool.execute("ALTER TABLE plans DISABLE TRIGGER version_plans")
    await desk.pool.execute(
        "INSERT INTO plans (id, name, amount, currency, interval) VALUES ($1, initcap($1), $2, $3, $4)",
        plan, facts["amount"], facts["currency"], facts["interval"],
    )  # fmt: skip
    await desk.pool.execute("ALTER TABLE plans ENABLE TRIGGER version_plans")
    await store(desk, "plan_versions", facts)
    return plan


async def subscribe(desk: Desk, plan: str = "team", *, at: datetime = START, **fields: Any) -> UUID:
    """Store a user with an active subscription that began at a time."""
    user, subscription = uuid7(), uuid7()
    facts = {
        "id": subscription, "user_id": user, "plan_id": plan, "status": "active", "currency": "USD", "created_at": at,
        "quota_requests": None, "quota_tokens": None, "quota_period_start": START, **fields,
    }  # fmt: skip
    await desk.pool.execute("INSERT INTO users (id, email) VALUES ($1, $2)", user, f"{user.hex}@example.com")
    await store(desk, "subscriptions", facts)
    return subscription


async def change(desk: Desk, subscription: UUID, at: datetime, **fields: Any) -> None:
    """Change a subscription as of a time."""
    async with desk.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('tallystick.effective_at', $1, true)", at.isoformat())
        assignments = ", ".join(f"{name} = ${i}" for i, name in enumerate(fields, start=2))
        update = f"UPDATE subscriptions SET {assignments} WHERE id = $1"  # noqa: S608
        await connection.execute(update, subscription, *fields.values())


async def lines(desk: Desk, period: Period) -> list[tuple[str, Decimal, str]]:
    """Return the lines of the invoice for a period: kind, exact amount, key without the subscription."""
    rows = await desk.fetch(
        """SELECT l.kind, l.exact_amount, coalesce(replace(l.charge_key, l.subscription_id::text || ':', ''), '') AS key
           FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id WHERE i.period_start = $1 ORDER BY l.kind, l.charge_key""",
        period.start,
    )
    return [tuple(row) for row in rows]


async def close(desk: Desk, period: Period) -> list[tuple[str, Decimal, str]]:
    desk.clock.at = period.end + timedelta(days=2)
    closing = await desk.close(period)
    assert closing.failures == []
    return await lines(desk, period)


async def test_a_history_is_kept_of_what_a_subscription_is_charged_by(desk: Desk) -> None:
    """keep_subscription_terms and subscription_phase: one row for each change that charges depend on."""
    await make_plan(desk)
    await make_plan(desk, "big", amount="300")
    subscription = await subscribe(desk, status="pending")
    await change(desk, subscription, START + timedelta(days=1), status="active")
    await change(desk, subscription, START + timedelta(days=2), used_requests=5)
    await desk.pool.execute("SELECT suspend_subscription($1, 'admin')", subscription)
    await desk.pool.execute("SELECT clear_suspension($1, 'admin')", subscription)
    await change(desk, subscription, START + timedelta(days=3), plan_id="big")
    rows = await desk.fetch("SELECT valid_from, phase, plan_id FROM subscription_terms ORDER BY valid_from")
    assert [tuple(row) for row in rows] == [
        (START, "pending", "team"),
        (START + timedelta(days=1), "live", "team"),
        (START + timedelta(days=3), "live", "big"),
    ]


async def test_a_fee_a_change_of_plan_and_the_next_month(desk: Desk) -> None:
    await make_plan(desk)
    await make_plan(desk, "big", amount="310")
    subscription = await subscribe(desk)
    await change(desk, subscription, datetime(2026, 10, 11, tzinfo=UTC), plan_id="big")
    found = await close(desk, OCTOBER)
    assert [(kind, key) for kind, _, key in found] == [
        ("fee", "fee:2026-10-01T00:00:00Z"),
        ("proration", "proration:2026-10-11T00:00:00Z:charge"),
        ("proration", "proration:2026-10-11T00:00:00Z:credit"),
    ]
    fee, charge, credit = (amount for _, amount, _ in found)
    assert [fee, charge, credit] == [100, 210, Decimal("-67.741935483871")]
    assert await close(desk, NOVEMBER) == [("fee", Decimal(310), "fee:2026-11-01T00:00:00Z")]
    assert await desk.differing() == []


async def test_usage_that_a_plan_includes_costs_nothing_and_overage_by_its_tiers(desk: Desk) -> None:
    meters = """[{"key": "tokens", "measure": "tokens", "included": 3000, "mode": "graduated",
                  "tiers": [{"up_to": 1000, "unit_price": "0.01"}, {"unit_price": "0.005"}]}]"""
    await make_plan(desk, usage="included", meters=meters)
    sub = await subscribe(desk)
    await desk.use(
        *(usage(sub, request_tokens=1000) for _ in range(6)), usage(sub, request_tokens=500, status_code=500)
    )
    found = await close(desk, OCTOBER)
    assert found[:3] == [
        ("discount", Decimal(-6), "included:2026-10-01T00:00:00Z"),
        ("fee", Decimal(100), "fee:2026-10-01T00:00:00Z"),
        ("overage", Decimal(20), "overage.tokens:2026-10-01T00:00:00Z"),
    ]
    assert await desk.value("SELECT total FROM invoices") == 120
    assert await desk.differing() == []


async def test_late_usage_becomes_the_difference_of_its_months_overage(desk: Desk) -> None:
    meters = """[{"key": "requests", "measure": "requests", "included": 2, "mode": "volume",
                  "tiers": [{"up_to": 2, "unit_price": "10"}, {"unit_price": "4"}]}]"""
    await make_plan(desk, amount="0", usage="included", meters=meters)
    sub = await subscribe(desk)
    await desk.use(*(usage(sub, request_tokens=1) for _ in range(4)))
    assert ("overage", Decimal(20), "overage.requests:2026-10-01T00:00:00Z") in await close(desk, OCTOBER)
    await desk.use(*(usage(sub, request_tokens=1000) for _ in range(3)))  # of October still
    found = await close(desk, NOVEMBER)
    assert ("overage", Decimal(0), "") not in found
    assert [line for line in found if line[2]] == [("discount", Decimal(-3), "included:2026-10-01T00:00:00Z#2")], (
        "five beyond what is included cost 20 by volume, as two did"
    )
    await desk.use(usage(sub))
    assert [line for line in await close(desk, DECEMBER) if line[2]] == [
        ("overage", Decimal(4), "overage.requests:2026-10-01T00:00:00Z#2")
    ]
    assert await desk.value(
        "SELECT (dimensions ->> 'late')::boolean FROM invoice_lines WHERE charge_key LIKE 'overage%#2'"
    )
    assert await desk.differing() == []


async def test_an_anchored_month_is_covered_as_it_is_invoiced_and_its_overage_when_it_ends(desk: Desk) -> None:
    meters = '[{"key": "requests", "measure": "requests", "included": 1, "mode": "package", "package_size": 2, "package_price": "5"}]'
    await make_plan(desk, amount="0", usage="included", meters=meters, billing_periods="anchored")
    sub = await subscribe(desk, at=datetime(2026, 10, 10, tzinfo=UTC))
    await desk.use(usage(sub, request_tokens=1000), usage(sub, at=NOON + timedelta(days=20), request_tokens=2000))
    october = await close(desk, OCTOBER)
    assert [line for line in october if line[2]] == [("discount", Decimal(-1), "included:2026-10-10T00:00:00Z")]
    assert [line for line in await close(desk, NOVEMBER) if line[2]] == [
        ("discount", Decimal(-2), "included:2026-10-10T00:00:00Z#2"),
        ("overage", Decimal(5), "overage.requests:2026-10-10T00:00:00Z"),
    ]
    assert await desk.value("SELECT sum(total) FROM invoices") == 5
    assert await desk.differing() == []


async def test_a_minimum_asks_for_what_is_missing_and_gives_it_back_when_usage_comes_late(desk: Desk) -> None:
    await make_plan(desk, amount="10", minimum=Decimal(50))
    sub = await subscribe(desk)
    await desk.use(usage(sub, request_tokens=15_000))
    assert ("minimum", Decimal(25), "minimum:2026-10-01T00:00:00Z") in await close(desk, OCTOBER)
    await desk.use(usage(sub, request_tokens=5_000))
    await desk.use(usage(sub, at=NOVEMBER.start, request_tokens=45_000))
    found = await close(desk, NOVEMBER)
    assert ("minimum", Decimal(-5), "minimum:2026-10-01T00:00:00Z#2") in found
    assert sum(amount for _, amount, _ in found) == 10 + 5 - 5 + 45


async def test_a_fee_in_arrears_is_for_the_time_that_it_was_paid_for(desk: Desk) -> None:
    await make_plan(desk, amount="31", fee_timing="arrears")
    sub = await subscribe(desk)
    await change(desk, sub, datetime(2026, 10, 11, tzinfo=UTC), status="paused")
    await change(desk, sub, datetime(2026, 10, 21, tzinfo=UTC), status="active")
    assert await close(desk, OCTOBER) == [("fee", Decimal(21), "fee:2026-10-01T00:00:00Z")]


async def test_who_was_active_owes_the_fee_also_when_cancelled_before_the_month_is_closed(desk: Desk) -> None:
    await make_plan(desk)
    sub = await subscribe(desk)
    await change(desk, sub, OCTOBER.end + timedelta(hours=1), status="cancelled")
    assert [kind for kind, *_ in await close(desk, OCTOBER)] == ["fee"]
    assert await close(desk, NOVEMBER) == [("fee", Decimal(100), "fee:2026-11-01T00:00:00Z")], (
        "it was active for an hour"
    )
    assert await close(desk, DECEMBER) == []


async def test_a_trial_costs_nothing_and_intervals_count_from_its_end(desk: Desk) -> None:
    await make_plan(desk, billing_periods="anchored")
    sub = await subscribe(desk, status="trialing")
    assert await close(desk, OCTOBER) == []
    ends = datetime(2026, 11, 15, tzinfo=UTC)
    await change(desk, sub, ends, status="active", billing_anchor=ends)
    assert await close(desk, NOVEMBER) == [("fee", Decimal(100), "fee:2026-11-15T00:00:00Z")]


async def test_a_coupon_takes_off_fees_and_usage_of_its_periods_only(desk: Desk) -> None:
    await make_plan(desk)
    sub = await subscribe(desk)
    await desk.pool.execute(
        "INSERT INTO coupons (code, name, percent, periods, valid_from) VALUES ('TENTH', 'A tenth', 10, 1, '2026-01-01Z')"
    )
    await desk.pool.execute(
        "INSERT INTO coupon_redemptions (id, code, subscription_id, redeemed_at, redeemed_by) VALUES ($1, 'TENTH', $2, $3, 'test')",
        uuid7(), sub, START,
    )  # fmt: skip
    await desk.use(usage(sub, request_tokens=3000), usage(sub, at=NOVEMBER.start, request_tokens=3000))
    assert [line for line in await close(desk, OCTOBER) if line[0] == "discount"] == [
        ("discount", Decimal("-0.3"), "discount.TENTH:2026-10-01T00:00:00Z"),
        ("discount", Decimal(-10), "discount:TENTH:fee:2026-10-01T00:00:00Z"),
    ]
    assert [line for line in await close(desk, NOVEMBER) if line[0] == "discount"] == []
    assert await desk.differing() == []


async def test_a_change_of_plan_never_changes_a_charge_of_the_past(desk: Desk) -> None:
    await make_plan(desk)
    sub = await subscribe(desk)
    assert await close(desk, OCTOBER) == [("fee", Decimal(100), "fee:2026-10-01T00:00:00Z")]
    await desk.pool.execute("UPDATE plans SET amount = 200 WHERE id = 'team'")  # a version from now on
    async with desk.pool.acquire() as connection:
        assert await charges_due(connection, OCTOBER) == {}
        (due,) = (await charges_due(connection, Period.parse_month("2027-01"))).values()
    assert [(c.subscription_id, c.amount) for c in due] == [(sub, Decimal(200))]


async def explained(desk: Desk) -> dict[str, ChargeExplanation]:
    """Explain every charge line; by key without the subscription."""
    rows = await desk.fetch(
        "SELECT id, replace(charge_key, subscription_id::text || ':', '') AS key FROM invoice_lines WHERE charge_key IS NOT NULL"
    )
    async with desk.pool.acquire() as connection:
        found = {row["key"]: await explain_charge(connection, row["id"]) for row in rows}
    return {key: explanation for key, explanation in found.items() if explanation is not None}


async def test_every_charge_is_explained_by_what_it_followed_from_then(desk: Desk) -> None:
    """Also when late usage, a coupon and another plan have come since: computed anew it is the same, to the last digit."""
    meters = """[{"key": "docs", "measure": "requests", "included": 1, "mode": "graduated", "tools": ["query-docs"],
                  "tiers": [{"up_to": 1, "unit_price": "0.5"}, {"unit_price": "0.3"}]}]"""
    await make_price(desk.pool, model=None, tool="query-docs", per_request="0.01")
    await make_plan(desk, amount="33.33", usage="included", meters=meters, minimum=Decimal(60))
    await make_plan(desk, "big", amount="70")
    sub = await subscribe(desk)
    await desk.use(usage(sub, request_tokens=1000), *(usage(sub, model=None, tool_name="query-docs") for _ in range(3)))
    await close(desk, OCTOBER)
    await change(desk, sub, datetime(2026, 11, 11, tzinfo=UTC), plan_id="big")
    await desk.use(usage(sub, model=None, tool_name="query-docs"), usage(sub, request_tokens=500))
    await close(desk, NOVEMBER)
    found = await explained(desk)
    assert len(found) >= 9
    assert {key: e.problems for key, e in found.items() if not e.holds} == {}
    overage, later = found["overage.docs:2026-10-01T00:00:00Z"], found["overage.docs:2026-10-01T00:00:00Z#2"]
    assert (overage.stated, [(u.number, u.requests) for u in overage.usage]) == (
        Decimal("0.8"),
        [("INV-2026-000001", 3)],
    )
    assert (later.stated, [u.requests for u in later.usage], later.facts["comes_to"]) == (Decimal("0.3"), [3, 1], "1.1")


async def test_a_charge_that_its_history_does_not_give_is_told_loudly(desk: Desk) -> None:
    await make_plan(desk)
    await subscribe(desk)
    await close(desk, OCTOBER)
    await desk.pool.execute("UPDATE subscription_terms SET phase = 'trial'")
    (fee,) = (await explained(desk)).values()
    assert fee.problems == ["what the subscription was on does not give this charge any more"]


async def take_back(desk: Desk, *rows: UsageRow) -> None:
    """Deliver what ingest announces when usage is taken back: the same sums, negative."""
    async with desk.pool.acquire() as connection:
        message = await ingest(connection, rows)
    for delta in message.deltas:
        for name in (
            "requests",
            "request_tokens",
            "response_tokens",
            "cached_tokens",
            "tokens_returned",
            "latency_sum_ms",
        ):
            setattr(delta, name, -getattr(delta, name))
    await desk.deliver(message)


@pytest.mark.parametrize("closed_after", [(), (1,), (1, 2), (2, 3)])
async def test_late_and_voided_usage_come_to_the_same_whenever_months_are_closed(
    desk: Desk, closed_after: tuple[int, ...]
) -> None:
    """Six requests of October remain, three of them beyond what is included; the plan covers their price."""
    meters = """[{"key": "requests", "measure": "requests", "included": 3, "mode": "graduated",
                  "tiers": [{"up_to": 2, "unit_price": "10"}, {"unit_price": "4"}]}]"""
    await make_plan(desk, amount="5", usage="included", meters=meters, minimum=Decimal(20))
    sub = await subscribe(desk)
    months = iter([OCTOBER, NOVEMBER, DECEMBER, Period.parse_month("2027-01")])
    steps = [
        desk.use(*(usage(sub, request_tokens=1000) for _ in range(8))),
        take_back(desk, *(usage(sub, request_tokens=1000) for _ in range(5))),
        desk.use(*(usage(sub, request_tokens=2000) for _ in range(3))),
    ]
    for number, step in enumerate(steps, start=1):
        await step
        if number in closed_after:
            await close(desk, next(months))
    for month in months:
        await close(desk, month)
    fees = 4 * Decimal(5) + 3 * Decimal(15)  # of four months; without usage three are below the minimum
    assert await desk.value("SELECT sum(total) FROM invoices") == fees + 24
    assert {key: e.problems for key, e in (await explained(desk)).items() if not e.holds} == {}

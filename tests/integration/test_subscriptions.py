"""Subscriptions on a real database: begun, changed and ended by people and by the job, audited, refused with the reason.

The job has the rights of billing: what it may do, it does through save_subscription.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.billing.plans.desk.publishing import checked, publish
from services.billing.plans.due import charges_due
from services.billing.plans.meters import TermsRefused
from services.billing.subscriptions.changes import Kind
from services.billing.subscriptions.desk import changing, coupons
from services.billing.subscriptions.desk.beginning import Wish, begin_subscription
from services.billing.subscriptions.life import MAY_BECOME, StepRefused, Subscription
from services.billing.subscriptions.store import lock
from services.billing.subscriptions.upkeep import make_due
from services.cli.main import run
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Connection, Pool
from tests.integration.roles import BILLING, with_role
from tests.integration.schema_facts import make_subscription

NOW = datetime(2027, 3, 10, 8, 30, tzinfo=UTC)
DAY = timedelta(days=1)
PLAN = {
    "id": "team",
    "name": "Team",
    "amount": "31",
    "currency": "EUR",
    "limits": {"requestsPerMonth": 100},
    "trial_days": 10,
}


@pytest.fixture
async def pool(database_pool: Pool) -> Pool:
    await database_pool.execute("INSERT INTO users (id, email) VALUES ($1, 'ada@example.com')", uuid7())
    async with database_pool.acquire() as connection, connection.transaction():
        await publish(connection, checked(PLAN))
        await publish(connection, checked({**PLAN, "id": "big", "name": "Big", "amount": "62", "trial_days": 0}))
    return database_pool


async def begin(pool: Pool, *, now: datetime = NOW, **wish: Any) -> Subscription:
    async with pool.acquire() as connection, connection.transaction():
        return await begin_subscription(
            connection, Wish("ADA@example.com", **{"plan_id": "big", **wish}), now=now, actor="test"
        )


async def change(
    pool: Pool,
    subscription: Subscription,
    kind: Kind,
    when: changing.When = "now",
    *,
    now: datetime = NOW,
    **more: str,
) -> Subscription:
    async with pool.acquire() as connection, connection.transaction():
        return await changing.change(
            connection, subscription.id, kind, when=when, now=now, actor="test", why="a test", **more
        )


async def present(pool: Pool, subscription: Subscription) -> Subscription:
    async with pool.acquire() as connection, connection.transaction():
        return await lock(connection, subscription.id)


async def due(pool: Pool, period: Period) -> list[tuple[str, Decimal]]:
    async with pool.acquire() as connection:
        return [
            (c.kind, round(c.amount, 2)) for found in (await charges_due(connection, period)).values() for c in found
        ]


async def actions(pool: Pool, subscription: Subscription) -> list[str]:
    rows = await pool.fetch(
        "SELECT action FROM audit_logs WHERE resource_id = $1 ORDER BY created_at, id", str(subscription.id)
    )
    return [row["action"].removeprefix("subscription.") for row in rows]


@pytest.mark.parametrize("before", MAY_BECOME)
async def test_the_table_of_steps_is_that_of_the_database(connection: Connection, before: str) -> None:
    reached = set()
    for after in MAY_BECOME:
        if after == before:
            continue
        subscription = await make_subscription(connection, status="active", plan_id="basic")
        await connection.execute("ALTER TABLE subscriptions DISABLE TRIGGER enforce_subscription_transition")
        await connection.execute("UPDATE subscriptions SET status = $2 WHERE id = $1", subscription, before)
        await connection.execute("ALTER TABLE subscriptions ENABLE TRIGGER enforce_subscription_transition")
        try:
            async with connection.transaction():
                reasons = ["admin"] if after == "suspended" else []
                await connection.execute(
                    "UPDATE subscriptions SET status = $2, suspended_reasons = $3 WHERE id = $1",
                    subscription,
                    after,
                    reasons,
                )
                reached.add(after)
        except asyncpg.PostgresError as error:
            assert error.sqlstate == "TS010"
    assert reached == MAY_BECOME[before]  # type: ignore[index]


async def test_a_subscription_begins_with_its_trial_and_the_limits_of_its_plan(pool: Pool) -> None:
    begun = await begin(pool, plan_id="team")
    assert (begun.status, begun.trial_end, begun.current_period_end) == ("trialing", NOW + 10 * DAY, NOW + 10 * DAY)
    assert (begun.quota_requests, begun.quota_tokens, begun.currency) == (100, None, "EUR")
    assert await actions(pool, begun) == ["created"]
    done = await make_due(with_role(pool, BILLING), NOW + 11 * DAY)
    assert (done.made, done.failed) == ({"trial_end": 1}, [])
    active = await present(pool, begun)
    assert (active.status, active.billing_anchor) == ("active", NOW + 10 * DAY)
    assert await due(pool, Period(NOW, NOW + 12 * DAY)) == [("fee", Decimal(31))]
    assert await actions(pool, begun) == ["created", "active"]


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"user": "nobody@example.com"}, "there is no user nobody@example.com"),
        ({"plan_id": "huge"}, "there is no plan huge: there are basic, big"),
        ({"plan_id": "big", "currency": "USD"}, "is billed in EUR, not in USD"),
        ({"plan_id": "big", "model_id": "gpt-4o"}, "name one of them"),
        ({"model_id": "gpt-9"}, "there is no model gpt-9"),
        ({"plan_id": "big", "quota_tokens": 5}, "are the limits of the plan"),
        ({"plan_id": "big", "coupon": "NONE"}, "there is no coupon NONE"),
        ({"plan_id": "big", "amount": Decimal("39.999")}, "has too many digits: the smallest amount is 0.01"),
    ],
)
async def test_what_cannot_begin_is_refused_and_nothing_is_there(pool: Pool, wish: dict[str, Any], reason: str) -> None:
    async with pool.acquire() as connection:
        with pytest.raises(StepRefused, match=reason):
            async with connection.transaction():
                await begin_subscription(connection, Wish(**{"user": "ada@example.com", **wish}), now=NOW, actor="test")
    assert await pool.fetchval("SELECT count(*) FROM subscriptions") == 0


async def test_a_user_has_a_plan_once(pool: Pool) -> None:
    begun = await begin(pool)
    with pytest.raises(StepRefused, match=f"has a subscription to big already: {begun.id}"):
        await begin(pool)


async def test_a_plan_changes_now_by_the_second_or_at_the_end_of_the_period(pool: Pool) -> None:
    begun = await begin(pool, plan_id="team", with_trial=False)
    noted = await change(pool, begun, "plan", "period_end", to_plan="big")
    assert noted.plan_id == "team"
    with pytest.raises(StepRefused, match="is asked for already"):
        await change(pool, begun, "plan", "period_end", to_plan="big")
    end = NOW + 31 * DAY
    done = await make_due(with_role(pool, BILLING), end + timedelta(hours=5))
    assert done.made == {"plan": 1, "roll": 1}
    assert await due(pool, Period(NOW, end + DAY)) == [("fee", Decimal(31)), ("fee", Decimal(62))]
    await change(pool, begun, "plan", now=end + 15 * DAY, to_plan="team")
    assert await due(pool, Period(end + DAY, end + 20 * DAY)) == [
        ("proration", Decimal("-31.00")),
        ("proration", Decimal("15.50")),
    ]
    assert await actions(pool, begun) == ["created", "change_scheduled", "plan_changed", "plan_changed"]


async def test_a_cancellation_at_the_end_of_the_period_can_be_taken_back(pool: Pool) -> None:
    begun = await begin(pool)
    assert (await change(pool, begun, "cancel", "period_end")).cancel_at_period_end
    async with pool.acquire() as connection, connection.transaction():
        assert await changing.withdraw(connection, begun.id, None, now=NOW, actor="test") == 1
    assert not (await present(pool, begun)).cancel_at_period_end
    await change(pool, begun, "cancel", "period_end")
    done = await make_due(with_role(pool, BILLING), NOW + 40 * DAY)
    assert done.made == {"cancel": 1}
    assert (await present(pool, begun)).status == "cancelled"
    assert await due(pool, Period(NOW, NOW + 90 * DAY)) == [("fee", Decimal(62))], (
        "the month that it had begun, no other"
    )


async def test_who_cancels_in_the_trial_never_pays(pool: Pool) -> None:
    begun = await begin(pool, plan_id="team")
    await change(pool, begun, "cancel", "period_end")
    done = await make_due(with_role(pool, BILLING), NOW + 40 * DAY)
    assert done.made == {"cancel": 1}
    assert await due(pool, Period(NOW, NOW + 90 * DAY)) == []


async def test_pauses_and_resumptions_are_made_when_they_are_due_however_late_the_job_runs(pool: Pool) -> None:
    begun = await begin(pool)
    await change(pool, begun, "pause", NOW + 5 * DAY)
    with pytest.raises(StepRefused, match="only a paused one is resumed"):
        await change(pool, begun, "resume", NOW + 40 * DAY)
    await make_due(with_role(pool, BILLING), NOW + 6 * DAY)
    await change(pool, begun, "resume", NOW + 40 * DAY, now=NOW + 6 * DAY)
    done = await make_due(with_role(pool, BILLING), NOW + 100 * DAY)
    assert (done.made["resume"], (await present(pool, begun)).status) == (1, "active")
    found = await due(pool, Period(NOW, NOW + 70 * DAY))
    assert [kind for kind, _ in found] == ["fee", "fee", "fee"]
    assert found[1][1] < 62, "the month in which it was resumed, from then on"


async def test_a_change_that_cannot_be_made_any_more_is_refused_with_the_reason(pool: Pool) -> None:
    begun = await begin(pool)
    await change(pool, begun, "pause", NOW + 5 * DAY)
    await change(pool, begun, "cancel", now=NOW + DAY)
    row = await pool.fetchrow("SELECT refused_at, refusal FROM subscription_changes")
    assert tuple(row) == (NOW + DAY, "the subscription is cancelled")
    other = await begin(pool, now=NOW + DAY)
    await change(pool, other, "pause", NOW + 5 * DAY, now=NOW + 2 * DAY)
    await change(pool, other, "pause", now=NOW + 3 * DAY)
    done = await make_due(with_role(pool, BILLING), NOW + 6 * DAY)
    assert (done.made, done.refused) == ({}, 1)
    assert (await actions(pool, other))[-1] == "change_refused", "audit_subscription_change writes what the job may not"
    assert "is paused already" in await pool.fetchval(
        "SELECT refusal FROM subscription_changes WHERE subscription_id = $1", other.id
    )


async def test_what_expires_can_be_renewed(pool: Pool) -> None:
    begun = await begin(pool, expires_at=NOW + 3 * DAY)
    await make_due(with_role(pool, BILLING), NOW + 4 * DAY)
    assert (await present(pool, begun)).status == "expired"
    async with pool.acquire() as connection, connection.transaction():
        renewed = await changing.reactivate(connection, begun.id, "admin", now=NOW + 9 * DAY, actor="test")
    assert (renewed.status, renewed.billing_anchor, renewed.expires_at) == ("active", NOW + 9 * DAY, None)


async def test_what_is_pending_is_charged_from_its_activation_on(pool: Pool) -> None:
    begun = await begin(pool, plan_id="team", pending=True)
    assert (begun.status, begun.current_period_end, begun.trial_end) == ("pending", None, None)
    with pytest.raises(StepRefused, match="is pending and cannot become paused: activate it first"):
        await change(pool, begun, "pause")
    async with pool.acquire() as connection, connection.transaction():
        active = await changing.reactivate(connection, begun.id, "admin", now=NOW + 4 * DAY, actor="test")
    assert (active.status, active.current_period_start) == ("active", NOW + 4 * DAY)
    assert await due(pool, Period(NOW, NOW + 20 * DAY)) == [("fee", Decimal(31))]


async def test_every_reason_of_a_suspension_has_to_clear(pool: Pool) -> None:
    begun = await begin(pool)
    async with pool.acquire() as connection, connection.transaction():
        await changing.suspend(connection, begun.id, "admin", actor="test", why="fraud?")
        both = await changing.suspend(connection, begun.id, "payment_overdue", actor="test")
        with pytest.raises(StepRefused, match="is suspended for admin already"):
            await changing.suspend(connection, begun.id, "admin", actor="test")
        assert both.suspended_reasons == ("admin", "payment_overdue")
        one = await changing.reactivate(connection, begun.id, "admin", now=NOW, actor="test")
        assert (one.status, one.suspended_reasons) == ("suspended", ("payment_overdue",))
        with pytest.raises(StepRefused, match="suspended for payment_overdue, not suspended for admin"):
            await changing.reactivate(connection, begun.id, "admin", now=NOW, actor="test")
        assert (
            await changing.reactivate(connection, begun.id, "payment_overdue", now=NOW, actor="test")
        ).status == "active"
    row = await pool.fetchrow(
        "SELECT actor, details ->> 'why' AS why FROM audit_logs WHERE action = 'subscription.suspended'"
    )
    assert tuple(row) == ("test", "fraud?")


async def test_two_workers_make_each_step_once(pool: Pool) -> None:
    for _ in range(5):
        await pool.execute(
            "INSERT INTO users (id, email) VALUES ($1::uuid, $1::uuid || '@example.com')", user := uuid7()
        )
        async with pool.acquire() as connection, connection.transaction():
            await begin_subscription(connection, Wish(str(user), plan_id="team"), now=NOW, actor="test")
    one, two = await asyncio.gather(*(make_due(with_role(pool, BILLING), NOW + 45 * DAY) for _ in range(2)))
    assert {k: one.made.get(k, 0) + two.made.get(k, 0) for k in ("trial_end", "roll")} == {"trial_end": 5, "roll": 5}
    assert one.failed + two.failed == []


async def test_a_coupon_is_redeemed_once_by_each_and_as_often_as_it_may_be(pool: Pool) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await coupons.create_coupon(
            connection, coupons.NewCoupon("HALF", "Half", percent=Decimal(50), periods=1, max_redemptions=1), now=NOW
        )
    begun = await begin(pool, coupon="HALF")
    assert sorted(await due(pool, Period(NOW, NOW + 40 * DAY))) == [
        ("discount", Decimal(-31)),
        ("fee", Decimal(62)),
        ("fee", Decimal(62)),
    ]
    async with pool.acquire() as connection:
        with pytest.raises(StepRefused, match="it has redeemed it already"):
            await coupons.redeem(connection, begun.id, "HALF", now=NOW, actor="test")
    with pytest.raises(StepRefused, match="it was redeemed 1 times, as often as it may be"):
        await begin(pool, plan_id="team", coupon="HALF")


async def test_the_last_redemption_goes_to_one_of_many(pool: Pool) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await coupons.create_coupon(
            connection, coupons.NewCoupon("LAST", "Last", percent=Decimal(5), max_redemptions=3), now=NOW
        )
    ids: list[UUID] = []
    for _ in range(6):
        async with pool.acquire() as connection:
            ids.append(await make_subscription(connection, plan_id="basic"))

    async def redeem(subscription: UUID) -> bool:
        try:
            async with pool.acquire() as connection, connection.transaction():
                await coupons.redeem(connection, subscription, "LAST", now=NOW, actor="test")
        except StepRefused:
            return False
        return True

    assert sum(await asyncio.gather(*(redeem(id_) for id_ in ids))) == 3


async def test_a_version_begins_later_and_another_interval_is_refused(pool: Pool) -> None:
    async with pool.acquire() as connection, connection.transaction():
        done = await publish(connection, checked({**PLAN, "amount": "40"}), valid_from=NOW)
        assert (done.is_new, done.valid_from) == (False, NOW)
        with pytest.raises(TermsRefused, match="are fixed"):
            await publish(connection, checked({**PLAN, "interval": "year"}), valid_from=NOW + DAY)
        with pytest.raises(TermsRefused, match="begins at that time already"):
            await publish(connection, checked(PLAN), valid_from=NOW)
        with pytest.raises(TermsRefused, match="cannot begin in the past"):
            await publish(connection, checked(PLAN), valid_from=datetime(2020, 1, 1, tzinfo=UTC))
    assert await pool.fetchval("SELECT amount FROM plans WHERE id = 'team'") == 31, "not in force yet"


async def test_commands_begin_and_change_a_subscription(
    pool: Pool, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)

    async def command(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run, ["subscription", *arguments])
        output = capsys.readouterr()
        return code, output.out + output.err

    _, text = await command("create", "--user", "ada@example.com", "--plan", "team", "--by", "ada", "--json")
    begun = json.loads(text)
    assert (begun["status"], begun["plan_id"], begun["quota_requests"]) == ("trialing", "team", 100)
    code, text = await command("change-plan", begun["id"], "big", "--at-period-end", "--by", "ada", "--why", "grows")
    assert (code, "noted: " in text) == (0, True)
    code, text = await command("show", begun["id"])
    assert (code, "planned              plan to big" in text) == (0, True)
    code, text = await command("resume", begun["id"])
    assert (code, "only a paused one is resumed" in text) == (2, True)
    assert (await command("withdraw", begun["id"]))[1] == "1 planned change taken back\n"
    assert (await command("cancel", begun["id"]))[0] == 0


async def test_commands_make_plans_and_coupons(
    pool: Pool, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    file = tmp_path / "solo.json"

    async def command(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run, list(arguments))
        output = capsys.readouterr()
        return code, output.out + output.err

    file.write_text(
        json.dumps(
            {
                "id": "solo",
                "name": "Solo",
                "amount": "9.90",
                "currency": "EUR",
                "meters": [{"key": "x", "measure": "calls"}],
            }
        )
    )
    assert (await command("plan", "set", "--file", str(file)))[1] == (
        "tallystick: meter x: measure is 'calls'; known are requests, tokens, input_tokens, output_tokens, returned_tokens, seconds\n"
    )
    file.write_text(json.dumps({"id": "solo", "name": "Solo", "amount": "9.905", "currency": "EUR"}))
    assert (await command("plan", "set", "--file", str(file)))[1] == (
        "tallystick: amount is 9.905: the smallest amount of EUR is 0.01\n"
    )
    file.write_text(json.dumps({"id": "solo", "name": "Solo", "amount": "9.90", "currency": "EUR"}))
    assert await command("plan", "set", "--file", str(file), "--by", "ada") == (0, "plan solo is there\n")
    assert json.loads((await command("plan", "show", "solo", "--json"))[1])[0]["amount"] == "9.9"
    assert await pool.fetchval("SELECT created_by FROM plan_versions WHERE plan_id = 'solo'") == "ada"
    assert (await command("coupon", "create", "FIVE", "--name", "Five", "--amount", "5"))[0] == 2, (
        "an amount needs a currency"
    )
    for gives, why in (
        (("--percent", "120"), "120 per cent cannot be taken off"),
        (("--amount", "5.001", "--currency", "EUR"), "too many digits"),
    ):
        code, printed = await command("coupon", "create", "FIVE", "--name", "Five", *gives)
        assert (code, why in printed) == (2, True), printed
    assert (await command("coupon", "create", "FIVE", "--name", "Five", "--amount", "5", "--currency", "EUR"))[0] == 0
    assert "5 EUR off fee; redeemed 0" in (await command("coupon", "list"))[1]
    assert (await command("coupon", "end", "FIVE"))[0] == 0
    assert (await command("coupon", "end", "NONE"))[0] == 2

"""Alerts: told once for each cause and period, as the user wants it, with an event each."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from services.billing.events import EventType
from services.billing.notices.alerts import Alert, AlertRefused, choices, choose, raise_alerts, stored_alerts
from services.billing.notices.jobs import watch_job
from services.billing.notices.watching import Watch
from shared.contracts import BillingEvent
from shared.jobs import run_due
from shared.outbox import Outbox
from shared.postgres import Pool
from tests.integration.billing_facts import Customer, Desk, make_customer, make_price, usage
from tests.unit.test_events_page import documented

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
IN_OCTOBER = datetime(2026, 10, 14, 13, tzinfo=UTC)


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    desk = Desk(database_pool)
    desk.clock.at = IN_OCTOBER
    return desk


def watching(desk: Desk) -> Watch:
    return Watch(desk.billing, desk.clock, Outbox("billing_outbox"), expiring_days=7, unrated_after=HOUR)


async def told(desk: Desk) -> list[str]:
    return [row["message"] for row in await desk.fetch("SELECT message FROM billing_alerts ORDER BY created_at, id")]


async def events(desk: Desk, kind: EventType) -> list[dict[str, Any]]:
    rows = await desk.fetch("SELECT value FROM billing_outbox ORDER BY id")
    return [body["data"] for body in (json.loads(row["value"]) for row in rows) if body["type"] == kind]


def shown_as(kind: EventType, data: dict[str, Any]) -> None:
    """Hold the body of an event to what docs/reference/events.md shows."""
    assert set(data) == set(documented()[kind].data)


async def want(desk: Desk, user: UUID, kind: str, *thresholds: str, enabled: bool = True) -> None:
    async with desk.billing.acquire() as connection:
        await choose(connection, user, kind, enabled=enabled, thresholds=[Decimal(t) for t in thresholds] or None)


# Money


async def test_spending_is_told_once_for_each_amount_and_month(desk: Desk) -> None:
    await make_price(desk.pool, per_request="1")
    customer, other = await make_customer(desk.pool), await make_customer(desk.pool)
    await want(desk, customer.user_id, "spend", "5", "10")
    watch = watching(desk)
    await desk.use(
        *[usage(customer.subscription_id) for _ in range(4)], *[usage(other.subscription_id) for _ in range(50)]
    )
    assert await watch() == {}
    await desk.use(*[usage(customer.subscription_id) for _ in range(3)])
    assert await watch() == {"usage_threshold": 1}
    assert await watch() == {}
    await desk.use(*[usage(customer.subscription_id) for _ in range(3)])
    assert await watch() == {"usage_threshold": 1}
    assert await told(desk) == [
        "Usage of 2026-10 has come to 7 USD, past the 5 USD you wanted to be told at.",
        "Usage of 2026-10 has come to 10 USD, past the 10 USD you wanted to be told at.",
    ]
    sent = await events(desk, "tallystick.spend.threshold.v1")
    shown_as("tallystick.spend.threshold.v1", sent[0])
    assert [(data["user_id"], data["threshold"], data["spent"], data["month"]) for data in sent] == [
        (str(customer.user_id), "5", "7", "2026-10"),
        (str(customer.user_id), "10", "10", "2026-10"),
    ]

    desk.clock.at = datetime(2026, 11, 2, tzinfo=UTC)
    assert await watch() == {}
    await desk.use(*[usage(customer.subscription_id, at=datetime(2026, 11, 1, tzinfo=UTC)) for _ in range(6)])
    assert await watch() == {"usage_threshold": 1}


# Quotas


async def test_own_percentages_of_a_quota_are_told_once_in_its_period(desk: Desk) -> None:
    customer = await with_quota(desk, requests=100)
    await want(desk, customer.user_id, "usage_threshold", "33.5", "90")
    watch = watching(desk)
    await count(desk, customer, 33)
    assert await watch() == {}
    await count(desk, customer, 34)
    assert [await watch(), await watch()] == [{"usage_threshold": 1}, {}]
    assert await told(desk) == ["33.5 % of the quota of 100 requests are used: 34."]
    await desk.pool.execute("UPDATE subscriptions SET quota_period_start = '2026-11-01Z'")
    assert await watch() == {"usage_threshold": 1}, "a period of its own"
    first, _ = await events(desk, "tallystick.quota.threshold.v1")
    alert = first.pop("alert")
    shown_as("tallystick.quota.threshold.v1", first)
    assert await desk.value("SELECT count(*) FROM billing_alerts WHERE id = $1", UUID(alert)) == 1


async def test_a_percentage_that_the_aggregator_has_told_is_not_told_again(desk: Desk) -> None:
    customer = await with_quota(desk, requests=100)
    await count(desk, customer, 85)
    from services.aggregator import store  # noqa: PLC0415
    from services.aggregator.quota import Threshold  # noqa: PLC0415

    reached = [Threshold(customer.subscription_id, "requests", percent, 85, 100) for percent in (50, 80)]
    await want(desk, customer.user_id, "usage_threshold", "80", "85")
    async with desk.pool.acquire() as connection:
        raised = await store.raise_thresholds(connection, reached)
    assert [alert["percent"] for alert in raised] == [80], "50 is not wanted"
    assert await watching(desk)() == {"usage_threshold": 1}
    assert await told(desk) == [
        "80 % of the quota of 100 requests are used: 85.",
        "85 % of the quota of 100 requests are used: 85.",
    ]


async def with_quota(desk: Desk, *, requests: int) -> Customer:
    customer = await make_customer(desk.pool)
    await desk.pool.execute(
        "UPDATE subscriptions SET quota_requests = $1, quota_period_start = '2026-10-01Z'", requests
    )
    return customer


async def count(desk: Desk, customer: Customer, requests: int) -> None:
    await desk.pool.execute(
        "UPDATE subscriptions SET used_requests = $2 WHERE id = $1", customer.subscription_id, requests
    )


# Endings


async def test_an_ending_is_told_once_ahead_of_it(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.pool.execute("UPDATE subscriptions SET expires_at = $1", IN_OCTOBER + 10 * DAY)
    watch = watching(desk)
    assert await watch() == {}
    desk.clock.at += 3 * DAY
    assert [await watch(), await watch()] == [{"subscription_expiring": 1}, {}]
    assert await told(desk) == ["Your subscription ends on 2026-10-24 at 13:00 UTC."]
    await want(desk, customer.user_id, "subscription_expiring", "1", "3", "30")
    assert await watch() == {"subscription_expiring": 1}, "30 days, which it is within"
    desk.clock.at += 4 * DAY
    assert await watch() == {"subscription_expiring": 1}
    (first, *_) = await events(desk, "tallystick.subscription.expiring.v1")
    shown_as("tallystick.subscription.expiring.v1", first)
    assert (first["days_ahead"], first["ends_at"]) == (7, "2026-10-24T13:00:00+00:00")
    desk.clock.at += 30 * DAY
    assert await watch() == {}, "it has ended"


async def test_a_cancellation_at_the_end_of_the_period_is_an_ending(desk: Desk) -> None:
    await make_customer(desk.pool)
    await desk.pool.execute(
        "UPDATE subscriptions SET current_period_start = '2026-10-01Z', current_period_end = '2026-10-16Z'"
    )
    assert await watching(desk)() == {}, "it renews"
    await desk.pool.execute("UPDATE subscriptions SET cancel_at_period_end = true")
    assert await watching(desk)() == {"subscription_expiring": 1}


# Usage without a price


async def test_usage_without_a_price_is_told_once_for_each_month_and_model(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, model="mystery"), usage(customer.subscription_id, model="mystery"))
    watch = watching(desk)
    desk.clock.at = datetime.now(UTC) + timedelta(minutes=59)
    assert await watch() == {}, "it may get one yet"
    desk.clock.at += timedelta(minutes=2)
    assert [await watch(), await watch()] == [{"unrated_usage": 1}, {}]
    assert await told(desk) == ["2 uses of mystery in 2026-10 have no price yet. They are billed when there is one."]
    (data,) = await events(desk, "tallystick.usage.unrated.v1")
    shown_as("tallystick.usage.unrated.v1", data)
    assert (data["model"], data["tool"], data["month"], data["events"]) == ("mystery", None, "2026-10", 2)


# Credits


async def test_a_low_balance_that_the_ledger_tells_of_is_announced_too(desk: Desk) -> None:
    """By the trigger announce_low_balance; settlements announce theirs themselves."""
    customer = await make_customer(desk.pool, billing_mode="prepaid")
    await desk.pool.execute("SELECT add_user_credits($1::uuid, 100)", customer.user_id)
    await desk.pool.execute("UPDATE user_credits SET low_balance_threshold = 20")
    for amount in ("70.5", "15", "1"):
        await desk.billing.execute(
            "SELECT debit_user_credits($1::uuid, $2::numeric)", customer.user_id, Decimal(amount)
        )
    assert await told(desk) == ["14.5 credits are left, less than the 20 you wanted to be told at."]
    (data,) = await events(desk, "tallystick.credits.low.v1")
    shown_as("tallystick.credits.low.v1", data | {"settlement": "…"})
    assert (data["balance"], data["threshold"], data["owed"]) == ("14.5", "20", "0")
    assert await desk.value("SELECT count(*) FROM credit_transactions WHERE id = $1", UUID(data["transaction"])) == 1
    value = await desk.value("SELECT value FROM billing_outbox")
    assert msgspec.json.decode(value, type=BillingEvent).subject == str(customer.user_id)


# What a user wants


async def test_what_a_user_does_not_want_is_not_told_by_whichever_service(desk: Desk) -> None:
    """The trigger respect_alert_settings sees to it."""
    customer = await make_customer(desk.pool)
    await want(desk, customer.user_id, "low_balance", enabled=False)
    alerts = [Alert(customer.user_id, kind, "settlement 1", "…") for kind in ("low_balance", "credits_exhausted")]
    async with desk.billing.acquire() as connection:
        assert [a.type for a in await raise_alerts(connection, alerts)] == ["credits_exhausted"]
        again = [Alert(customer.user_id, "credits_exhausted", "settlement 1", "…")]
        assert await raise_alerts(connection, again) == []
        assert [a.type for a in await stored_alerts(connection, user_id=customer.user_id)] == ["credits_exhausted"]
        assert await stored_alerts(connection, type_="low_balance") == []
        assert [(c.kind, c.enabled) for c in await choices(connection, customer.user_id)] == [("low_balance", False)]


async def test_what_a_user_has_switched_off_in_the_profile_is_not_told(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.pool.execute(
        """UPDATE users SET notification_preferences = '{"payment_failed": false, "low_balance": true}'"""
    )
    alerts = [Alert(customer.user_id, kind, "1", "…") for kind in ("payment_failed", "low_balance", "invoice_overdue")]
    async with desk.billing.acquire() as connection:
        assert [a.type for a in await raise_alerts(connection, alerts)] == ["low_balance", "invoice_overdue"]


@pytest.mark.parametrize(
    ("kind", "thresholds", "why"),
    [
        ("weather", (), "there is no alert 'weather'"),
        ("low_balance", ("5",), "'low_balance' has no thresholds"),
        ("spend", ("0",), "amounts of money in a month, each above 0"),
        ("spend", ("NaN",), "each above 0"),
        ("spend", tuple(map(str, range(1, 22))), "at most 20"),
    ],
)
async def test_a_choice_that_means_nothing_is_refused(
    desk: Desk, kind: str, thresholds: tuple[str, ...], why: str
) -> None:
    customer = await make_customer(desk.pool)
    with pytest.raises(AlertRefused, match=why):
        await want(desk, customer.user_id, kind, *thresholds)
    with pytest.raises(AlertRefused, match="there is no user"):
        await want(desk, UUID(int=1), "spend", "5")


async def test_the_job_looks_once_in_every_slot(desk: Desk) -> None:
    await make_customer(desk.pool)
    await desk.pool.execute("UPDATE subscriptions SET expires_at = $1", IN_OCTOBER + DAY)
    job = watch_job(watching(desk), every=timedelta(minutes=5))
    assert [await run_due(desk.billing, desk.clock, job, worker="0") for _ in range(2)] == [1, 0]
    assert json.loads(await desk.value("SELECT result FROM job_runs")) == {"subscription_expiring": 1}

"""Suspension, reactivation, resets and alerts, on a real database with its triggers."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.aggregator.quota import Standing, judge
from shared.contracts import BILLING_EVENTS
from shared.outbox import Outbox
from shared.period import HOUR
from shared.postgres import Pool
from tests.integration.aggregator_facts import (
    DECEMBER,
    JANUARY,
    NOVEMBER,
    Aggregator,
    Published,
    make_subscription,
    subscription,
    used,
)
from tests.unit.aggregator.facts import delta, recorded


@pytest.fixture
def aggregator(database_pool: Pool) -> Aggregator:
    return Aggregator(database_pool)


async def standing(pool: Pool, id_: UUID) -> tuple[str, list[str]]:
    row = await subscription(pool, id_)
    return row["status"], row["suspended_reasons"]


# --- suspension and resets -------------------------------------------------------------------------------------------


async def test_usage_that_reaches_the_quota_suspends(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_requests=10, quota_tokens=100)
    await aggregator.apply(recorded(delta(owner, requests=9, tokens=50)))
    assert await standing(database_pool, owner) == ("active", [])
    await aggregator.apply(recorded(delta(owner, requests=1, tokens=49)))
    assert await standing(database_pool, owner) == ("suspended", ["quota_requests"])
    await aggregator.apply(recorded(delta(owner, requests=0, tokens=1)))
    assert await standing(database_pool, owner) == ("suspended", ["quota_requests", "quota_tokens"])
    assert await used(database_pool, owner) == (10, 100)


async def test_the_audit_trail_names_the_aggregator(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_requests=1)
    await aggregator.apply(recorded(delta(owner)))
    trail = await database_pool.fetch("SELECT actor, action FROM audit_logs WHERE resource_id = $1", str(owner))
    assert [tuple(row) for row in trail] == [("aggregator", "subscription.suspended")]


async def test_late_usage_of_the_last_period_suspends_nobody(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_requests=10)
    await aggregator.apply(recorded(delta(owner, hour=NOVEMBER - HOUR, requests=50)))
    assert await standing(database_pool, owner) == ("active", [])


async def test_a_reset_reactivates_and_starts_with_what_the_new_period_holds(
    aggregator: Aggregator, database_pool: Pool
) -> None:
    owner = await make_subscription(database_pool, status="trialing", quota_requests=10)
    ahead = delta(owner, hour=DECEMBER, requests=3, tokens=30)  # a gateway's clock ran ahead of ours
    await aggregator.apply(recorded(delta(owner, requests=10), ahead))
    assert await standing(database_pool, owner) == ("suspended", ["quota_requests"])

    aggregator.clock.at = DECEMBER - timedelta(seconds=1)
    assert await aggregator.resets() == 0
    aggregator.clock.at = DECEMBER
    assert await aggregator.resets() == 1
    assert await aggregator.resets() == 0

    row = await subscription(database_pool, owner)
    assert (row["status"], row["suspended_reasons"]) == ("trialing", [])
    assert (row["quota_period_start"], row["reset_at"]) == (DECEMBER, JANUARY)
    assert await used(database_pool, owner) == (3, 30)


async def test_a_reset_leaves_a_suspension_for_other_reasons(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_requests=1)
    await database_pool.execute("SELECT suspend_subscription($1, 'payment_overdue')", owner)
    await aggregator.apply(recorded(delta(owner)))
    aggregator.clock.at = DECEMBER
    await aggregator.resets()
    assert await standing(database_pool, owner) == ("suspended", ["payment_overdue"])


async def test_usage_after_the_reset_rolls_the_period_before_it_is_counted(
    aggregator: Aggregator, database_pool: Pool
) -> None:
    owner = await make_subscription(database_pool, quota_requests=10)
    await aggregator.apply(recorded(delta(owner, requests=10)))
    aggregator.clock.at = DECEMBER + timedelta(minutes=5)
    late = delta(owner, hour=DECEMBER - HOUR, requests=7)
    await aggregator.apply(recorded(delta(owner, hour=DECEMBER, requests=2), late))

    row = await subscription(database_pool, owner)
    assert (row["status"], row["used_requests"]) == ("active", 2)
    assert (row["quota_period_start"], row["reset_at"]) == (DECEMBER, JANUARY)


async def test_missed_resets_are_caught_up_at_once(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, reset_at=NOVEMBER + 10 * HOUR)
    aggregator.clock.at = JANUARY + timedelta(days=3)
    assert await aggregator.resets() == 1
    row = await subscription(database_pool, owner)
    assert (row["quota_period_start"], row["reset_at"]) == (
        JANUARY + 10 * HOUR,
        JANUARY + timedelta(days=31) + 10 * HOUR,
    )


async def test_many_resets_are_rolled_in_several_transactions(
    aggregator: Aggregator, database_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.aggregator.rolling.ROLL_SUBSCRIPTIONS", 3)
    owners = [await make_subscription(database_pool) for _ in range(7)]
    aggregator.clock.at = DECEMBER
    assert await aggregator.resets() == 7
    assert {(await subscription(database_pool, owner))["reset_at"] for owner in owners} == {JANUARY}


@pytest.mark.parametrize("status", ["cancelled", "expired"])
async def test_what_has_ended_is_not_reset(aggregator: Aggregator, database_pool: Pool, status: str) -> None:
    owner = await make_subscription(database_pool, status=status)
    await aggregator.apply(recorded(delta(owner, requests=4)))
    aggregator.clock.at = DECEMBER
    await aggregator.apply(recorded(delta(owner, hour=DECEMBER), delta(owner)))
    assert await aggregator.resets() == 0
    assert await standing(database_pool, owner) == (status, [])
    assert await used(database_pool, owner) == (5, 0)


# --- alerts ----------------------------------------------------------------------------------------------------------


async def alerts(pool: Pool, owner: UUID) -> list[tuple[int, str]]:
    rows = await pool.fetch(
        "SELECT threshold::int, metadata->>'dimension' AS dimension FROM billing_alerts WHERE subscription_id = $1 ORDER BY created_at, 1, 2",
        owner,
    )
    return [tuple(row) for row in rows]


async def test_each_threshold_raises_one_alert_in_each_period(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_requests=10)
    for _ in range(6):
        await aggregator.apply(recorded(delta(owner, requests=1)))
    assert await alerts(database_pool, owner) == [(50, "requests")]
    await aggregator.apply(recorded(delta(owner, requests=6)))
    assert await alerts(database_pool, owner) == [(50, "requests"), (80, "requests"), (100, "requests")]

    aggregator.clock.at = DECEMBER
    await aggregator.apply(recorded(delta(owner, hour=DECEMBER, requests=5)))
    assert (await alerts(database_pool, owner))[3:] == [(50, "requests")]


async def test_an_alert_tells_user_figures_and_period(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_tokens=1000)
    await aggregator.apply(recorded(delta(owner, tokens=512)))
    alert = await database_pool.fetchrow("SELECT * FROM billing_alerts")
    assert alert["user_id"] == (await subscription(database_pool, owner))["user_id"]
    assert (alert["type"], alert["threshold"], float(alert["current_value"])) == ("usage_threshold", 50, 51.2)
    assert alert["message"] == "50 % of the quota of 1000 tokens are used: 512."
    assert json.loads(alert["metadata"])["used"] == 512


async def test_a_lowered_quota_raises_its_thresholds_with_the_next_usage(
    aggregator: Aggregator, database_pool: Pool
) -> None:
    owner = await make_subscription(database_pool, quota_requests=100)
    await aggregator.apply(recorded(delta(owner, requests=40)))
    await database_pool.execute("UPDATE subscriptions SET quota_requests = 50 WHERE id = $1", owner)
    await aggregator.apply(recorded(delta(owner, requests=1)))
    assert await alerts(database_pool, owner) == [(50, "requests"), (80, "requests")]


async def test_a_message_that_comes_twice_raises_no_second_alert(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_requests=10)
    message = recorded(delta(owner, requests=5))
    await aggregator.apply(message, message)
    await aggregator.apply(message)
    assert await alerts(database_pool, owner) == [(50, "requests")]


async def test_alerts_are_published_as_events_with_stable_ids(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_requests=10)
    await aggregator.apply(recorded(delta(owner, requests=5)))
    published = Published()
    for _ in range(2):
        await Outbox("aggregator_outbox").empty(database_pool, published, service="aggregator", older_than_seconds=0)

    (message,) = published.messages
    event = json.loads(message.value or b"")
    assert (message.topic, message.key) == (BILLING_EVENTS, str(owner).encode())
    assert (event["type"], event["subject"]) == ("tallystick.quota.threshold.v1", str(owner))
    assert (event["data"]["percent"], event["data"]["used"], event["data"]["quota"]) == (50, 5, 10)
    assert event["id"] == str(await database_pool.fetchval("SELECT id FROM billing_alerts"))


# --- the rule and its model ------------------------------------------------------------------------------------------

REASONS = st.sampled_from(["credits_exhausted", "payment_overdue", "admin"])
AMOUNTS = st.integers(0, 3)  # small, so that used and quota often meet
QUOTAS = st.one_of(st.none(), st.integers(0, 6))
STEPS = st.one_of(
    st.tuples(st.just("use"), AMOUNTS, AMOUNTS),
    st.tuples(st.just("use"), AMOUNTS, AMOUNTS),
    st.tuples(st.just("quota"), QUOTAS, QUOTAS),
    st.tuples(st.just("reset")),
    st.tuples(st.just("suspend"), REASONS),
    st.tuples(st.just("clear"), REASONS),
    st.tuples(st.just("status"), st.sampled_from(["active", "paused", "trialing", "cancelled", "expired"])),
)
CHANGES = {
    "use": "UPDATE subscriptions SET used_requests = used_requests + $2, used_tokens = used_tokens + $3 WHERE id = $1",
    "quota": "UPDATE subscriptions SET quota_requests = $2, quota_tokens = $3 WHERE id = $1",
    "reset": "UPDATE subscriptions SET used_requests = 0, used_tokens = 0 WHERE id = $1",
    "suspend": "SELECT suspend_subscription($1, $2)",
    "clear": "SELECT clear_suspension($1, $2)",
    "status": "UPDATE subscriptions SET status = $2::text::subscription_status WHERE id = $1",
}


def changed(before: Standing, step: tuple[object, ...]) -> Standing:
    """What the model makes of a step."""
    name, *values = step
    after = before
    if name == "use":
        requests, tokens = values
        after = replace(before, used_requests=before.used_requests + requests, used_tokens=before.used_tokens + tokens)  # type: ignore[operator]
    elif name == "quota":
        after = replace(before, quota_requests=values[0], quota_tokens=values[1])  # type: ignore[arg-type]
    elif name == "reset":
        after = replace(before, used_requests=0, used_tokens=0)
    elif name == "suspend" and before.status in {"active", "trialing", "suspended"}:
        after = replace(before, reasons=before.reasons | {str(values[0])})
    elif name == "clear":
        after = replace(before, reasons=before.reasons - {str(values[0])})
    elif name == "status":
        after = replace(before, status=str(values[0]))
    return judge(after)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from(["active", "trialing", "pending"]),
    quota=st.tuples(QUOTAS, QUOTAS),
    steps=st.lists(STEPS, min_size=1, max_size=20),
)
async def test_the_trigger_and_its_model_agree_on_any_history(
    database_pool: Pool, start: str, quota: tuple[int | None, int | None], steps: list[tuple[object, ...]]
) -> None:
    requests, tokens = quota
    owner = await make_subscription(database_pool, status=start, quota_requests=requests, quota_tokens=tokens)
    model = judge(Standing(start, quota_requests=requests, quota_tokens=tokens))
    for step in steps:
        try:
            await database_pool.execute(CHANGES[str(step[0])], owner, *step[1:])
        except asyncpg.PostgresError as error:
            assert error.sqlstate == "TS010", error
            assert step[0] == "status", "only a change of status by hand can be refused"
        else:
            model = changed(model, step)
        row = await subscription(database_pool, owner)
        assert (
            Standing(
                row["status"],
                frozenset(row["suspended_reasons"]),
                row["status_before_suspension"],
                row["quota_requests"],
                row["quota_tokens"],
                row["used_requests"],
                row["used_tokens"],
            )
            == model
        ), step

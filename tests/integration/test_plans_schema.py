"""What the tables of plans and coupons refuse: terms of the past are never edited."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from shared.postgres import Connection
from tests.integration.schema_facts import insert, make_subscription, refused


async def version(connection: Connection, plan: str = "team", **columns: Any) -> asyncpg.Record:
    facts = {
        "plan_id": plan,
        "amount": 20,
        "currency": "EUR",
        "interval": "month",
        "valid_from": datetime(2030, 1, 1, tzinfo=UTC),
    }
    return await insert(connection, "plan_versions", **{**facts, **columns})


async def make_plan(connection: Connection) -> None:
    await insert(connection, "plans", id="team", name="Team", amount=10, interval="month")


async def test_a_plan_has_a_first_version_that_has_always_applied(connection: Connection) -> None:
    """version_plan: whoever makes or changes a plan by a row of plans makes versions."""
    await make_plan(connection)
    await connection.execute("UPDATE plans SET description = 'for some'")
    await connection.execute("UPDATE plans SET amount = 15 WHERE id = 'team'")
    rows = await connection.fetch(
        """SELECT amount, valid_from = '-infinity' AS always, valid_from = now() AS from_now FROM plan_versions
           WHERE plan_id = 'team' ORDER BY valid_from"""
    )
    assert [tuple(row) for row in rows] == [(10, True, False), (15, False, True)]


async def test_versions_begin_in_the_future_and_stand(connection: Connection) -> None:
    """protect_plan_version."""
    await make_plan(connection)
    planned = await version(connection)
    async with refused(connection, "TS003", "cannot begin in the past"):
        await version(connection, valid_from=datetime(2026, 1, 1, tzinfo=UTC))
    async with refused(connection, "TS003", "are fixed"):
        await version(connection, interval="year")
    async with refused(connection, "TS003", "UPDATE is refused"):
        await connection.execute("UPDATE plan_versions SET amount = 1 WHERE id = $1", planned["id"])
    async with refused(connection, "TS003", "DELETE is refused"):
        await connection.execute("DELETE FROM plan_versions WHERE plan_id = 'team'")
    await connection.execute("DELETE FROM plan_versions WHERE id = $1", planned["id"])  # it never applied


async def test_a_plan_that_was_never_subscribed_to_can_go(connection: Connection) -> None:
    await make_plan(connection)
    await connection.execute("DELETE FROM plans WHERE id = 'team'")
    assert await connection.fetchval("SELECT count(*) FROM plan_versions WHERE plan_id = 'team'") == 0


async def test_what_a_coupon_gives_is_fixed(connection: Connection) -> None:
    """protect_coupon."""
    await insert(connection, "coupons", code="TENTH", name="A tenth", percent=10, max_redemptions=2)
    await connection.execute("UPDATE coupons SET redemptions = 1, valid_to = now() + interval '1 day'")
    async with refused(connection, "TS003", "what coupon TENTH gives is fixed"):
        await connection.execute("UPDATE coupons SET percent = 50")
    async with refused(connection, "23514", "redeemed_within_limit"):
        await connection.execute("UPDATE coupons SET redemptions = 3")


@pytest.mark.parametrize(
    "columns",
    [
        {"percent": 101},
        {"percent": None},
        {"amount_off": 5, "percent": None},
        {"amount_off": 5, "percent": None, "currency": "EUR"},
        {"code": "small"},
        {"periods": 0},
        {"valid_to": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
)
async def test_a_coupon_that_makes_no_sense_is_refused(connection: Connection, columns: dict[str, Any]) -> None:
    async with refused(connection, "23514", "violates"):
        await insert(connection, "coupons", **{"code": "TENTH", "name": "A tenth", "percent": 10, **columns})


async def test_the_plans_of_the_seeds_include_usage_within_their_limits(connection: Connection) -> None:
    rows = await connection.fetch(
        "SELECT plan_id, usage, trial_days, hard_limits, jsonb_array_length(meters) AS meters FROM plan_versions"
    )
    assert {tuple(row) for row in rows} == {
        ("free", "included", 0, True, 0),
        ("basic", "included", 14, True, 0),
        ("premium", "included", 14, False, 2),
        ("enterprise", "priced", 0, True, 0),
    }


async def test_changes_of_a_subscription_are_audited_with_the_reason(connection: Connection) -> None:
    subscription = await make_subscription(connection)
    await connection.execute("SELECT set_config('tallystick.why', 'asked by phone', true)")
    await connection.execute("UPDATE subscriptions SET plan_id = 'basic', amount = 5 WHERE id = $1", subscription)
    row = await connection.fetchrow(
        """SELECT action, before ->> 'plan_id' AS was, after ->> 'plan_id' AS becomes, (after ->> 'amount')::numeric AS amount,
                  details ->> 'why' AS why
           FROM audit_logs WHERE resource_id = $1""",
        str(subscription),
    )
    assert tuple(row) == ("subscription.plan_changed", "enterprise", "basic", Decimal(5), "asked by phone")


async def test_a_subscription_that_began_earlier_than_thought_is_charged_from_then(connection: Connection) -> None:
    subscription = await make_subscription(connection)
    began = datetime(2026, 9, 20, 10, tzinfo=UTC)
    await connection.execute("UPDATE subscriptions SET created_at = $2 WHERE id = $1", subscription, began)
    await connection.execute("UPDATE subscriptions SET amount = 7 WHERE id = $1", subscription)
    rows = await connection.fetch(
        "SELECT valid_from, anchor, amount FROM subscription_terms WHERE subscription_id = $1 ORDER BY valid_from",
        subscription,
    )
    assert [(rows[0]["valid_from"], rows[0]["anchor"]), rows[1]["amount"]] == [(began, began), 7]
    assert rows[1]["valid_from"] - began > timedelta(days=1)

"""A series of everybody is read from totals, and says what the summaries of all subscriptions add up to."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from services.api.auth.principal import Principal
from services.api.database import Database
from services.api.usage.buckets import Step, buckets, whole_hours
from services.api.usage.reading import Usage, usage_of
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.aggregator_facts import Aggregator, make_subscription
from tests.integration.api.facts import Facts
from tests.integration.test_usage_totals import usage_of as some_usage
from tests.unit.aggregator.facts import NOON, recorded

ADMIN = Principal(uuid7(), "root", frozenset({"admin"}))
AFTER: datetime = NOON + timedelta(days=2)


async def series(usage: Usage, start: datetime, step: Step, zone: str, group: str | None) -> list[tuple[Any, ...]]:
    period = whole_hours(start, AFTER)
    begins = [bucket.period.start for bucket in buckets(step, period, ZoneInfo(zone))]
    rows = await usage.series(begins, period.end, group)
    return [tuple(row.values()) for row in rows]


@pytest.mark.parametrize("seed", range(3))
async def test_it_is_the_sum_over_all_subscriptions(database_pool: Pool, seed: int) -> None:
    chance = random.Random(seed)
    owners = [await make_subscription(database_pool) for _ in range(4)]
    workers = [Aggregator(database_pool, partition) for partition in (seed * 2, seed * 2 + 1)]
    for _ in range(6):
        await chance.choice(workers).apply(recorded(*some_usage(owners, chance)))
    asked = [row["id"] for row in await database_pool.fetch("SELECT id FROM subscriptions")]
    async with usage_of(Database(database_pool), ADMIN, None) as everybody:
        named = Usage(everybody.database, ADMIN, everybody.connection, everybody.sql, asked)
        found = 0
        for step in ("hour", "day", "month"):
            for zone in ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York"):
                start = AFTER - timedelta(hours=chance.randrange(50, 900))
                for group in (None, "model", "subscription"):
                    of_all = await series(everybody, start, step, zone, group)
                    assert of_all == await series(named, start, step, zone, group), (step, zone, group)
                    found += len(of_all)
        assert found > 100


async def test_summaries_are_read_for_named_subscriptions_and_totals_for_everybody(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    """A total that is planted shows where each is read."""
    ada, root = await facts.customer(), await facts.customer("admin")
    planted = datetime(2020, 2, 1, tzinfo=UTC)
    await database_pool.execute(
        """INSERT INTO usage_totals VALUES ('day', $1, 'planted', '', 0, 5, 0, 0, 0, 0, 0, 0, array_fill(0, '{12}'))
           ON CONFLICT DO NOTHING""",
        planted,
    )

    async def asked(who: Any, **parameters: Any) -> list[tuple[Any, Any]]:
        range_ = {"from": planted.isoformat(), "to": (planted + timedelta(days=1)).isoformat()}
        answer = await client.get("/api/v1/usage", params={**range_, **parameters}, headers=who.headers)
        assert answer.status_code == 200, answer.text
        return [(point["group"], point["request_count"]) for point in answer.json()["points"]]

    try:
        assert await asked(root) == [(None, 5)]
        assert await asked(root, group_by="model") == [("planted", 5)]
        assert await asked(root, group_by="subscription") == []
        assert await asked(root, user_id=ada.user_id) == []
        assert await asked(ada) == await asked(ada, group_by="model") == []
    finally:
        await database_pool.execute("DELETE FROM usage_totals WHERE period_start = $1", planted)

"""Usage by hour, day and month of a time zone, and by what it is grouped by."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import httpx
import pytest

from shared.postgres import Pool
from tests.integration.api.facts import Customer, Facts
from tests.integration.api.reading.usage_facts import event, unkept, use

AUTUMN = datetime(2026, 10, 25, tzinfo=UTC)
"""The clocks go back in Berlin on this day."""


async def ask(client: httpx.AsyncClient, who: Customer, **parameters: Any) -> dict[str, Any]:
    answer = await client.get("/api/v1/usage", params=parameters, headers=who.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def test_figures_of_a_day(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer()
    at = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
    await use(
        database_pool,
        ada.subscription_id,
        *(event(at, latency_ms=ms) for ms in (40, 90, 150, 3_000)),
        event(at + timedelta(hours=1), status_code=500, latency_ms=None, cached_tokens=60),
    )
    answer = await ask(client, ada, **{"from": "2026-11-01T00:00:00Z", "to": "2026-11-04T00:00:00Z"})
    assert (answer["step"], answer["time_zone"], answer["group_by"]) == ("day", "UTC", None)
    [point] = answer["points"]
    assert point == {
        "bucket": "2026-11-02",
        "start": "2026-11-02T00:00:00Z",
        "end": "2026-11-03T00:00:00Z",
        "group": None,
        "request_count": 5,
        "error_count": 1,
        "request_tokens": 500,
        "response_tokens": 100,
        "cached_tokens": 60,
        "total_tokens": 600,
        "avg_latency_ms": 820.0,
        "p50_latency_ms": 100,
        "p95_latency_ms": 3200,
        "p99_latency_ms": 3200,
    }


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize("step", ["hour", "day", "month"])
async def test_each_hour_is_counted_where_it_begins_in_the_zone(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool, zone: str, step: str
) -> None:
    ada = await facts.customer()
    times = [AUTUMN + timedelta(hours=7 * n, minutes=13) for n in range(-12 if step != "month" else -120, 13)]
    await use(database_pool, ada.subscription_id, *(event(at) for at in times))
    begin, end = min(times), max(times) + timedelta(hours=1)
    answer = await ask(client, ada, step=step, time_zone=zone, **{"from": begin.isoformat(), "to": end.isoformat()})
    local = [at.replace(minute=0).astimezone(ZoneInfo(zone)) for at in times]
    shape = {"hour": "%Y-%m-%dT%H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}[step]
    expected = Counter(at.strftime(shape) for at in local)
    length = 16 if step == "hour" else None
    assert Counter({p["bucket"][:length]: p["request_count"] for p in answer["points"]}) == expected


async def test_the_sum_over_parts_is_the_whole(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer()
    await use(database_pool, ada.subscription_id, *(event(AUTUMN + timedelta(hours=5 * n)) for n in range(30)))
    cuts = [AUTUMN + timedelta(hours=n) for n in (0, 1, 23, 60, 61, 151)]
    parts = []
    for start, end in pairwise(cuts):
        answer = await ask(client, ada, time_zone="Europe/Berlin", **{"from": start.isoformat(), "to": end.isoformat()})
        parts += [point["request_count"] for point in answer["points"]]
    assert sum(parts) == 30


async def test_groups(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer()
    at = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
    await use(
        database_pool,
        ada.subscription_id,
        event(at, api_key_id=ada.key_id, app_id="chat", feature_type="chat", latency_ms=60),
        event(at, api_key_id=ada.key_id, app_id="chat", provider="azure", power_level="eco", latency_ms=None),
        event(at, model_id=None, tool_name="query-docs", provider=None, latency_ms=60_000),
    )

    async def groups(by: str) -> dict[str | None, int]:
        answer = await ask(client, ada, group_by=by, **{"from": "2026-11-01T00:00:00Z", "to": "2026-11-04T00:00:00Z"})
        return {point["group"]: point["request_count"] for point in answer["points"]}

    assert await groups("model") == {"gpt-4o": 2, "tool:query-docs": 1}
    assert await groups("subscription") == {str(ada.subscription_id): 3}
    assert await groups("provider") == {"openai": 1, "azure": 1, None: 1}
    assert await groups("key") == {str(ada.key_id): 2, None: 1}
    assert await groups("feature") == {"chat": 1, None: 2}
    assert await groups("power_level") == {"balanced": 2, "eco": 1}
    assert await groups("app") == {"chat": 2, None: 1}


async def test_the_log_and_the_summaries_say_the_same(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    latencies = (None, 0, 50, 51, 100, 399, 800, 12_800, 51_200, 51_201, 700_000)
    await use(
        database_pool, ada.subscription_id, *(event(AUTUMN, latency_ms=ms, power_level="eco") for ms in latencies)
    )
    asked = {"from": AUTUMN.isoformat(), "to": (AUTUMN + timedelta(days=1)).isoformat()}
    [summed] = (await ask(client, ada, **asked))["points"]
    [logged] = (await ask(client, ada, group_by="power_level", **asked))["points"]
    assert logged == summed | {"group": "eco"}


async def test_a_reversal_is_taken_off(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer()
    back = {
        "quantity": -1,
        "request_tokens": -100,
        "response_tokens": -20,
        "corrects": ada.key_id,
        "corrected_at": AUTUMN,
    }
    await use(database_pool, ada.subscription_id, event(AUTUMN), event(AUTUMN), event(AUTUMN) | back)
    for by in (None, "provider"):
        grouped = {"group_by": by} if by else {}
        [point] = (await ask(client, ada, **grouped, **{"from": AUTUMN.isoformat()}))["points"]
        assert (point["request_count"], point["total_tokens"], point["p99_latency_ms"]) == (1, 120, 400)


async def test_a_users_own_time_zone_is_used_where_none_is_named(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    chosen = await client.put("/api/v1/me/time-zone", json={"time_zone": "Asia/Tokyo"}, headers=ada.headers)
    assert (chosen.status_code, chosen.json()) == (200, {"time_zone": "Asia/Tokyo"})
    assert (await client.get("/api/v1/me/time-zone", headers=ada.headers)).json() == chosen.json()
    await use(database_pool, ada.subscription_id, event(datetime(2026, 11, 2, 20, tzinfo=UTC)))
    [point] = (await ask(client, ada))["points"]
    assert (point["bucket"], point["start"]) == ("2026-11-03", "2026-11-02T15:00:00Z")
    [point] = (await ask(client, ada, time_zone="UTC"))["points"]
    assert point["bucket"] == "2026-11-02"
    refused = await client.put("/api/v1/me/time-zone", json={"time_zone": "Mars/Olympus"}, headers=ada.headers)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "body.time_zone")
    assert (await client.put("/api/v1/me/time-zone", json={"time_zone": None}, headers=ada.headers)).json() == {
        "time_zone": "UTC"
    }
    with pytest.raises(asyncpg.PostgresError, match="there is no time zone"):
        await database_pool.execute("UPDATE users SET time_zone = 'Mars/Olympus' WHERE id = $1", ada.user_id)


async def test_everybody_sees_their_own(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada, bob, root = await facts.customer(), await facts.customer(), await facts.customer("admin")
    at = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
    await use(database_pool, ada.subscription_id, event(at), event(at))
    await use(database_pool, bob.subscription_id, event(at))

    async def counted(who: Customer, **parameters: Any) -> list[int]:
        return [point["request_count"] for point in (await ask(client, who, **parameters))["points"]]

    assert await counted(ada) == [2]
    assert await counted(ada, group_by="provider") == [2]
    assert await counted(ada, user_id=ada.user_id) == [2]
    assert await counted(ada, subscription_id=ada.subscription_id) == [2]
    for grouped in ({}, {"group_by": "provider"}):
        assert sum(await counted(root, **grouped)) >= 3
    assert await counted(root, user_id=bob.user_id) == [1]
    assert await counted(root, subscription_id=ada.subscription_id) == [2]
    for others in ({"user_id": str(bob.user_id)}, {"subscription_id": str(bob.subscription_id)}):
        answer = await client.get("/api/v1/usage", params=others, headers=ada.headers)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:tallystick:problem:not-found")


@pytest.mark.parametrize(
    ("parameters", "field", "says"),
    [
        ({"from": "2026-11-01T00:00:00"}, "query.from", "timezone"),
        ({"to": "yesterday"}, "query.to", "date"),
        ({"from": "2026-11-02T00:00:00Z", "to": "2026-11-01T00:00:00Z"}, "query.from", "not before"),
        ({"from": "2026-11-02T00:00:00Z", "to": "2026-11-02T00:00:00Z"}, "query.from", "not before"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "query.from", "1970"),
        ({"time_zone": "Europe/Nowhere"}, "query.time_zone", "IANA"),
        ({"time_zone": "a\0b"}, "query.time_zone", "pattern"),
        ({"step": "hour", "from": "2026-01-01T00:00:00Z"}, "query.step", "more than 1,000"),
        ({"step": "week"}, "query.step", "hour"),
        ({"group_by": "colour"}, "query.group_by", "model"),
        ({"subscription_id": "mine"}, "query.subscription_id", "UUID"),
    ],
)
async def test_what_cannot_be_asked_names_the_field(
    client: httpx.AsyncClient, facts: Facts, parameters: dict[str, str], field: str, says: str
) -> None:
    ada = await facts.customer()
    answer = await client.get("/api/v1/usage", params=parameters, headers=ada.headers)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:tallystick:problem:invalid-request")
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert says in error["message"]


BREAKDOWNS = ("provider", "key", "feature", "power_level", "app")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
async def test_the_hours_of_uses_say_what_the_log_says(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool, seed: int, zone: str
) -> None:
    chance, ada, bob = random.Random(seed), await facts.customer(), await facts.customer()
    for who in (ada, bob):
        await use(database_pool, who.subscription_id, *(anything(chance, who) for _ in range(60)))
    asked = {
        "from": (AUTUMN - timedelta(days=3)).isoformat(),
        "to": (AUTUMN + timedelta(days=4)).isoformat(),
        "time_zone": zone,
    }

    async def answers() -> list[Any]:
        return [
            (await ask(client, ada, group_by=by, step=step, **asked))["points"]
            for by in BREAKDOWNS
            for step in ("hour", "day", "month")
        ]

    by_hours = await answers()
    async with unkept(database_pool):
        assert by_hours == await answers()
    summed = sum(point["request_count"] for point in (await ask(client, ada, **asked))["points"])
    assert {sum(point["request_count"] for point in points) for points in by_hours} == {summed}
    assert summed > 0


def anything(chance: random.Random, who: Customer) -> dict[str, Any]:
    """Return an event of any kind, about the day on which the clocks go back; some are taken back."""
    tool, back = chance.random() < 0.2, chance.random() < 0.1
    sign = -1 if back else 1
    columns: dict[str, Any] = {
        "model_id": None if tool else chance.choice(["gpt-4o", "claude"]), "tool_name": "search" if tool else None,
        "provider": chance.choice([None, "openai", "azure"]), "api_key_id": chance.choice([None, who.key_id]),
        "feature_type": chance.choice([None, "chat"]), "power_level": chance.choice(["eco", "balanced"]), "byok": chance.random() < 0.2,
        "app_id": chance.choice([None, "crm", "shop"]), "status_code": chance.choice([200, 404, 500]),
        "latency_ms": chance.choice([None, 0, 50, 51, 51_201, chance.randrange(60_000)]),
        "request_tokens": sign * chance.randrange(100, 5_000), "response_tokens": sign * chance.randrange(500), "cached_tokens": sign * 7,
    }  # fmt: skip
    if back:
        columns |= {"quantity": -1, "corrects": who.key_id, "corrected_at": AUTUMN}
    return event(AUTUMN + timedelta(minutes=chance.randrange(-4_000, 4_000)), **columns)


async def test_a_long_range_and_archived_months_are_read_by_hour(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    await use(
        database_pool,
        ada.subscription_id,
        event(AUTUMN - timedelta(days=200), app_id="crm"),
        event(AUTUMN, app_id="crm"),
    )
    await database_pool.execute(
        "INSERT INTO usage_archives (month, state, manifest) VALUES ('2026-04-01Z', 'archiving', '{}')"
    )
    answer = await ask(client, ada, group_by="app", step="month", **{"from": "2026-01-01T00:00:00Z"})
    assert [(point["bucket"], point["group"], point["request_count"]) for point in answer["points"]] == [
        ("2026-04", "crm", 1), ("2026-10", "crm", 1),
    ]  # fmt: skip


async def test_a_long_range_that_hours_do_not_have_is_refused_with_where_they_begin(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    asked = {"group_by": "key", "from": "2026-01-01T00:00:00Z"}
    async with unkept(database_pool):
        answer = await client.get("/api/v1/usage", params=asked, headers=ada.headers)
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["field"]) == (422, "query.from")
    assert "from 2026-12-01 00:00 UTC on" in error["message"]
    assert "at most 92 days" in error["message"]


async def test_events_that_are_archived_are_not_passed_over_in_silence(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    await database_pool.execute(
        "INSERT INTO usage_archives (month, state, manifest) VALUES ('2026-07-01Z', 'archiving', '{}')"
    )
    asked = {"group_by": "app", "from": "2026-06-20T00:00:00Z", "to": "2026-07-20T00:00:00Z"}
    async with unkept(database_pool):
        answer = await client.get("/api/v1/usage", params=asked, headers=ada.headers)
    assert (answer.status_code, "2026-07" in answer.json()["detail"]) == (409, True)

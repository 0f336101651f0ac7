"""Usage and its cost over the last days, by what the seeds group it by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared.postgres import Pool
from tests.integration.api.conftest import NOW
from tests.integration.api.facts import Customer, Facts
from tests.integration.api.reading.usage_facts import event, rate, unkept, use
from tests.integration.schema_facts import insert

HOUR = NOW.replace(minute=0) - timedelta(hours=2)


@pytest_asyncio.fixture
async def ada(facts: Facts, database_pool: Pool) -> Customer:
    """Somebody who used two models and a tool yesterday and today, some of it rated."""
    ada = await facts.customer(currency="USD")
    async with database_pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO models (id, name, provider) VALUES ('gpt-4o', 'gpt-4o', 'openai') ON CONFLICT DO NOTHING"
        )
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM model_prices WHERE model_id = 'gpt-4o')"):
            await insert(connection, "model_prices", model_id="gpt-4o", currency="USD", valid_from=datetime(2026, 1, 1, tzinfo=UTC),
                         input_price_per_1k=Decimal("0.01"), output_price_per_1k=Decimal("0.03"))  # fmt: skip
    chat = {"api_key_id": ada.key_id, "app_id": "chat", "feature_type": "chat"}
    await use(
        database_pool,
        ada.subscription_id,
        event(HOUR, **chat, latency_ms=100),
        event(HOUR, **chat, latency_ms=300, status_code=502),
        event(HOUR - timedelta(days=1), provider="azure", byok=True, power_level="eco", cached_tokens=40),
        event(HOUR - timedelta(days=1), model_id="mistral-large", provider=None, latency_ms=None),
        event(HOUR - timedelta(days=40), model_id="mistral-large"),
    )
    tokens: dict[str, Any] = {"request_tokens": 100, "response_tokens": 20}

    async def rated(hour: datetime, **columns: Any) -> None:
        await rate(database_pool, ada.user_id, ada.subscription_id, hour=hour, **tokens, **columns)

    await rated(HOUR, feature_type="chat", amount=Decimal("0.0016"))
    await rated(HOUR, feature_type="chat", status_class=5, errors=1, amount=Decimal(0))
    await rated(HOUR - timedelta(days=1), power_level="eco", byok=True, cached_tokens=40, amount=Decimal(0))
    await rated(HOUR - timedelta(days=1), model_id="mistral-large", amount=None)
    return ada


async def ask(client: httpx.AsyncClient, who: Customer, **parameters: Any) -> dict[str, Any]:
    answer = await client.get("/api/v1/analytics/usage", params=parameters, headers=who.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def test_by_model_with_the_names_of_the_seed(client: httpx.AsyncClient, ada: Customer) -> None:
    answer = await ask(client, ada, days=7)
    assert (answer["days"], answer["group_by"]) == (7, "model")
    assert (answer["start"], answer["end"]) == ("2026-11-14T00:00:00Z", "2026-11-20T13:00:00Z")
    gpt, mistral = answer["items"]
    assert gpt == {
        "group": "gpt-4o",
        "currency": "USD",
        "request_count": 3,
        "success_count": 2,
        "error_count": 1,
        "byok_count": 1,
        "unrated_count": 0,
        "prompt_tokens": 300,
        "completion_tokens": 60,
        "cached_tokens": 40,
        "total_tokens": 360,
        "total_cost": "0.0016",
        "avg_latency_ms": 250.0,
        "success_rate": 0.6667,
    }
    assert (mistral["request_count"], mistral["unrated_count"], mistral["total_cost"]) == (1, 1, None)
    assert mistral["avg_latency_ms"] is None
    [total] = answer["totals"]
    assert (total["group"], total["request_count"], total["total_cost"], total["unrated_count"]) == (
        None,
        4,
        "0.0016",
        1,
    )


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("feature", {"chat": (2, 1, "0.0016"), None: (2, 0, "0")}),
        ("power_level", {"balanced": (3, 1, "0.0016"), "eco": (1, 0, "0")}),
        ("provider", {"openai": (2, 1, "0.0016"), "azure": (1, 0, "0"), None: (1, 0, None)}),
        ("app", {"chat": (2, 1, "0.0016"), None: (2, 0, "0")}),
    ],
)
async def test_by_other_things(
    client: httpx.AsyncClient, ada: Customer, by: str, expected: dict[str | None, tuple[int, int, str | None]]
) -> None:
    answer = await ask(client, ada, days=2, group_by=by)
    found = {
        i["group"]: (
            i["request_count"],
            i["error_count"],
            i["total_cost"] and f"{Decimal(i['total_cost']).normalize():f}",
        )
        for i in answer["items"]
    }
    assert found == expected
    assert sum(total["request_count"] for total in answer["totals"]) == 4


async def test_by_hour_it_is_worth_what_it_is_worth_by_event(
    client: httpx.AsyncClient, ada: Customer, database_pool: Pool
) -> None:
    turns = [datetime(2026, 1, 1, tzinfo=UTC), HOUR - timedelta(days=3), HOUR - timedelta(days=1), None]
    async with database_pool.acquire() as connection:  # the price changes twice among the hours that are asked for
        await insert(connection, "models", id="turning", name="turning", provider="openai")
        for price, (since, until) in zip(("0.05", "0.07", "0.06"), pairwise(turns), strict=True):
            await insert(connection, "model_prices", model_id="turning", currency="USD", valid_from=since, valid_to=until,
                         input_price_per_1k=Decimal(price), output_price_per_1k=Decimal("0.03"))  # fmt: skip
    events = [event(HOUR - timedelta(hours=7 * n), model_id="turning", app_id="chat") for n in range(1, 20)]
    await use(database_pool, ada.subscription_id, *events)
    for by in ("provider", "key", "app"):
        by_hour = await ask(client, ada, days=30, group_by=by)
        async with unkept(database_pool):
            by_event = await ask(client, ada, days=30, group_by=by)
            asked = {"days": 93, "group_by": by}
            refused = await client.get("/api/v1/analytics/usage", params=asked, headers=ada.headers)
        assert by_hour == by_event
        assert sum(item["request_count"] for item in by_hour["items"]) == 23
        # Each has 100 request tokens and 20 response tokens; what the others used is worth 0.0016.
        cents = {0.06: 0, 0.07: 0, 0.05: 0}
        for n in range(1, 20):
            cents[0.06 if 7 * n <= 24 else 0.07 if 7 * n <= 72 else 0.05] += 1
        expected = (
            sum(Decimal(str(price)) * count / 10 for price, count in cents.items())
            + 19 * Decimal("0.0006")
            + Decimal("0.0016")
        )
        assert sum(Decimal(item["total_cost"]) for item in by_hour["items"] if item["total_cost"]) == expected
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "query.days")


async def test_by_key(client: httpx.AsyncClient, ada: Customer) -> None:
    answer = await ask(client, ada, days=2, group_by="key")
    assert {i["group"]: i["request_count"] for i in answer["items"]} == {str(ada.key_id): 2, None: 2}


async def test_today_begins_in_the_time_zone(client: httpx.AsyncClient, ada: Customer) -> None:
    answer = await ask(client, ada, days=1, time_zone="Asia/Tokyo")
    assert answer["start"] == "2026-11-19T15:00:00Z"
    assert [item["request_count"] for item in answer["items"]] == [2]
    assert [i["request_count"] for i in (await ask(client, ada, days=41))["items"]] == [3, 2]


async def test_currencies_are_not_mixed(
    client: httpx.AsyncClient, facts: Facts, ada: Customer, database_pool: Pool
) -> None:
    async with database_pool.acquire() as connection:
        euros = await insert(
            connection, "subscriptions", user_id=ada.user_id, plan_id="basic", status="active", currency="EUR",
            quota_requests=None, quota_tokens=None,
        )  # fmt: skip
    await use(database_pool, euros["id"], event(HOUR))
    for by in ("model", "provider"):
        answer = await ask(client, ada, group_by=by)
        assert {total["currency"]: total["request_count"] for total in answer["totals"]} == {"USD": 4, "EUR": 1}


async def test_an_amount_has_all_its_digits(client: httpx.AsyncClient, ada: Customer, database_pool: Pool) -> None:
    await rate(
        database_pool, ada.user_id, ada.subscription_id, hour=HOUR, amount=Decimal("0.0000000000000000000012345")
    )
    [gpt] = [item for item in (await ask(client, ada))["items"] if item["group"] == "gpt-4o"]
    assert gpt["total_cost"] == "0.0016000000000000000012345"


async def test_others_see_nothing_of_it(client: httpx.AsyncClient, facts: Facts, ada: Customer) -> None:
    bob = await facts.customer()
    for by in ("model", "feature", "provider"):
        answer = await ask(client, bob, group_by=by)
        assert (answer["items"], answer["totals"]) == ([], [])
    root = await facts.customer("admin")
    assert len((await ask(client, root, user_id=ada.user_id, group_by="app", days=2))["items"]) == 2


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"days": 0}, "query.days"),
        ({"days": 367}, "query.days"),
        ({"days": "week"}, "query.days"),
        ({"group_by": "colour"}, "query.group_by"),
        ({"time_zone": "Berlin"}, "query.time_zone"),
    ],
)
async def test_what_cannot_be_asked_names_the_field(
    client: httpx.AsyncClient, ada: Customer, parameters: dict[str, Any], field: str
) -> None:
    answer = await client.get("/api/v1/analytics/usage", params=parameters, headers=ada.headers)
    assert (answer.status_code, [e["field"] for e in answer.json()["errors"]]) == (422, [field])

"""Usage events one by one, by pages that hold still."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.api.database import Database
from services.api.usage.reading import usage_of
from shared.postgres import Pool, create_pool
from tests.integration.api.conftest import NOW
from tests.integration.api.facts import Customer, Facts
from tests.integration.api.reading.usage_facts import event, use
from tests.integration.schema_facts import make_subscription


async def ask(client: httpx.AsyncClient, who: Customer, **parameters: Any) -> dict[str, Any]:
    answer = await client.get("/api/v1/usage/events", params=parameters, headers=who.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def test_an_event_is_shown_whole(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer()
    await use(
        database_pool,
        ada.subscription_id,
        event(NOW, request_id="r-1", app_id="chat", status_code=429, error_message="slow down"),
    )
    [found] = (await ask(client, ada))["items"]
    shown = {
        name: found[name]
        for name in ("request_id", "source", "model_id", "app_id", "status_code", "error_message", "created_at")
    }
    assert shown == {
        "request_id": "r-1", "source": "/gateways/test", "model_id": "gpt-4o", "app_id": "chat", "status_code": 429,
        "error_message": "slow down", "created_at": "2026-11-20T12:00:00Z",
    }  # fmt: skip
    assert (found["quantity"], found["total_tokens"], found["corrects"]) == (1, 120, None)


async def test_pages_hold_still_while_events_come(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer()
    async with database_pool.acquire() as connection:
        second = await make_subscription(connection, ada.user_id)
    for n, subscription in enumerate([ada.subscription_id, second] * 5):
        at = NOW - timedelta(minutes=n // 3)  # some at the same moment
        await use(database_pool, subscription, event(at, request_id=f"r-{n}"))
    seen: list[str] = []
    times: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await ask(client, ada, limit=3, **cursor)
        seen += [item["request_id"] for item in answer["items"]]
        times += [item["created_at"] for item in answer["items"]]
        await use(
            database_pool, ada.subscription_id, event(NOW + timedelta(minutes=1), request_id=f"later-{len(seen)}")
        )
        if answer["next_cursor"] is None:
            break
        cursor = {"cursor": answer["next_cursor"]}
    assert sorted(seen) == sorted(f"r-{n}" for n in range(10))
    assert times == sorted(times, reverse=True)


async def test_filters(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer()
    await use(
        database_pool,
        ada.subscription_id,
        event(NOW, request_id="plain", model_id="mistral-large"),
        event(NOW, request_id="failed", status_code=500, provider="azure"),
        event(NOW - timedelta(days=1), request_id="old", api_key_id=ada.key_id, app_id="chat"),
    )

    async def found(**parameters: Any) -> set[str]:
        return {item["request_id"] for item in (await ask(client, ada, **parameters))["items"]}

    assert await found(outcome="error") == {"failed"}
    assert await found(outcome="success") == {"plain", "old"}
    assert await found(model="mistral-large") == {"plain"}
    assert await found(provider="azure") == {"failed"}
    assert await found(api_key_id=ada.key_id) == {"old"}
    assert await found(app_id="chat") == {"old"}
    assert await found(**{"from": NOW.isoformat()}) == {"plain", "failed"}
    assert await found(to=NOW.isoformat()) == {"old"}
    assert await found(subscription_id=ada.subscription_id) == {"plain", "failed", "old"}


async def test_a_page_reads_no_more_of_a_busy_subscription_than_it_shows(
    facts: Facts, database: str, database_pool: Pool
) -> None:
    ada, many, limit = await facts.customer(), 5_000, 51
    await use(database_pool, ada.subscription_id, event(NOW, request_id="r-0"))
    await database_pool.execute(
        """INSERT INTO usage_logs (created_at, id, subscription_id, batch_id, model_id, source, request_id)
           SELECT created_at - n * interval '1 second', md5(n::text)::uuid, subscription_id, batch_id, model_id, source, 'r-' || n
           FROM usage_logs, generate_series(1, $1) n WHERE subscription_id = $2""",
        many,
        ada.subscription_id,
    )
    await database_pool.execute("ANALYZE usage_logs")
    pool = await create_pool(database, application_name="tests", role="tallystick_api")
    try:
        async with usage_of(Database(pool), ada.principal, ada.user_id) as usage:
            found = await usage.newest([None] * 5, None, None, [None, None], limit)
            read = await usage.connection.fetchval(
                "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_all_tables WHERE relname LIKE 'usage_logs_%'"
            )
    finally:
        await pool.close()
    assert [row["request_id"] for row in found] == [f"r-{n}" for n in range(limit)]
    assert limit <= read < 5 * limit


async def test_only_ones_own(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada, bob, root = await facts.customer(), await facts.customer(), await facts.customer("finance")
    await use(database_pool, ada.subscription_id, event(NOW, request_id="r-1"))
    assert (await ask(client, bob))["items"] == []
    assert len((await ask(client, root, user_id=ada.user_id))["items"]) == 1
    others = await client.get(
        "/api/v1/usage/events", params={"subscription_id": str(ada.subscription_id)}, headers=bob.headers
    )
    assert others.status_code == 404
    whose = await client.get("/api/v1/usage/events", headers=root.headers)
    assert (whose.status_code, whose.json()["errors"][0]["field"]) == (422, "query.user_id")


async def test_a_cursor_is_of_its_query(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada, bob = await facts.customer(), await facts.customer()
    await use(database_pool, ada.subscription_id, *(event(NOW, request_id=f"r-{n}") for n in range(3)))
    cursor = (await ask(client, ada, limit=1))["next_cursor"]
    for who, parameters in ((ada, {"outcome": "error"}), (bob, {})):
        answer = await client.get("/api/v1/usage/events", params={"cursor": cursor, **parameters}, headers=who.headers)
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:tallystick:problem:malformed")
        assert "another query" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("parameters", "status", "named"),
    [
        ({"from": "2026-11-02T00:00:00Z", "to": "2026-11-01T00:00:00Z"}, 422, "query.from"),
        ({"from": "2026-11-02 00:00"}, 422, "query.from"),
        ({"limit": 501}, 422, "query.limit"),
        ({"limit": 0}, 422, "query.limit"),
        ({"model": "a\0b"}, 422, "query.model"),
        ({"outcome": "maybe"}, 422, "query.outcome"),
        ({"cursor": "AAAA"}, 400, "cursor"),
        ({"cursor": "ä"}, 400, "cursor"),
    ],
)
async def test_what_cannot_be_asked_is_named(
    client: httpx.AsyncClient, facts: Facts, parameters: dict[str, Any], status: int, named: str
) -> None:
    ada = await facts.customer()
    answer = await client.get("/api/v1/usage/events", params=parameters, headers=ada.headers)
    assert answer.status_code == status
    assert named in answer.json()["detail"]

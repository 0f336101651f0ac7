"""Entitlements over HTTP: from the database, right soon after it changed, and from what was published while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from fastapi import FastAPI

from services.aggregator.status import StatusPublisher
from services.api.app import build
from services.api.entitlements import store
from services.api.settings import Settings
from services.api.state import State
from shared.ids import uuid7
from shared.kafka import create_topics
from shared.outbox import Message
from shared.postgres import Pool, create_pool
from tests.integration.aggregator_facts import Aggregator, Published
from tests.integration.api.conftest import WITHOUT_RATE_LIMITS
from tests.integration.api.facts import Customer, Facts
from tests.unit.aggregator.facts import delta, recorded

PATH = "/api/v1/entitlements"


@pytest.fixture
async def gateway(facts: Facts) -> Customer:
    return await facts.customer("service")


@pytest.fixture
async def ada(facts: Facts) -> Customer:
    return await facts.customer(quota_requests=5, quota_tokens=100)


def state(app: FastAPI) -> State:
    return app.state.tallystick  # type: ignore[no-any-return]


async def ask(client: httpx.AsyncClient, who: Customer, subscription: UUID, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"{PATH}/{subscription}", headers=who.headers, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def check(client: httpx.AsyncClient, who: Customer, **body: Any) -> httpx.Response:
    return await client.post(
        f"{PATH}/check",
        headers=who.headers,
        json={n: str(v) if isinstance(v, UUID) else v for n, v in body.items()},
    )


async def test_the_answer_tells_what_remains_and_what_is_held(
    client: httpx.AsyncClient, facts: Facts, gateway: Customer, ada: Customer
) -> None:
    await Aggregator(facts.pool).apply(recorded(delta(ada.subscription_id, tokens=30)))
    reserved = await client.post("/api/v1/reservations", json={"tokens": 50}, headers=ada.headers)
    assert reserved.status_code == 201
    for who in (gateway, ada):
        found = await ask(client, who, ada.subscription_id)
        assert found == {
            "subscription": str(ada.subscription_id),
            "allowed": True,
            "status": "active",
            "reasons": [],
            "remaining": {"requests": 3, "tokens": 20, "credits": None, "concurrent": 199},
            "held": {"reservations": 1, "requests": 1, "tokens": 50, "credits": "0"},
            "reset_at": None,
            "as_of": "2026-11-20T12:00:00Z",
            "source": "database",
            "api_key": None,
        }


async def test_who_is_suspended_is_refused_a_moment_later(
    client: httpx.AsyncClient, app: FastAPI, facts: Facts, ada: Customer
) -> None:
    assert (await ask(client, ada, ada.subscription_id))["allowed"]
    await Aggregator(facts.pool).apply(recorded(delta(ada.subscription_id, requests=5)))
    assert (await ask(client, ada, ada.subscription_id))["allowed"], "from memory"
    facts.clock.at += timedelta(seconds=2)
    found = await ask(client, ada, ada.subscription_id)
    assert (found["allowed"], found["status"], found["reasons"]) == (False, "suspended", ["quota_requests"])

    await facts.pool.execute("UPDATE subscriptions SET quota_requests = 6 WHERE id = $1", ada.subscription_id)
    await publish(facts.pool, app)
    assert (await ask(client, ada, ada.subscription_id))["allowed"], "a status says that the database has changed"


async def test_nothing_is_told_of_others(
    client: httpx.AsyncClient, facts: Facts, gateway: Customer, ada: Customer
) -> None:
    bob = await facts.customer()
    for who, subscription in ((bob, ada.subscription_id), (gateway, uuid7())):
        answer = await client.get(f"{PATH}/{subscription}", headers=who.headers)
        assert answer.status_code == 404
    assert (await check(client, bob, api_key_id=ada.key_id)).status_code == 404
    query = {"api_key_id": str(bob.key_id)}
    assert (await client.get(f"{PATH}/{ada.subscription_id}", headers=ada.headers, params=query)).status_code == 404


async def test_a_key_is_counted_by_the_minute_and_told_so_in_headers(
    client: httpx.AsyncClient, facts: Facts, gateway: Customer, ada: Customer
) -> None:
    key, _ = await facts.key(ada.subscription_id, quota_requests_per_minute=2)
    hash_ = await facts.pool.fetchval("SELECT key_hash FROM api_keys WHERE id = $1", key)
    looked = await check(client, gateway, api_key_hash=hash_, count=False)
    answers = [await check(client, gateway, api_key_hash=hash_) for _ in range(3)]
    assert [a.json()["api_key"]["remaining_this_minute"] for a in (looked, *answers)] == [2, 1, 0, 0]
    assert [a.json()["allowed"] for a in answers] == [True, True, False]
    assert answers[-1].json()["reasons"] == ["rate_limited"]
    assert [answers[0].headers[f"ratelimit-{name}"] for name in ("limit", "remaining", "reset")] == ["2", "1", "60"]
    assert int(answers[-1].headers["retry-after"]) > 0
    facts.clock.at += timedelta(minutes=2)
    assert (await check(client, gateway, api_key_hash=hash_)).json()["allowed"]


async def test_a_key_is_judged_by_its_day_and_by_whether_it_is_revoked(
    client: httpx.AsyncClient, facts: Facts, gateway: Customer, ada: Customer
) -> None:
    key, _ = await facts.key(ada.subscription_id, quota_requests_per_day=2)
    today = facts.clock.now().replace(minute=0)
    await Aggregator(facts.pool).apply(recorded(delta(ada.subscription_id, requests=2, api_key_id=key, hour=today)))
    found = await ask(client, gateway, ada.subscription_id, api_key_id=str(key))
    assert (found["reasons"], found["api_key"]["remaining_today"]) == (["key_requests_per_day"], 0)
    await facts.pool.execute("UPDATE api_keys SET is_active = false WHERE id = $1", key)
    facts.clock.at += timedelta(days=1)
    assert (await ask(client, gateway, ada.subscription_id, api_key_id=str(key)))["reasons"] == ["key_inactive"]


async def test_while_postgres_is_away_the_last_that_is_known_answers(
    client: httpx.AsyncClient, app: FastAPI, facts: Facts, gateway: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, published, unknown = [await facts.customer() for _ in range(3)]
    await ask(client, gateway, seen.subscription_id)
    await facts.pool.execute("UPDATE subscriptions SET quota_requests = 0 WHERE id = $1", published.subscription_id)
    await publish(facts.pool, app, published.subscription_id)

    async def away(*_: Any) -> Any:
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(state(app).entitlements._standings, "_load", away)
    monkeypatch.setattr(state(app).entitlements._keys, "_load", away)
    facts.clock.at += timedelta(minutes=5)
    remembered = await ask(client, gateway, seen.subscription_id)
    assert (remembered["source"], remembered["as_of"], remembered["allowed"]) == (
        "database",
        "2026-11-20T12:00:00Z",
        True,
    )
    told = await ask(client, gateway, published.subscription_id)
    assert (told["source"], told["allowed"], told["reasons"], told["held"]) == (
        "status",
        False,
        ["quota_requests"],
        None,
    )
    assert told["remaining"] == {"requests": 0, "tokens": None, "credits": None, "concurrent": None}
    answer = await client.get(f"{PATH}/{unknown.subscription_id}", headers=gateway.headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")

    await facts.pool.execute("UPDATE subscriptions SET quota_requests = 0 WHERE id = $1", seen.subscription_id)
    await publish(facts.pool, app, seen.subscription_id)
    newer = await ask(client, gateway, seen.subscription_id)
    assert (newer["source"], newer["allowed"]) == ("status", False), "what was published since is younger"

    monkeypatch.undo()
    facts.clock.at += timedelta(seconds=2)
    assert (await ask(client, gateway, unknown.subscription_id))["source"] == "database"


async def test_what_many_ask_for_at_once_is_one_query(
    app: FastAPI, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [await facts.customer() for _ in range(5)]
    queries: list[int] = []
    loaded = store.standings

    async def counted(pool: Pool, ids: Any, now: Any) -> Any:
        queries.append(len(ids))
        return await loaded(pool, ids, now)

    entitlements = state(app).entitlements
    pool = entitlements._standings._load.args[0]  # type: ignore[attr-defined]
    monkeypatch.setattr(entitlements._standings, "_load", lambda ids, now: counted(pool, ids, now))
    asked = [person.subscription_id for person in people] * 20
    found = await asyncio.gather(*(entitlements.verdict(subscription) for subscription in asked))
    assert [verdict and verdict.subscription_id for verdict in found] == asked
    assert queries == [5]


async def publish(pool: Pool, app: FastAPI, *only: UUID) -> None:
    """Publish what has changed, and let the application read it (of some subscriptions only, if they are named)."""
    published = Published()
    aggregator = Aggregator(pool)
    await StatusPublisher(aggregator.pool, published, aggregator.clock, seconds=1).publish()
    for message in published.messages:
        if not only or UUID((message.key or b"").decode()) in only:
            state(app).entitlements.statuses.apply(message.value)


class Producer:
    """Publishes messages of an outbox to a broker."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._producer, self._prefix = AIOKafkaProducer(bootstrap_servers=bootstrap), prefix

    async def __aenter__(self) -> Producer:
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def __call__(self, messages: Sequence[Message]) -> None:
        for message in messages:
            await self._producer.send_and_wait(self._prefix + message.topic, message.value, key=message.key)


async def test_statuses_are_read_from_the_beginning_and_as_they_come(
    database: str, kafka_bootstrap: str, topic_prefix: str, facts: Facts, ada: Customer
) -> None:
    await create_topics(kafka_bootstrap, partitions=2, prefix=topic_prefix)
    settings: Any = {
        "database_url": database, "kafka_bootstrap_servers": kafka_bootstrap, "kafka_topic_prefix": topic_prefix, **WITHOUT_RATE_LIMITS
    }  # fmt: skip
    pool = await create_pool(database, application_name="tests", role="tallystick_api")
    app = build(Settings(**settings), pool, facts.clock)
    statuses, aggregator = state(app).entitlements.statuses, Aggregator(facts.pool)
    async with Producer(kafka_bootstrap, topic_prefix) as produce, app.router.lifespan_context(app):
        publisher = StatusPublisher(aggregator.pool, produce, aggregator.clock, seconds=1)
        for quota in (7, 0):
            await facts.pool.execute(
                "UPDATE subscriptions SET quota_requests = $2 WHERE id = $1", ada.subscription_id, quota
            )
            await publisher.publish()
            async with asyncio.timeout(30):
                while (status := statuses.get(ada.subscription_id)) is None or status.remaining.requests != quota:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert status is not None
        assert (status.status, status.reasons) == ("suspended", ["quota_requests"])
    await pool.close()

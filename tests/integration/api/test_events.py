"""Usage events over HTTP, with a real broker behind: who may report what, what is told of each event, and what arrives."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest
import pytest_asyncio
import zstandard
from confluent_kafka import KafkaError, KafkaException, Producer
from prometheus_client import REGISTRY

from deploy.local import ports
from services.api.events import publishing
from shared.contracts import USAGE_EVENTS
from shared.errors import ConfigurationError
from shared.ids import uuid7
from shared.postgres import Pool
from tests.conftest import CreateTopic
from tests.integration.api.conftest import NOW
from tests.integration.api.facts import Customer, Facts
from tests.integration.api.kafka import Way, way
from tests.unit.ingest.events import document, structured, void

ONE, MANY = "application/cloudevents+json", "application/cloudevents-batch+json"


@pytest_asyncio.fixture
async def api(
    database: str, kafka_bootstrap: str, topic_prefix: str, create_topic: CreateTopic, facts: Facts
) -> AsyncIterator[Way]:
    await create_topic(USAGE_EVENTS, partitions=3)
    async with way(database, kafka_bootstrap, topic_prefix, facts.clock) as found:
        yield found


def event(**attributes: Any) -> dict[str, Any]:
    """An event of the moment at which the application's clock stands, of nobody unless somebody is named."""
    return document(**{"subject": ..., "time": NOW.isoformat(), **attributes})


async def send(api: Way, who: Customer, body: Any, kind: str = MANY, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await api.client.post(
        "/api/v1/events", content=content, headers={**who.headers, "Content-Type": kind, **headers}
    )


async def test_a_tenant_reports_its_own_usage_and_nobody_elses(api: Way, facts: Facts) -> None:
    ada, bob = await facts.customer(), await facts.customer()
    answer = await send(
        api, ada, [event(id="1"), event(id="2", subject=str(bob.subscription_id)), event(id="3", time="yesterday")]
    )
    assert answer.status_code == 200
    told = answer.json()
    assert (told["accepted"], told["duplicates"], told["rejected"]) == (1, 0, 2)
    assert [(r["index"], r["id"], r["status"], r.get("reason")) for r in told["results"]] == [
        (0, "1", "accepted", None), (1, "2", "rejected", "not_yours"), (2, "3", "rejected", "invalid_value"),
    ]  # fmt: skip
    assert "time" in told["results"][2]["detail"]
    ((key, stored),) = await api.published()
    assert key == stored["subject"] == str(ada.subscription_id)
    assert stored["data"]["api_key_id"] == str(ada.key_id)
    assert stored["source"] == f"/subscriptions/{ada.subscription_id}/gateways/eu-1"


async def test_a_gateway_names_whose_usage_it_is_by_any_of_three_names(
    api: Way, facts: Facts, database_pool: Pool
) -> None:
    gateway, ada = await facts.customer("service"), await facts.customer()
    key_hash = await database_pool.fetchval("SELECT key_hash FROM api_keys WHERE id = $1", ada.key_id)
    unknown = str(uuid7())
    answer = await send(
        api,
        gateway,
        [
            event(id="1", subject=str(ada.subscription_id)),
            event(id="2", data={"api_key_id": str(ada.key_id)}),
            event(id="3", data={"api_key_hash": key_hash}),
            event(id="4", subject=unknown),  # nobody yet: held until it is there
            event(id="5"),
            event(id="6", subject=str(gateway.subscription_id), data={"api_key_id": str(ada.key_id)}),
            event(id="7", subject="ada"),
            json.loads(void("1", time=NOW.isoformat())),
        ],
    )
    told = answer.json()["results"]
    assert [r.get("reason", r["status"]) for r in told] == [
        *["accepted"] * 4, "nobody_named", "key_mismatch", "invalid_value", "accepted",
    ]  # fmt: skip
    published = {stored["id"]: (key, stored["source"]) for key, stored in await api.published()}
    own = str(ada.subscription_id)
    assert published == {
        **dict.fromkeys("123", (own, "/gateways/eu-1")), "4": (unknown, "/gateways/eu-1"), "void-1": (None, "/gateways/eu-1")
    }  # fmt: skip


async def test_one_event_that_is_refused_is_a_problem(api: Way, facts: Facts) -> None:
    answer = await send(api, await facts.customer(), event(id="1", specversion="0.3"), ONE)
    assert answer.status_code == 422
    told = answer.json()
    assert told["type"] == "urn:tallystick:problem:invalid-request"
    assert told["detail"].startswith("unknown_version: specversion '0.3' is not known here")
    assert told["results"] == [
        {"index": 0, "id": "1", "status": "rejected", "reason": "unknown_version", "detail": told["detail"].partition(": ")[2]}
    ]  # fmt: skip
    assert await api.published() == []


async def test_all_three_modes_and_both_encodings_arrive_alike(api: Way, facts: Facts) -> None:
    ada = await facts.customer("service")
    named = {"subject": str(ada.subscription_id)}
    binary = event(id="binary", **named)
    data = json.dumps(binary.pop("data")).encode()
    answers = [
        await send(api, ada, event(id="one", **named), ONE),
        await send(api, ada, event(id="plain", **named), "application/json"),
        await send(api, ada, gzip.compress(json.dumps([event(id="many", **named)]).encode()), MANY, **{"Content-Encoding": "gzip"}),
        await send(api, ada, zstandard.compress(json.dumps(event(id="zstd", **named)).encode()), ONE, **{"Content-Encoding": "zstd"}),
        await send(api, ada, data, "application/json", **{f"ce-{name}": str(value) for name, value in binary.items()}),
    ]  # fmt: skip
    assert [answer.json()["accepted"] for answer in answers] == [1] * 5
    stored = {found["id"]: found for _, found in await api.published()}
    assert stored.keys() == {"one", "plain", "many", "zstd", "binary"}
    assert all(found | {"id": ""} == stored["one"] | {"id": ""} for found in stored.values())


async def test_an_event_that_came_a_moment_ago_is_told_and_left_to_the_pipeline(api: Way, facts: Facts) -> None:
    ada = await facts.customer()
    first = await send(api, ada, [event(id="1"), event(id="1"), event(id="2")])
    assert [r["status"] for r in first.json()["results"]] == ["accepted", "duplicate", "accepted"]
    again = await send(api, ada, event(id="2"), ONE)
    assert again.json()["results"] == [{"index": 0, "id": "2", "status": "duplicate"}]
    assert again.json()["duplicates"] == 1
    assert len(await api.published()) == 4


async def test_an_idempotency_key_stands_for_one_body(api: Way, facts: Facts) -> None:
    ada, bob = await facts.customer(), await facts.customer()
    key = {"Idempotency-Key": "order-1"}
    first, again = [await send(api, ada, [event(id="1")], **key) for _ in range(2)]
    assert first.json() == again.json()
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    other = await send(api, ada, [event(id="2")], **key)
    assert (other.status_code, other.json()["type"]) == (422, "urn:tallystick:problem:idempotency-key-reused")
    assert (await send(api, bob, [event(id="2")], **key)).status_code == 200, "each credential has its own keys"
    assert len(await api.published()) == 2


async def test_a_hash_of_anothers_key_is_refused_and_an_unknown_one_kept(
    api: Way, facts: Facts, database_pool: Pool
) -> None:
    ada, bob = await facts.customer(), await facts.customer()
    hashes = {
        who.key_id: await database_pool.fetchval("SELECT key_hash FROM api_keys WHERE id = $1", who.key_id)
        for who in (ada, bob)
    }
    answer = await send(
        api,
        ada,
        [
            event(id=str(number), data={"api_key_hash": key_hash})
            for number, key_hash in enumerate([hashes[bob.key_id], hashes[ada.key_id], "of-litellm"])
        ],
    )
    assert [r.get("reason", r["status"]) for r in answer.json()["results"]] == ["not_yours", "accepted", "accepted"]
    assert [stored["data"]["metadata"]["api_key_hash"] for _, stored in await api.published()] == [
        hashes[ada.key_id], "of-litellm",
    ]  # fmt: skip


async def test_usage_is_reported_while_the_database_is_away(api: Way, facts: Facts) -> None:
    gateway, ada = await facts.customer("service"), await facts.customer()
    for who in (gateway, ada):
        assert (await send(api, who, [])).json() == {"accepted": 0, "duplicates": 0, "rejected": 0, "results": []}
    await api.app.state.tallystick.database.pool.close()
    by_gateway = await send(api, gateway, [event(id="1", subject=str(ada.subscription_id)), event(id="2", subject="x")])
    assert [r.get("reason", r["status"]) for r in by_gateway.json()["results"]] == ["accepted", "invalid_value"]
    assert (await send(api, ada, [event(id="3")])).json()["accepted"] == 1
    assert {key for key, _ in await api.published()} == {str(ada.subscription_id)}
    unsure = await send(api, ada, [event(id="4", data={"api_key_hash": "of whom?"})])
    assert unsure.status_code == 503


async def test_a_broker_that_is_away_is_a_503_in_time_and_nothing_is_said_to_be_there(
    database: str, facts: Facts
) -> None:
    ada = await facts.customer()
    async with way(database, f"127.0.0.1:{ports.choose()}", "", facts.clock, api_ack_seconds=0.3) as api:
        for _ in range(2):
            answer = await send(api, ada, [event(id="1")], **{"Idempotency-Key": "1"})
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert answer.json()["type"] == "urn:tallystick:problem:unavailable"
            assert "did not acknowledge all events within 0.3 s" in answer.json()["detail"]


async def test_more_than_may_wait_is_refused_at_once(database: str, facts: Facts) -> None:
    ada = await facts.customer()
    away = f"127.0.0.1:{ports.choose()}"
    async with way(database, away, "", facts.clock, api_ack_seconds=1, api_events_waiting=5) as api:
        waiting = partial(REGISTRY.get_sample_value, "tallystick_api_events_waiting")
        many = [event(id=str(number)) for number in range(10)]
        first = asyncio.create_task(send(api, ada, many))  # the first one may be larger, else it would never get in
        async with asyncio.timeout(10):
            while not waiting():  # noqa: ASYNC110 (a gauge is all that tells of it)
                await asyncio.sleep(0)
        second = await send(api, ada, many[:1])
        assert (second.status_code, second.headers["retry-after"]) == (503, "1")
        assert not first.done()
        assert (await first).status_code == 503


async def test_a_topic_that_is_not_there_is_told(
    database: str, kafka_bootstrap: str, topic_prefix: str, facts: Facts
) -> None:
    ada = await facts.customer()
    async with way(database, kafka_bootstrap, topic_prefix, facts.clock, api_ack_seconds=0.5) as api:
        answer = await send(api, ada, [event(id="1")])
        assert answer.status_code == 503


async def test_a_record_that_the_topic_does_not_take_is_rejected_alone(
    database: str, kafka_bootstrap: str, topic_prefix: str, create_topic: CreateTopic, facts: Facts
) -> None:
    await create_topic(USAGE_EVENTS, config={"max.message.bytes": "2000"})
    ada = await facts.customer()
    async with way(database, kafka_bootstrap, topic_prefix, facts.clock) as api:
        large = event(id="1", data={"metadata": {str(n): "x" * 90 for n in range(30)}})
        told = (await send(api, ada, [large])).json()["results"]
        assert [(r["status"], r.get("reason")) for r in told] == [("rejected", "too_large")]
        assert (await send(api, ada, [event(id="2")])).json()["accepted"] == 1, "and the next one goes through"


NO_REQUESTS: list[tuple[bytes, dict[str, str], str]] = [
    (b"[{]", {}, "malformed"),
    (b"[" + b"{}," * 1_000 + b"{}]", {}, "payload-too-large"),
    (b"x" * 5_000_000, {}, "payload-too-large"),
    (zstandard.compress(bytes(20_000_000)), {"Content-Encoding": "zstd"}, "payload-too-large"),
    (b"{}", {"Content-Type": "text/plain"}, "unsupported-media-type"),
    (b"{}", {"Content-Encoding": "br"}, "unsupported-media-type"),
    (b"[]", {"Idempotency-Key": "x" * 256}, "invalid-request"),
]


async def test_what_is_no_request_is_refused_as_a_whole(database: str, facts: Facts) -> None:
    ada = await facts.customer()
    async with way(database, "127.0.0.1:1", "", facts.clock) as api:
        answers = [await send(api, ada, content, **headers) for content, headers, _ in NO_REQUESTS]
        nobody = await api.client.post("/api/v1/events", content=structured(), headers={"Content-Type": ONE})
    assert [answer.json()["type"] for answer in (*answers, nobody)] == [
        f"urn:tallystick:problem:{kind}" for kind in (*(kind for *_, kind in NO_REQUESTS), "unauthenticated")
    ]


async def test_a_producer_that_its_library_gives_up_is_replaced(
    api: Way, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    class GivenUp(Producer):
        def produce(self, *_arguments: Any) -> None:
            raise KafkaException(KafkaError(KafkaError._FATAL, "out of order", fatal=True))

    ada = await facts.customer()
    with monkeypatch.context() as broken:
        broken.setattr(publishing, "Producer", GivenUp)
        api.app.state.tallystick.events.start()
        assert (await send(api, ada, [event(id="1")])).status_code == 503
    assert (await send(api, ada, [event(id="1")])).json()["accepted"] == 1
    assert len(await api.published()) == 1


def test_settings_that_librdkafka_does_not_take_stop_the_start() -> None:
    publisher = publishing.Publisher(
        "127.0.0.1:1", "topic", security={"ssl.ca.location": "/nowhere", "security.protocol": "ssl"},
        ack_seconds=1, most_waiting=1, record_bytes=1,
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"settings for Kafka are not usable.*ssl.ca.location"):
        publisher.start()

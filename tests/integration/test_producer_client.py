"""The client delivers what it recorded, once, whatever becomes of the API and of its own process; over HTTP here, over Kafka at the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaConsumer

from tallystick.client import AsyncClient, Client
from tallystick.entitlements import Entitlements
from tallystick.errors import ApiAway, ApiError, DeliveryError, InvalidEvent, LimitExceeded, ProducerError
from tallystick.spool import Limits, Spool
from tallystick.transports import Rejection
from tallystick.transports.kafka import KafkaTransport, config_from_environment
from tallystick.web import Web
from tests.conftest import CreateTopic
from tests.usage_api import BREAK_OFF, Request, Said, UsageApi, usage_api

KEY: Final = "tsk_test"
USED: Final[dict[str, Any]] = {
    "subscription": "019a2f6e-0c5b-7d10-9f5e-1b8c7c3a2d41",
    "model": "gpt-4o",
    "request_tokens": 12,
}


@pytest.fixture
def api() -> Iterator[UsageApi]:
    with usage_api() as running:
        yield running


def client_of(api: UsageApi, spool: Path | Spool, **options: Any) -> Client:
    return Client.over_http(api.url, KEY, source="/gateways/test", spool=spool, **options)


def ids(api: UsageApi) -> set[str]:
    return {event_id for _, event_id in api.events}


def test_what_is_recorded_arrives(api: UsageApi, tmp_path: Path) -> None:
    with client_of(api, tmp_path) as client:
        recorded = {client.record(**USED, response_tokens=number) for number in range(2500)}
        client.flush()
        assert (client.delivery.delivered, client.spool.waiting_bytes) == (2500, 0)

    assert ids(api) == recorded
    headers = api.requests[0].headers
    assert (headers["authorization"], headers["content-type"]) == (
        f"Bearer {KEY}",
        "application/cloudevents-batch+json",
    )
    assert {len(request.content) for request in api.requests} != {1}, "in batches"


def test_a_bad_event_is_refused_where_it_is_made(api: UsageApi, tmp_path: Path) -> None:
    with client_of(api, tmp_path) as client, pytest.raises(InvalidEvent, match=r"data\.cached_tokens: 13 of 12"):
        client.record(**USED, cached_tokens=13)


@pytest.mark.parametrize(
    "trouble",
    [
        Said(503, {"detail": "the broker is away"}, {"Retry-After": "0"}),
        Said(BREAK_OFF),
        Said(401, {"detail": "who are you?"}),
        Said(429),
        Said(500),
        Said(404),
        Said(200, {"something": "else"}),
    ],
    ids=str,
)
def test_trouble_delays_and_loses_nothing(api: UsageApi, tmp_path: Path, trouble: Said) -> None:
    api.next_answers = [trouble, trouble]
    with client_of(api, tmp_path) as client:
        recorded = {client.record(**USED) for _ in range(10)}
        client.flush()
        assert client.delivery.failures == 2
        assert client.delivery.problem is None

    assert ids(api) == recorded


@pytest.mark.parametrize(
    ("said", "told"),
    [(Said(401), "set another one"), (Said(403), "role `service`"), (Said(503, {"detail": "no broker"}), "no broker")],
)
def test_what_does_not_pass_is_explained_and_waits_for_the_next_client(
    api: UsageApi, tmp_path: Path, said: Said, told: str
) -> None:
    api.otherwise = lambda _: said
    client = client_of(api, tmp_path)
    recorded = client.record(**USED)
    api.until(lambda: len(api.requests) >= 1)
    with pytest.raises(DeliveryError, match=told):
        client.flush(0.3)
    client.close(0)
    api.otherwise = lambda _: None

    with client_of(api, tmp_path) as client:
        client.flush()

    assert ids(api) == {recorded}


def test_one_bad_event_stops_no_other_and_is_kept_with_its_reason(api: UsageApi, tmp_path: Path) -> None:
    rejected: list[Rejection] = []
    spool = Spool(tmp_path)
    spool.append(b"key\n" + json.dumps({"specversion": "1.0", "id": "broken"}).encode())
    with client_of(api, spool, on_rejected=rejected.append) as client:
        recorded = {client.record(**USED) for _ in range(3)}
        client.flush()
        assert (client.delivery.delivered, client.delivery.rejected) == (3, 1)

    assert ids(api) == recorded
    assert [rejection.reason for rejection in rejected] == ["missing_field"]
    (kept,) = map(json.loads, (tmp_path / "rejected.jsonl").read_text().splitlines())
    assert (kept["reason"], json.loads(kept["event"])["id"]) == ("missing_field", "broken")


def test_a_batch_that_is_too_large_is_sent_in_parts(api: UsageApi, tmp_path: Path) -> None:
    def refuse_the_large(request: Request) -> Said | None:
        return Said(413) if len(request.content) > 3 or b"huge" in request.body else None

    api.otherwise = refuse_the_large
    with client_of(api, tmp_path) as client:
        recorded = {client.record(**USED) for _ in range(20)}
        client.record(**USED, end_user="huge")
        client.flush()
        assert client.delivery.rejected == 1

    assert ids(api) == recorded


RECORDER: Final = """
import sys
from tallystick.client import Client
client = Client.over_http(sys.argv[1], "tsk_test", source="/gateways/test", spool=sys.argv[2])
for number in range(10**9):
    print(client.record(subscription="s", model="m", event_id=str(number)), flush=True)
"""


def test_sigkill_loses_nothing_that_was_recorded(api: UsageApi, tmp_path: Path) -> None:
    api.otherwise = lambda _: Said(503) if len(api.requests) % 3 == 0 else None
    with subprocess.Popen(
        [sys.executable, "-c", RECORDER, api.url, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as gateway:
        assert gateway.stdout is not None
        recorded = []
        for line in gateway.stdout:
            recorded.append(line.strip())
            if len(recorded) > 500 and api.events:
                gateway.send_signal(signal.SIGKILL)
                break
        recorded += gateway.stdout.read().split()

    with client_of(api, tmp_path) as client:
        client.flush()

    assert ids(api) >= set(recorded)
    assert len(ids(api)) <= len(recorded) + 1, "the one that was recorded when the process ended"


def test_a_full_disk_is_told_to_the_caller(api: UsageApi, tmp_path: Path) -> None:
    api.otherwise = lambda _: Said(503)
    told: list[int] = []
    client = client_of(api, tmp_path, limits=Limits(total_bytes=2000), on_full=told.append)
    with pytest.raises(ProducerError, match="the spool is full"):
        for _ in range(10):
            client.record(**USED)
    assert told == [1]
    client.close(0)


async def test_an_event_loop_records_and_asks_without_waiting(api: UsageApi, tmp_path: Path) -> None:
    async with AsyncClient(client_of(api, tmp_path)) as client:
        recorded = {await client.record(**USED) for _ in range(5)}
        with pytest.raises(InvalidEvent):
            await client.record(model="m")
        await client.flush()
        assert ids(api) == recorded
        with pytest.raises(ApiError, match="Not found"):
            await client.entitlement("s")


# --- entitlements and reservations ---------------------------------------------------------------------------------------

ENTITLEMENT: Final = {
    "subscription": "s-1",
    "allowed": False,
    "status": "suspended",
    "reasons": ["quota_tokens"],
    "remaining": {"requests": None, "tokens": 0, "credits": "1.50"},
    "reset_at": "2026-12-01T00:00:00Z",
    "as_of": "2026-11-27T10:00:00Z",
}
HOLD: Final = {
    "id": "r-1",
    "subscription": "s-1",
    "held": {"tokens": 500},
    "expires_at": "2026-11-27T10:10:00Z",
    "remaining": {"tokens": 7},
}


def test_an_entitlement_says_why_not_and_until_when(api: UsageApi, tmp_path: Path) -> None:
    api.otherwise = lambda request: Said(200, ENTITLEMENT) if "/entitlements/" in request.path else None
    with client_of(api, tmp_path) as client:
        found = client.entitlement("s/1", api_key_id="k")
        by_key = client.entitlements.check(api_key_hash="h")

    assert (found.allowed, found.reasons, found.remaining["credits"]) == (False, ("quota_tokens",), "1.50")
    assert found.reset_at is not None
    assert found.reset_at.isoformat() == "2026-12-01T00:00:00+00:00"
    assert by_key == found
    assert [request.path for request in api.requests] == [
        "/api/v1/entitlements/s%2F1?api_key_id=k",
        "/api/v1/entitlements/check",
    ]
    assert api.requests[1].content == {"api_key_hash": "h", "count": True}


def test_a_reservation_is_settled_by_its_usage_or_cancelled(api: UsageApi, tmp_path: Path) -> None:
    api.otherwise = lambda request: (
        Said(201, HOLD) if request.path == "/api/v1/reservations" else Said(204) if request.method == "DELETE" else None
    )
    with client_of(api, tmp_path) as client:
        with client.reserve(subscription="s-1", tokens=500, idempotency_key="once") as reservation:
            reservation.settle(model="m", request_tokens=400)
        with pytest.raises(ZeroDivisionError), client.reserve(subscription="s-1", tokens=500):
            raise ZeroDivisionError
        client.flush()

    (event,) = api.events.values()
    assert (event["subject"], event["data"]["reservation_id"]) == ("s-1", "r-1")
    asked = [request for request in api.requests if "reservations" in request.path]
    assert asked[0].headers["idempotency-key"] == "once"
    assert asked[0].content == {"subscription": "s-1", "requests": 1, "tokens": 500, "ttl_seconds": 600}
    assert [request.path for request in asked if request.method == "DELETE"] == ["/api/v1/reservations/r-1"]


def test_refusals_and_silence_are_told_apart(api: UsageApi, tmp_path: Path) -> None:
    refused = {"type": "urn:tallystick:problem:limit-exceeded", "detail": "no tokens left", "reasons": ["quota_tokens"]}
    api.next_answers = [
        Said(409, refused),
        Said(503, {"detail": "later"}, {"Retry-After": "2"}),
        Said(403, {"detail": "not yours"}),
    ]
    with client_of(api, tmp_path) as client:
        with pytest.raises(LimitExceeded, match="no tokens left") as limit:
            client.reserve(tokens=1)
        with pytest.raises(ApiAway, match="later") as away:
            client.reserve(tokens=1)
        with pytest.raises(ApiError, match="not yours"):
            client.reserve(tokens=1)
    assert (limit.value.reasons, away.value.retry_after) == (("quota_tokens",), 2.0)
    with pytest.raises(ApiAway, match="does not answer"):
        Entitlements(Web("http://127.0.0.1:9", KEY)).entitlement("s")


@pytest.mark.parametrize(
    ("base", "key"),
    [("usage.example.com", KEY), ("ftp://x", KEY), ("https://x", ""), ("https://x", "a b"), ("https://x", "ké")],
)
def test_an_address_or_key_that_cannot_be_right_is_refused(base: str, key: str) -> None:
    with pytest.raises(ProducerError):
        Web(base, key)


# --- Kafka -----------------------------------------------------------------------------------------------------------------


async def test_events_go_to_kafka_keyed_by_subscription(
    kafka_bootstrap: str, create_topic: CreateTopic, tmp_path: Path
) -> None:
    topic = await create_topic("usage.events", partitions=4)
    async with AsyncClient(
        Client.over_kafka(kafka_bootstrap, source="/gateways/test", spool=tmp_path, topic=topic)
    ) as client:
        recorded = {await client.record(model="m", subscription=f"s-{number % 7}") for number in range(300)}
        await client.flush()

    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        found = [await consumer.getone() for _ in range(300)]
    finally:
        await consumer.stop()
    assert {json.loads(record.value)["id"] for record in found} == recorded
    assert all(record.key.decode() == json.loads(record.value)["subject"] for record in found)
    assert dict(found[0].headers)["content-type"] == b"application/cloudevents+json"
    assert len({record.partition for record in found}) > 1


async def test_a_record_that_the_broker_will_never_take_is_rejected(
    kafka_bootstrap: str, create_topic: CreateTopic
) -> None:
    topic = await create_topic("small", config={"max.message.bytes": "2000"})
    transport = KafkaTransport(
        kafka_bootstrap, topic=topic, config={"compression.type": "none", "batch.num.messages": 1}
    )
    huge = b"k\n" + os.urandom(3000).hex().encode()

    rejected = transport.send([b"k\n{}", huge, b"k\n{}"])

    assert [rejection.record for rejection in rejected] == [huge]


def test_the_workers_settings_for_kafka_serve_producers_too(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    environment = {
        "TALLYSTICK_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "TALLYSTICK_KAFKA_USERNAME": "gw",
        "TALLYSTICK_KAFKA_PASSWORD_FILE": str(password),
    }
    assert config_from_environment(environment) == {
        "security.protocol": "SASL_SSL", "sasl.username": "gw", "sasl.password": "secret", "sasl.mechanism": "SCRAM-SHA-512",
    }  # fmt: skip
    with pytest.raises(ProducerError, match="cannot be read"):
        config_from_environment({"TALLYSTICK_KAFKA_PASSWORD_FILE": str(tmp_path / "none")})
    with pytest.raises(ProducerError, match="refused"):
        KafkaTransport("localhost:9", config={"no.such.property": "x"})


# --- the how-to ------------------------------------------------------------------------------------------------------------


def test_what_the_page_shows_works(api: UsageApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.otherwise = lambda request: (
        Said(200, ENTITLEMENT)
        if "/entitlements/" in request.path
        else Said(201, HOLD)
        if "reservations" in request.path
        else None
    )
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "send-events.md").read_text()
    record, ask = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for name, value in {
        "TALLYSTICK_URL": api.url,
        "TALLYSTICK_API_KEY": KEY,
        "SUBSCRIPTION": USED["subscription"],
    }.items():
        monkeypatch.setenv(name, value)
    told = {"subscription": USED["subscription"], "call_the_model": lambda: "an answer"}

    program = record.replace("/var/lib/my-gateway/spool", str(tmp_path)).replace(
        "client.close()", ask + "client.flush()\nclient.close()"
    )
    exec(compile(program, "send-events.md", "exec"), told)  # noqa: S102 – the page's own code

    assert ids(api) >= {"req-7f3c"}
    assert [event["data"].get("reservation_id") for event in api.events.values()] == [None, "r-1"]

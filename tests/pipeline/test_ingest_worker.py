"""An ingest worker as it runs in production: a process, a broker, a database, and what may happen to them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local import ports
from deploy.local.stack import Stack
from services.cli.supervisor import ask
from shared.kafka import create_topics, topic_plan
from shared.postgres import Pool
from tests.integration.aggregator_facts import make_subscription
from tests.pipeline.ingest_worker import Site
from tests.unit.ingest.events import structured

PARTITIONS: Final = 3


@pytest_asyncio.fixture
async def site(
    stack: Stack, database: str, database_pool: Pool, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[Site]:
    """A database and topics of the test's own. Workers that are left are killed, by their process."""
    bootstrap = stack.kafka_bootstrap_servers
    environ = {
        **os.environ,
        "DATABASE_URL": database,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "TALLYSTICK_KAFKA_TOPIC_PREFIX": topic_prefix,
        "PYTHONPATH": str(Path.cwd()),
    }
    await create_topics(bootstrap, partitions=PARTITIONS, prefix=topic_prefix)
    site = Site(environ, database_pool, bootstrap, topic_prefix, tmp_path)
    try:
        yield site
    finally:
        await asyncio.gather(*(worker.kill() for worker in site.workers))
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.delete_topics([topic_prefix + name for name in topic_plan(PARTITIONS)])
        await admin.close()


def event(number: int, subscription: str) -> bytes:
    """An event of this minute that its number tells from all others."""
    at = datetime.now(UTC).replace(microsecond=number % 1_000_000) - timedelta(seconds=30)
    return structured(id=f"req-{number}", subject=subscription, time=at.isoformat(), data={"request_tokens": number})


def mixed(subscription: str, count: int, seed: int) -> list[bytes | None]:
    """`count` events of traffic as it is: one in twenty again, one in twenty of no use."""
    rng, sent = random.Random(seed), list[bytes | None]()
    for number in range(count):
        sent.append(event(seed * 1_000_000 + number, subscription))
        if rng.random() < 0.05:
            sent.append(rng.choice(sent))
        if rng.random() < 0.05:
            sent.append(rng.choice([b"not json", None, b"\xff", b"[" * 10_000, structured(type="other")]))
    return sent


def expected(sent: Sequence[bytes | None]) -> tuple[int, int]:
    """How many of `mixed` are different events, and the sum of their request tokens."""
    tokens = {}
    for value in sent:
        if value and value.startswith(b'{"specversion"') and b'"other"' not in value:
            document = json.loads(value)
            tokens[document["id"]] = document["data"]["request_tokens"]
    return len(tokens), sum(tokens.values())


async def test_a_worker_that_is_killed_and_one_that_joins_count_everything_once(site: Site) -> None:
    subscription = str(await make_subscription(site.pool))
    streams = [mixed(subscription, 3_000, seed) for seed in range(PARTITIONS)]
    published = sum(map(len, streams))
    first = await site.start(0)
    await first.ready()

    async def publish(partition: int, part: slice) -> None:
        await site.send(streams[partition][part], partition=partition)

    await asyncio.gather(*(publish(n, slice(0, 1_000)) for n in range(PARTITIONS)))
    await site.stored(200)
    await first.kill()  # somewhere in its batches
    again = await site.start(0)
    publishing = asyncio.gather(*(publish(n, slice(1_000, None)) for n in range(PARTITIONS)))
    second = await site.start(1)  # its coming takes partitions away from the other, under load
    await asyncio.gather(publishing, again.ready(), second.ready())
    await site.stored(published)

    account = await site.account()
    count, tokens = map(sum, zip(*map(expected, streams), strict=True))
    assert sum(account.values()) == published
    assert account["inserted"] == count
    assert tuple(await site.pool.fetchrow("SELECT count(*), sum(request_tokens)::bigint FROM usage_logs")) == (
        count,
        tokens,
    )
    status, metrics = await ask(again.port, "/metrics")
    assert status == 200
    assert 'usage_ingest_events_total{outcome="inserted"}' in metrics
    assert await ask(again.port, "/livez") == (200, "ok\n")
    assert [await worker.stop() for worker in (again, second)] == [0, 0]
    assert "Traceback" not in again.said() + second.said()
    # What the kill left between COMMIT and publication waits in the outbox for LEFTOVER_SECONDS; all else was announced.
    waiting = await site.pool.fetchval("SELECT count(*) FROM ingest_outbox WHERE topic = 'usage.recorded'")
    announced = await site.announced(PARTITIONS)
    assert len(announced) + waiting >= await site.pool.fetchval("SELECT sum(message_count) FROM usage_batches")
    if not waiting:
        assert sum(message.event_count for message in announced) == count


async def test_nothing_that_a_client_can_send_stops_a_worker(site: Site) -> None:
    subscription = str(await make_subscription(site.pool))
    number = iter(range(1_000))

    def fresh() -> bytes:
        return event(next(number), subscription)

    for codec in ("gzip", "lz4", "snappy", "zstd"):
        await site.send([fresh() for _ in range(20)], compression_type=codec)
    await site.send([fresh()], headers=[(b"trace", b"\xff\xfe"), (b"empty", b""), (b"null", None)])
    await site.send([fresh(), b"bad", None, b""], headers=[(b"a\0b", b"\0")])
    await site.send_raw([(fresh(), []), (fresh(), [(b"caf\xe9", b"1")]), (b"bad", [(b"\xff", None)]), (fresh(), [])])
    async with site.producer(transactional_id=site.prefix + "gateway") as producer:
        async with producer.transaction():
            await producer.send_and_wait(site.topic, fresh(), partition=0)
        aborted = producer.transaction()
        await aborted.__aenter__()
        await producer.send_and_wait(site.topic, fresh(), partition=0)
        await aborted.__aexit__(ValueError, ValueError(), None)
    await site.send([b"x" * 300_000, fresh()])
    worker = await site.start()
    await site.stored(95)

    good = 80 + 1 + 1 + 3 + 1 + 1
    assert await site.account() == {"inserted": good, "quarantined": 5, "gaps": 3}
    refused = await site.pool.fetch(
        "SELECT record_value, record_headers FROM quarantined_events ORDER BY record_offset"
    )
    assert [row["record_value"] and row["record_value"][:3] for row in refused] == [b"bad", None, b"", b"bad", b"xxx"]
    assert json.loads(refused[0]["record_headers"]) == [["a\\u0000b", "AA=="]]
    assert json.loads(refused[3]["record_headers"]) == [["\\xff", None]]

    await site.send([fresh()])
    await site.stored(96)
    assert await worker.stop() == 0
    letters = await site.letters()
    assert [letter.value for letter in letters] == [row["record_value"] for row in refused]
    assert {letter.key for letter in letters} == {b"k"}
    assert dict(letters[0].headers)["tallystick_reason"] == b"not_json"
    said = worker.said()
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if "batch_failed" in line and "OutOfPlace" not in line] == []


MISTAKES: Final = (
    ({"DATABASE_URL": "postgresql://localhost:1/usage"}, "Postgres does not answer at localhost:1/usage"),
    ({"DATABASE_URL": "nonsense"}, "check DATABASE_URL"),
    ({"KAFKA_BOOTSTRAP_SERVERS": "localhost:1"}, "Kafka does not answer at localhost:1"),
    ({"TALLYSTICK_KAFKA_TOPIC_PREFIX": "nobody."}, "Kafka has no topic nobody.usage.events, nobody.usage.recorded, nobody.usage.dead-letter: make"),
    ({"TALLYSTICK_INGEST_LANES": "many"}, "TALLYSTICK_INGEST_LANES: "),
    ({"TALLYSTICK_HTTP_PORT": "taken"}, "Address already in use): set TALLYSTICK_HTTP_PORT"),
)  # fmt: skip


async def test_a_mistake_is_told_in_one_line_and_ends_with_2(site: Site) -> None:
    async def outcome(settings: dict[str, str], taken: int) -> tuple[int | None, str]:
        waits = {"TALLYSTICK_KAFKA_STARTUP_SECONDS": "2"}
        environ = {**site.environ, **waits, "TALLYSTICK_HTTP_PORT": str(ports.choose()), **settings}
        if settings.get("TALLYSTICK_HTTP_PORT") == "taken":
            environ["TALLYSTICK_HTTP_PORT"] = str(taken)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.ingest"),
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    with socket.create_server(("127.0.0.1", 0)) as server:
        found = await asyncio.gather(*(outcome(settings, server.getsockname()[1]) for settings, _ in MISTAKES))

    for (code, said), (settings, told) in zip(found, MISTAKES, strict=True):
        assert (code, said.count("\n")) == (2, 1), (settings, said)
        assert said.startswith("tallystick ingest: ")
        assert told in said


async def test_a_database_without_tables_is_told_what_to_do(site: Site, empty_database: str) -> None:
    worker = await site.start(DATABASE_URL=empty_database, TALLYSTICK_DATABASE_ROLE="none")

    assert await worker.process.wait() == 2
    assert "the database has no tables of Tallystick: make them with 'tallystick migrate' first" in worker.said()


@pytest.mark.parametrize("moment", ["idle", "busy"])
async def test_a_worker_that_is_asked_to_stop_leaves_with_0_and_nothing_undone(site: Site, moment: str) -> None:
    subscription = str(await make_subscription(site.pool))
    worker = await site.start()
    await worker.ready()
    await site.send([event(n, subscription) for n in range(3_000)])
    if moment == "idle":
        await site.stored(3_000)

    assert await worker.stop() == 0

    stored = await site.pool.fetchval("SELECT count(*) FROM usage_logs")
    assert await site.account() == ({"inserted": stored} if stored else {})
    assert "Traceback" not in worker.said()
    if moment == "idle":
        assert sum(message.event_count for message in await site.announced(PARTITIONS)) == stored == 3_000

"""One ingest worker, broker → committed rows and deltas, beside raw COPY of the same rows into the same table.

    python -m benchmarks.ingest [--events 300000] [--rounds 3] [--json FILE]

Raw COPY is the limit: ready-made rows, batches of 10,000 in one transaction each, same table, same indexes, one
connection, nothing decoded, checked or deduplicated. The two alternate in one run on one machine, so believe the ratio
and not the rates. Each round ends with a count: a fast wrong answer is no answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
from confluent_kafka import Producer

from deploy.local.stack import running_stack
from deploy.migrate import migrate
from services.ingest.acceptance import Limits, accept
from services.ingest.deltas import aggregate
from services.ingest.rows import COLUMNS, UsageRow, usage_row
from shared.contracts import USAGE_EVENTS, UsageEvent
from shared.ids import event_key, uuid7
from shared.kafka import create_topics

BATCH = 10_000
SUBSCRIPTIONS = 10_000
SKEW = 1.2
"""Exponent of the zipf distribution of events over subscriptions: few are busy, most are not."""
MODELS = 20
PARTITIONS = 8
DUPLICATES = 0.01


@dataclass(frozen=True)
class Traffic:
    """What is sent (records with their keys, duplicates among them) and what must be stored (rows)."""

    records: list[tuple[bytes, bytes]]
    rows: list[UsageRow]


def traffic(events: int, subscriptions: list[str], seed: int = 1) -> Traffic:
    """Draw about 600 bytes an event, zipf-skewed over subscriptions, 1 % sent twice.

    As in life, a subscription has its power level, its model, and a second model for one event in five.
    """
    draw = random.Random(seed)
    weights = [1 / rank**SKEW for rank in range(1, len(subscriptions) + 1)]
    owners = draw.choices(subscriptions, weights, k=events)
    owner_numbers = {owner: number for number, owner in enumerate(subscriptions)}
    now = datetime.now(UTC)
    records, rows, limits, batch_id = [], [], Limits(), uuid7()
    for number, owner in enumerate(owners):
        habit = owner_numbers[owner]
        event = {
            "specversion": "1.0",
            "id": f"req-{seed}-{number:09d}",
            "source": "/gateways/eu-1",
            "type": "tallystick.usage.v1",
            "time": (now - timedelta(milliseconds=events - number)).isoformat(),
            "subject": owner,
            "data": {
                "model": f"model-{(habit + (draw.random() < 0.2)) % MODELS}",
                "provider": "openai",
                "request_tokens": draw.randint(1, 8_000),
                "response_tokens": draw.randint(1, 2_000),
                "cached_tokens": 0,
                "latency_ms": draw.randint(40, 20_000),
                "status_code": 500 if draw.random() < 0.02 else 200,
                "error_message": None,
                "power_level": ("eco", "balanced", "precision")[habit % 3],
                "byok": False,
                "feature_type": "chat",
                "app_id": "crm",
                "session_id": f"session-{draw.randrange(100_000)}",
                "end_user": f"user-{draw.randrange(100_000)}",
                "metadata": {"region": "eu-central-1", "route": "primary"},
            },
        }
        value = json.dumps(event).encode()
        accepted = accept(value, (), limits, *limits.window(now))
        assert isinstance(accepted, UsageEvent), accepted
        rows.append(usage_row(accepted, event_key(accepted.source, accepted.id), uuid.UUID(owner), None, batch_id))
        records.append((owner.encode(), value))
        if draw.random() < DUPLICATES:
            records.append(records[-1])
    return Traffic(records, rows)


_migrated: dict[str, str] = {}
"""By server, the database that others are copies of: migrating takes ten times as long as copying."""


@contextmanager
def migrated(server: str) -> Iterator[None]:
    """Let `database` copy one that is migrated, for as long as the block runs."""
    name = f"bench_{uuid.uuid4().hex}"
    asyncio.run(_order(server, f"CREATE DATABASE {name}"))
    try:
        asyncio.run(migrate(_url(server, name)))
        _migrated[server] = name
        yield
    finally:
        _migrated.pop(server, None)
        asyncio.run(_order(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _order(server: str, statement: str) -> None:
    admin = await asyncpg.connect(server)
    await admin.execute(statement)
    await admin.close()


def _url(server: str, name: str) -> str:
    return urlsplit(server)._replace(path=f"/{name}").geturl()


@asynccontextmanager
async def database(server: str) -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    """A migrated database of this round's own."""
    admin, name = await asyncpg.connect(server), f"bench_{uuid.uuid4().hex}"
    url = _url(server, name)
    if server in _migrated:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {_migrated[server]}")
    else:
        await admin.execute(f"CREATE DATABASE {name}")
        await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        yield url, connection
    finally:
        await connection.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def raw_copy(server: str, sent: Traffic) -> float:
    """Return events/s of bare COPY."""
    async with database(server) as (_, connection):
        for at in {row.created_at.replace(day=1) for row in sent.rows}:
            await connection.execute("SELECT ensure_usage_partition($1)", at)
        await connection.execute("CHECKPOINT")
        started = time.perf_counter()
        for first in range(0, len(sent.rows), BATCH):
            async with connection.transaction():
                await connection.copy_records_to_table(
                    "usage_logs", records=sent.rows[first : first + BATCH], columns=COLUMNS
                )
        seconds = time.perf_counter() - started
        assert await connection.fetchval("SELECT count(*) FROM usage_logs") == len(sent.rows)
        print(f"raw COPY: {len(sent.rows) / seconds:.0f} events/s", file=sys.stderr)
        return len(sent.rows) / seconds


async def worker(server: str, kafka: str, sent: Traffic, owners: list[str]) -> float:
    """Return events/s of one ingest worker draining a backlog, from its first commit to its last."""
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    await create_topics(kafka, partitions=PARTITIONS, prefix=prefix)
    publish(kafka, prefix + USAGE_EVENTS, sent)
    async with database(server) as (url, connection):
        await insert_owners(connection, owners)
        await connection.execute("CHECKPOINT")
        environment = {**os.environ, "DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": kafka, "TALLYSTICK_KAFKA_TOPIC_PREFIX": prefix,
                       "TALLYSTICK_LOG_LEVEL": "warning", "TALLYSTICK_HTTP_PORT": "19101"}  # fmt: skip
        process = subprocess.Popen(  # noqa: ASYNC220 – nothing else runs in this loop
            [sys.executable, "-m", "services.ingest"], env=environment
        )
        try:
            rate = await measure(connection, len(sent.records), process.pid)
        finally:
            process.terminate()
            process.wait(30)
        row = await connection.fetchrow(
            "SELECT sum(inserted) AS inserted, sum(duplicates) AS duplicates FROM ingest_positions"
        )
        stored = await connection.fetchval("SELECT count(*) FROM usage_logs")
        assert (row["inserted"], stored) == (len(sent.rows), len(sent.rows)), (row, stored)
        assert row["duplicates"] == len(sent.records) - len(sent.rows), row
        return rate


async def measure(connection: asyncpg.Connection, records: int, pid: int) -> float:
    """Poll the positions from the first commit to the last; say what CPU the worker spent between them."""
    process = psutil.Process(pid)
    first: tuple[float, int, float] | None = None
    deadline = time.perf_counter() + 300
    while time.perf_counter() < deadline:
        done = int(await connection.fetchval("SELECT coalesce(sum(next_offset), 0) FROM ingest_positions"))
        if done and first is None:
            first = (time.perf_counter(), done, sum(process.cpu_times()[:2]))
        if done >= records and first is not None:
            events, seconds, cpu = (
                done - first[1],
                time.perf_counter() - first[0],
                sum(process.cpu_times()[:2]) - first[2],
            )
            memory = process.memory_info().rss / 2**20
            print(
                f"worker: {events / seconds:.0f} events/s, {cpu / events * 1e6:.1f} µs of CPU an event, {memory:.0f} MiB",
                file=sys.stderr,
            )
            return events / seconds
        await asyncio.sleep(0.02)
    raise SystemExit("the worker did not catch up within 300 s")


def publish(kafka: str, topic: str, sent: Traffic) -> None:
    """Send everything, as a gateway would: keyed by subscription, acks=all."""
    producer = Producer(
        {"bootstrap.servers": kafka, "acks": "all", "linger.ms": 20, "queue.buffering.max.messages": 200_000}
    )
    for key, value in sent.records:
        while True:
            try:
                producer.produce(topic, value, key=key)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    assert producer.flush(60) == 0


async def insert_owners(connection: asyncpg.Connection, owners: list[str]) -> None:
    """Make the subscriptions that the traffic names."""
    user = await connection.fetchval(
        "INSERT INTO users (username, email) VALUES ('bench', 'bench@example.com') RETURNING id"
    )
    await connection.execute("INSERT INTO models (id, name, provider) VALUES ('model-0', 'Model', 'openai')")
    await connection.execute(
        "INSERT INTO subscriptions (id, user_id, model_id, status) SELECT id, $2, 'model-0', 'pending' FROM unnest($1::uuid[]) AS id",
        owners,
        user,
    )


def rounds(count: int) -> Iterator[int]:
    """Number the rounds, saying which one runs."""
    for number in range(1, count + 1):
        print(f"round {number} of {count}", file=sys.stderr)
        yield number


def main() -> None:
    """Run and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    owners = [str(uuid.UUID(int=random.Random(n).getrandbits(128), version=4)) for n in range(SUBSCRIPTIONS)]
    sent = traffic(options.events, owners)
    limit, ours = [], []
    with running_stack(servers=("postgres", "kafka"), say=lambda line: print(line, file=sys.stderr)) as running:
        server, kafka = running.stack.database_url, running.stack.kafka_bootstrap_servers
        for _ in rounds(options.rounds):
            limit.append(asyncio.run(raw_copy(server, sent)))
            ours.append(asyncio.run(worker(server, kafka, sent, owners)))
    size = statistics.mean(len(value) for _, value in sent.records)
    figures = {
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "events": options.events,
        "record_bytes": round(size),
        "deltas_of_5000_events": len(aggregate(sent.rows[:5_000])[0]),
        "raw_copy_events_per_second": [round(rate) for rate in limit],
        "worker_events_per_second": [round(rate) for rate in ours],
        "ratio": round(statistics.median(ours) / statistics.median(limit), 3),
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

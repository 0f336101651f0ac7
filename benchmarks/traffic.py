"""What benchmarks send, to whom, and the databases that they measure in."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg
from confluent_kafka import Producer

from deploy.migrate import migrate
from services.ingest.acceptance import Limits, accept
from services.ingest.rows import UsageRow, usage_row
from shared.contracts import UsageEvent
from shared.ids import event_key, uuid7

BATCH = 10_000
SUBSCRIPTIONS = 10_000
SKEW = 1.2
"""Exponent of the zipf distribution of events over subscriptions: few are busy, most are not."""
MODELS = 20
PARTITIONS = 8
DUPLICATES = 0.01


def subscriptions() -> list[str]:
    """Return the ids of those for whom events are sent: the same in every run."""
    return [str(uuid.UUID(int=random.Random(n).getrandbits(128), version=4)) for n in range(SUBSCRIPTIONS)]


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

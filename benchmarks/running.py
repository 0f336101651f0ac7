"""Starts workers for benchmarks and watches them drain a topic or keep up with it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import psutil
from confluent_kafka.admin import AdminClient

from benchmarks.hardware import Used, bytes_of
from benchmarks.traffic import MODELS, PARTITIONS, Traffic, database, insert_owners, publish
from deploy.local.ports import choose
from deploy.local.stack import Stack
from services.cli.demo.watch import Watch
from services.cli.reconcile import prove
from shared.contracts import USAGE_EVENTS
from shared.kafka import create_topics
from shared.settings import KafkaSettings

PATIENCE_SECONDS = 300.0


@dataclass
class Place:
    """A database and topics of one measurement's own."""

    stack: Stack
    url: str
    connection: asyncpg.Connection
    prefix: str

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment of a worker."""
        return {
            **os.environ, "DATABASE_URL": self.url, "KAFKA_BOOTSTRAP_SERVERS": self.stack.kafka_bootstrap_servers,
            "TALLYSTICK_KAFKA_TOPIC_PREFIX": self.prefix, "TALLYSTICK_LOG_LEVEL": "error", **more,
        }  # fmt: skip

    @property
    def topic(self) -> str:
        return self.prefix + USAGE_EVENTS

    async def caught_up(self) -> None:
        """Return when everything in the topic is stored, summed up, rated and published."""
        kafka = KafkaSettings(
            kafka_bootstrap_servers=self.stack.kafka_bootstrap_servers, kafka_topic_prefix=self.prefix
        )
        async with asyncpg.create_pool(self.url, min_size=1, max_size=1) as pool:
            await Watch(pool, kafka).until_caught_up(lambda _: None)

    async def debits(self) -> int:
        """Return how many debits of prepaid credits there are."""
        return int(await self.connection.fetchval("SELECT count(*) FROM credit_settlements"))

    async def reconciled(self) -> int:
        """Return how many checks hold. Raises `AssertionError` if one does not: a fast wrong answer is no answer."""
        checks = await prove(self.url)
        broken = [check for check in checks if not check.holds]
        assert not broken, broken
        return len(checks)


@asynccontextmanager
async def place(stack: Stack, owners: Sequence[str], sent: Traffic | None = None) -> AsyncIterator[Place]:
    """A migrated database with the subscriptions, and topics with what is sent; nothing of it is left afterwards."""
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    topics = await create_topics(stack.kafka_bootstrap_servers, partitions=PARTITIONS, prefix=prefix)
    if sent is not None:
        publish(stack.kafka_bootstrap_servers, prefix + USAGE_EVENTS, sent)
    async with database(stack.database_url) as (url, connection):
        await insert_owners(connection, list(owners))
        await connection.execute(
            "SELECT ensure_usage_partition(now()), ensure_usage_partition(now() - interval '1 hour')"
        )
        await connection.execute("CHECKPOINT")
        yield Place(stack, url, connection, prefix)
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap_servers})
    for deleted in admin.delete_topics(topics).values():
        deleted.result()


async def make_customers(
    connection: asyncpg.Connection,
    owners: Sequence[str],
    quotas: Mapping[str, int] | None = None,
    *,
    prepaid: bool = True,
) -> None:
    """Make subscriptions active and priced, each with a user of its own, and `quotas` of requests; of ten, one is prepaid unless it is said not to be.

    A user of its own, as a user has one active subscription to a model; it has the id of the subscription.
    """
    await connection.execute(
        "INSERT INTO models (id, name, provider) SELECT 'model-' || n, 'Model', 'openai' FROM generate_series(0, $1::int - 1) n ON CONFLICT DO NOTHING",
        MODELS,
    )
    await connection.execute(
        "INSERT INTO model_prices (model_id, valid_from, currency, input_price_per_1k, output_price_per_1k) "
        "SELECT id, '2026-01-01Z', 'EUR', 0.0025, 0.01 FROM models WHERE id LIKE 'model-%'"
    )
    await connection.execute(
        "INSERT INTO users (id, username, email) SELECT id, id::text, id || '@example.com' FROM unnest($1::uuid[]) id",
        owners,
    )
    await connection.execute(
        "UPDATE subscriptions s SET user_id = s.id, status = 'active', quota_requests = q.requests, quota_tokens = NULL, "
        "billing_mode = CASE WHEN s.id = ANY($3::uuid[]) THEN 'prepaid' ELSE 'postpaid' END "
        "FROM unnest($1::uuid[], $2::bigint[]) AS q (id, requests) WHERE s.id = q.id",
        owners, [(quotas or {}).get(owner) for owner in owners], paying := owners[9::10] if prepaid else [],
    )  # fmt: skip
    await connection.execute("SELECT add_user_credits(id, 10000000, 'purchase') FROM unnest($1::uuid[]) id", paying)
    await connection.execute("VACUUM ANALYZE subscriptions, users, user_credits")


@contextmanager
def workers(where: Place, modules: Sequence[str], variables: Mapping[str, str] | None = None) -> Iterator[list[int]]:
    """Run worker processes; their ids."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module],
            env=where.environ(TALLYSTICK_HTTP_PORT=str(choose()), TALLYSTICK_INSTANCE=str(number), **(variables or {})),
        )
        for number, module in enumerate(modules)
    ]
    try:
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(60)


@dataclass
class Drained:
    """How a backlog was drained: between the first commit that was seen and the last."""

    events_per_second: float
    used: dict[str, float]
    memory_mib: float
    stored: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        return {
            "events_per_second": round(self.events_per_second),
            **self.used,
            **self.stored,
            "memory_mib": round(self.memory_mib),
        }


async def drain(
    where: Place, sent: Traffic, count: int = 1, before: int = 0, variables: Mapping[str, str] | None = None
) -> Drained:
    """Let ingest workers drain what was sent, and prove that each event was stored once, beside the rows that were there before."""
    with workers(where, ["services.ingest"] * count, variables) as pids:
        result = await until_drained(
            where, len(sent.records), pids, "SELECT coalesce(sum(next_offset), 0) FROM ingest_positions"
        )
    row = await where.connection.fetchrow(
        "SELECT sum(inserted) AS inserted, sum(duplicates) AS duplicates FROM ingest_positions"
    )
    stored = await where.connection.fetchval("SELECT count(*) FROM usage_logs") - before
    assert (row["inserted"], stored) == (len(sent.rows), len(sent.rows)), (row, stored)
    assert row["duplicates"] == len(sent.records) - len(sent.rows), row
    result.stored = await bytes_of(where.connection, len(sent.rows) + before)
    return result


async def drain_naively(where: Place, sent: Traffic) -> Drained:
    """The same with the straightforward worker."""
    with workers(where, ["benchmarks.peers"], {"BENCH_TOPIC": where.topic}) as pids:
        return await until_drained(where, len(sent.rows), pids, "SELECT count(*) FROM usage_logs")


async def until_drained(where: Place, until: int, pids: list[int], how_far: str) -> Drained:
    """Poll how far the workers are, which SQL says as a number, from the first commit to the last."""
    connection, first, most = where.connection, None, 0.0
    deadline = time.perf_counter() + PATIENCE_SECONDS
    while time.perf_counter() < deadline:
        done, at = int(await connection.fetchval(how_far)), time.perf_counter()
        if done and first is None:
            first = done, at, await Used.now(connection, where.stack, pids)
        if done >= until and first is not None:
            events = max(1, done - first[0])
            used = (await Used.now(connection, where.stack, pids)).since(first[2], events)
            most = max(most, *(psutil.Process(pid).memory_info().rss for pid in pids))
            return Drained(events / (at - first[1]) if events > 1 else 0.0, used, most / 2**20)
        await asyncio.sleep(0.05)
    raise SystemExit(f"not done within {PATIENCE_SECONDS:.0f} s: {how_far}")

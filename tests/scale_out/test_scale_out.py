"""The log distributed over two servers, one of which is killed and comes back: every event is counted once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Final
from uuid import uuid4

import pytest
import pytest_asyncio

from deploy.migrate import migrate
from deploy.seed import seed
from services.cli.demo.sending import synthetic
from services.cli.demo.verdict import compare, count
from services.cli.demo.world import read_world, sign_up
from shared.kafka import create_topics
from shared.postgres import create_pool
from shared.settings import KafkaSettings
from tests.pipeline.running import PARTITIONS, Pipeline, workers
from tests.scale_out.conftest import Node

EVENTS: Final = int(os.environ.get("EVENTS", "6000"))
PER_SECOND: Final = 1_000


@pytest_asyncio.fixture
async def pipeline(
    nodes: list[Node], kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[Pipeline]:
    """A pipeline on the coordinator, whose log is not distributed yet."""
    url = nodes[0].url
    environ = {
        **os.environ,
        "DATABASE_URL": url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
        "TALLYSTICK_KAFKA_TOPIC_PREFIX": topic_prefix,
        "TALLYSTICK_BILLING_CLOSE_PERIODS": "false",
        "TALLYSTICK_DATABASE_ROLE": "none",  # the nodes know logins, not what a session calls itself
        "TALLYSTICK_LOCAL_DIR": str(tmp_path / "local"),
        "PYTHONPATH": str(Path.cwd()),
    }
    await migrate(url)
    await seed(url, test_data=True)
    await create_topics(kafka_bootstrap, partitions=PARTITIONS, prefix=topic_prefix)
    kafka = KafkaSettings(kafka_bootstrap_servers=kafka_bootstrap, kafka_topic_prefix=topic_prefix)
    pool = await create_pool(url, application_name="tests")
    yield Pipeline(environ, kafka, pool, tmp_path / "workers")
    await pool.close()


@pytest.mark.timeout(900)
async def test_a_distributed_log_counts_every_event_once_though_a_node_dies(
    pipeline: Pipeline, nodes: list[Node]
) -> None:
    url, pool = nodes[0].url, pipeline.pool
    sent = synthetic(await read_world(url), EVENTS, 13, datetime.now(UTC) - timedelta(seconds=1))
    records = list(sent.records())
    third = len(records) // 3
    async with pipeline.running(*workers(ingest=1, aggregator=1, billing=1)):
        await pipeline.publish(records[:third])  # on plain Postgres: these rows have to be moved
        await pipeline.caught_up()

    out = ("scale-out", "--coordinator", nodes[0].place, "--shards", "4")
    for _ in range(2):  # the second time there is nothing to do
        said = await pipeline.command(*out, *(part for node in nodes[1:] for part in ("--node", node.place)), "--json")
        lie = {place["node"]: place["shards"] for place in json.loads(said)["usage_logs"]}
    assert set(lie) == {node.place for node in nodes[1:]}, "the coordinator holds no shard"

    begun = monotonic()
    async with pipeline.running(*workers(ingest=2, aggregator=1, billing=1)) as running:
        publishing = asyncio.create_task(pipeline.publish(records[third:], rate=PER_SECOND))
        before = await pool.fetchval("SELECT sum(next_offset) FROM ingest_positions")
        async with asyncio.timeout(120):
            while await pool.fetchval("SELECT sum(next_offset) FROM ingest_positions") < before + third // 2:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        await nodes[2].kill()
        await asyncio.sleep(2)  # the time without it is the experiment, nothing is waited for
        await nodes[2].revive()
        async with pool.acquire() as connection:
            await sign_up(connection, sent.latecomers)
        await publishing
        await pipeline.caught_up()
        took = monotonic() - begun
    assert running.restarts.total() == 0, "a node that is away is no reason to die"

    async with pool.acquire() as connection:
        counted = await count(connection, sent.sources)
        checks = await compare(connection, sent.sources, sent.expected, counted, stored_before=0)
    assert [str(check) for check in [*checks, *await pipeline.broken_checks()] if not check.holds] == []
    plan = await pool.fetch(f"EXPLAIN SELECT * FROM usage_logs WHERE subscription_id = '{uuid4()}'")  # noqa: S608
    assert [row[0].strip() for row in plan if "Task Count" in row[0]] == ["Task Count: 1"], "one node answers it"
    sys.stdout.write(
        f"{len(records) - third:,} records through a distributed log in {took:.1f} s, a node killed meanwhile\n"
    )

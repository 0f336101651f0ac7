"""An upgrade while traffic flows: the schema first, then worker after worker, with both versions side by side for a while."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local.stack import Stack
from deploy.migrate import pending, read_migrations
from services.cli.demo.sending import synthetic
from services.cli.demo.verdict import compare, count
from services.cli.demo.world import read_world, sign_up
from services.cli.supervisor import WorkerSpec
from shared.kafka import create_topics, topic_plan
from shared.postgres import create_pool
from shared.settings import KafkaSettings
from tests.pipeline import previous
from tests.pipeline.running import PARTITIONS, TALLYSTICK, Pipeline, until_synced, workers

EVENTS: Final = 4_500
THIRD: Final = EVENTS // 3
PER_SECOND: Final = 600


@pytest_asyncio.fixture
async def old_pipeline(
    stack: Stack, empty_database: str, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[tuple[Pipeline, dict[str, str]]]:
    """A pipeline whose database the version before has made, and the variables that run that version."""
    old_code = tmp_path / "old"
    previous.unpack(previous.commit_before_newest_migration(), old_code)
    environ = {
        **os.environ,
        "DATABASE_URL": empty_database,
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers,
        "TALLYSTICK_KAFKA_TOPIC_PREFIX": topic_prefix,
        "TALLYSTICK_BILLING_CLOSE_PERIODS": "false",
        "TALLYSTICK_LOCAL_DIR": str(tmp_path / "local"),
        "PYTHONPATH": str(Path.cwd()),
    }
    old = dict(previous.variables(old_code))
    for command in (["migrate"], ["seed", "--test-data"]):
        await run({**environ, **old}, *command)
    await create_topics(stack.kafka_bootstrap_servers, partitions=PARTITIONS, prefix=topic_prefix)
    kafka = KafkaSettings(kafka_bootstrap_servers=stack.kafka_bootstrap_servers, kafka_topic_prefix=topic_prefix)
    pool = await create_pool(empty_database, application_name="tests")
    yield Pipeline(environ, kafka, pool, tmp_path / "workers"), old
    await pool.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka_bootstrap_servers)
    await admin.start()
    await admin.delete_topics([topic_prefix + name for name in topic_plan(PARTITIONS)])
    await admin.close()


async def run(environ: dict[str, str], *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TALLYSTICK, *arguments),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


def named(specs: list[WorkerSpec], instance: int, variables: dict[str, str]) -> list[WorkerSpec]:
    """Workers with an instance number that no worker of the other version has."""
    return [replace(spec, instance=instance, variables=variables) for spec in specs]


async def test_versions_side_by_side_count_every_event_once(
    old_pipeline: tuple[Pipeline, dict[str, str]], empty_database: str
) -> None:
    pipeline, variables = old_pipeline
    to_apply = await pending(empty_database)
    assert to_apply[-1] == read_migrations()[-1], "the version before does not know the newest migration"
    old = named(workers(ingest=1, aggregator=1, billing=1), 0, variables)
    new = named(workers(ingest=1, aggregator=1, billing=1), 1, {})
    async with AsyncExitStack() as new_ones:
        async with pipeline.running(*old) as running:
            for name in running.running:
                assert previous_code_runs(running.pid(name), variables["PYTHONPATH"]), (
                    f"{name} is not of the version before"
                )
            sent = synthetic(await read_world(empty_database), EVENTS, 11, datetime.now(UTC) - timedelta(seconds=1))
            records = list(sent.records())
            publishing = asyncio.create_task(pipeline.publish(records[:THIRD], rate=PER_SECOND))
            applied = await pipeline.command("migrate")  # under load: the schema comes first
            assert f"{len(to_apply)} migrations applied" in applied
            await publishing
            await new_ones.enter_async_context(pipeline.running(*new))
            for worker in (old[0], new[0]):
                await until_synced(worker, PARTITIONS // 2)
            await pipeline.publish(records[THIRD : 2 * THIRD])  # both versions have half of them
            await pipeline.caught_up()
        await pipeline.publish(records[2 * THIRD :])  # the old ones have left
        async with pipeline.pool.acquire() as connection:
            await sign_up(connection, sent.latecomers)
        await pipeline.caught_up()

    async with pipeline.pool.acquire() as connection:
        counted = await count(connection, sent.sources)
        checks = await compare(connection, sent.sources, sent.expected, counted, stored_before=0)
    assert [str(check) for check in [*checks, *await pipeline.broken_checks()] if not check.holds] == []
    assert running.restarts.total() == 0


def previous_code_runs(pid: int, directory: str) -> bool:
    """Whether a process was told to run the code in a directory."""
    return f"PYTHONPATH={directory}\0" in Path(f"/proc/{pid}/environ").read_text(encoding="utf-8", errors="replace")

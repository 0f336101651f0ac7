"""The fixture of pipeline tests: a pipeline of one's own on the session's Kafka and Postgres."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local.stack import Stack
from deploy.seed import seed
from shared.kafka import create_topics, topic_plan
from shared.postgres import Pool
from shared.settings import KafkaSettings
from tests.pipeline.running import PARTITIONS, Pipeline


@pytest_asyncio.fixture
async def pipeline(
    stack: Stack, database: str, database_pool: Pool, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[Pipeline]:
    """A migrated, seeded database, and topics that are deleted when the test ends. No worker runs yet."""
    bootstrap = stack.kafka_bootstrap_servers
    environ = {
        **os.environ,
        "DATABASE_URL": database,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "TALLYSTICK_KAFKA_TOPIC_PREFIX": topic_prefix,
        "TALLYSTICK_BILLING_CLOSE_PERIODS": "false",
        "TALLYSTICK_LOCAL_DIR": str(tmp_path / "local"),
        "PYTHONPATH": str(Path.cwd()),
    }
    await seed(database, test_data=True)
    await create_topics(bootstrap, partitions=PARTITIONS, prefix=topic_prefix)
    kafka = KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_topic_prefix=topic_prefix)
    yield Pipeline(environ, kafka, database_pool, tmp_path / "workers")
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.delete_topics([topic_prefix + name for name in topic_plan(PARTITIONS)])
    await admin.close()

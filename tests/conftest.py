"""What every test may ask for: real servers, started once per session when first asked for, and a database of its own for each test."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from hypothesis import settings

from deploy.local.server import Server
from deploy.local.stack import Stack, running_stack
from deploy.migrate import migrate
from shared.postgres import Pool, create_pool
from tests import containers


class CreateTopic(Protocol):
    """Creates a topic with a name that no other test has, and returns that name."""

    def __call__(
        self, name: str = "topic", *, partitions: int = 1, config: dict[str, str] | None = None
    ) -> Awaitable[str]: ...


def pytest_configure() -> None:
    """Time no example of a law. Let Ctrl-C reach the programs that tests start, also where the tests run in the background: there a
    shell has it ignored, which children inherit."""
    settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
    settings.load_profile("untimed")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Let no test change where the logs of others go: to capture them is to configure them, and commands then leave them as they are."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server: the URL of a database in it, with the right to create others. Does not start Kafka."""
    yield from _server("postgres")


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """A Kafka broker: its bootstrap servers. Does not start Postgres."""
    yield from _server("kafka")


@pytest.fixture(scope="session")
def stack(postgres: str, kafka_bootstrap: str) -> Stack:
    """Both servers."""
    servers = (
        Server("postgres", postgres, "of the test session"),
        Server("kafka", kafka_bootstrap, "of the test session"),
    )
    return Stack(servers, Path.cwd())


def _server(name: str) -> Iterator[str]:
    """The server that the environment names, else a container if those were chosen and can be had, else one of the session's own."""
    if os.environ.get("TALLYSTICK_TEST_STACK") == "docker" and containers.engine_answers():
        with containers.container(name) as address:
            yield address
    else:
        with running_stack(servers=(name,), durable=False) as running:
            yield running.stack.servers[0].address


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template_database(postgres: str) -> AsyncIterator[str]:
    """The URL of a migrated, empty database that is only ever cloned: nobody may stay connected to it."""
    url = await _create_database(postgres)
    await migrate(url)
    yield url
    await _drop_database(postgres, url)


@pytest_asyncio.fixture
async def empty_database(postgres: str) -> AsyncIterator[str]:
    """The URL of a database of this test's own with nothing in it."""
    url = await _create_database(postgres)
    yield url
    await _drop_database(postgres, url)


@pytest_asyncio.fixture
async def database(postgres: str, template_database: str) -> AsyncIterator[str]:
    """The URL of a migrated database of this test's own."""
    url = await _create_database(postgres, template=_name(template_database))
    yield url
    await _drop_database(postgres, url)


@pytest_asyncio.fixture
async def database_pool(database: str) -> AsyncIterator[Pool]:
    """A pool of connections to this test's database."""
    pool = await create_pool(database, application_name="tests")
    yield pool
    await pool.close()


@pytest.fixture
def topic_prefix() -> str:
    """Unique to this test: for topics and groups, so that tests share a broker and never see each other's messages."""
    return f"test-{uuid.uuid4().hex[:12]}."


@pytest_asyncio.fixture
async def create_topic(kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[CreateTopic]:
    """Create topics that are deleted when the test ends."""
    created: list[str] = []
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()

    async def create(name: str = "topic", *, partitions: int = 1, config: dict[str, str] | None = None) -> str:
        topic = topic_prefix + name
        answer = await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=config or {})])
        assert [error[1] for error in answer.topic_errors] == [0], answer
        created.append(topic)
        return topic

    try:
        yield create
    finally:
        if created:
            await admin.delete_topics(created)
        await admin.close()


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


async def _create_database(server: str, *, template: str = "template1") -> str:
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    finally:
        await connection.close()
    return urlsplit(server)._replace(path=f"/{name}").geturl()


async def _drop_database(server: str, url: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f'DROP DATABASE "{_name(url)}" WITH (FORCE)')
    finally:
        await connection.close()

"""A database that many tests share, each in a transaction that is rolled back: for tests of what single statements do."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import asyncpg
import pytest_asyncio

from shared.postgres import Pool, create_pool


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_database(postgres: str, template_database: str) -> AsyncIterator[str]:
    """The URL of a migrated database in which nobody commits."""
    name, template = f"test_{uuid.uuid4().hex}", urlsplit(template_database).path.removeprefix("/")
    server = await asyncpg.connect(postgres)
    await server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
    await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await server.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ingest_database(postgres: str, template_database: str) -> AsyncIterator[str]:
    """The URL of a migrated database for the tests of ingest, one after the other."""
    name, template = f"test_{uuid.uuid4().hex}", urlsplit(template_database).path.removeprefix("/")
    server = await asyncpg.connect(postgres)
    await server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    await server.close()
    yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
    server = await asyncpg.connect(postgres)
    await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await server.close()


@pytest_asyncio.fixture
async def ingest_pool(ingest_database: str) -> AsyncIterator[Pool]:
    """A pool on it; what ingest writes is empty. Cheaper than a database for each test; subscriptions and users may be there."""
    pool = await create_pool(ingest_database, application_name="tests")
    await pool.execute(
        "TRUNCATE ingest_positions, usage_logs, usage_ids, usage_batches, quarantined_events, held_events, ingest_outbox"
    )
    yield pool
    await pool.close()


@pytest_asyncio.fixture
async def connection(shared_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection inside a transaction of which nothing remains. What a commit would check is checked at the end of the test."""
    connection = await asyncpg.connect(shared_database, server_settings={"TimeZone": "UTC"})
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    try:
        with suppress(asyncpg.InFailedSQLTransactionError):  # the test has failed, and says why itself
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    finally:
        await transaction.rollback()
        await connection.close()

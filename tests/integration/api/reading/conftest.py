"""One database for all tests of reading: what each asks about, it makes, for customers of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def reading_database(postgres: str, template_database: str) -> AsyncIterator[str]:
    """The URL of a migrated database that stays through the session."""
    name, template = f"test_{uuid.uuid4().hex}", urlsplit(template_database).path.removeprefix("/")
    server = await asyncpg.connect(postgres)
    await server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
    await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await server.close()


@pytest.fixture
def database(reading_database: str) -> str:
    """In place of a database for each test: the one of all of them."""
    return reading_database

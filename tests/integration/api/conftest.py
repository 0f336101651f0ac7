"""The application over a database of the test's own, asked without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from services.accounts.provider_keys.keyring import new_secret
from services.api.app import build
from services.api.settings import Settings
from shared.clock import FixedClock
from shared.postgres import Pool, create_pool
from tests.integration.api.facts import Facts

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PROVIDER_KEY_SECRET = new_secret("tests")
WITHOUT_RATE_LIMITS = dict.fromkeys(
    ("api_requests_per_second", "api_gateway_requests_per_second", "api_refusals_per_minute"), 0
)
"""A clock that stands still never lets anybody ask again."""


@pytest.fixture
def clock() -> FixedClock:
    """The application's clock; a test moves it on."""
    return FixedClock(NOW)


@pytest_asyncio.fixture
async def facts(database_pool: Pool, clock: FixedClock) -> Facts:
    """Makes users, subscriptions and keys, with the rights of the owner."""
    return Facts(database_pool, clock)


@pytest_asyncio.fixture
async def app(database: str, clock: FixedClock) -> AsyncIterator[FastAPI]:
    """The application as it runs, at a time that stands still."""
    settings: Any = {
        "database_url": database,
        "kafka_bootstrap_servers": "127.0.0.1:1",
        "api_key_cache_seconds": 0,
        "provider_key_secrets": PROVIDER_KEY_SECRET,
        **WITHOUT_RATE_LIMITS,
    }
    pool = await create_pool(database, application_name="tests", role="tallystick_api")
    application = build(Settings(**settings), pool, clock)
    async with application.router.lifespan_context(application):
        yield application
    await pool.close()


@pytest_asyncio.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a credential; `facts` makes headers with one."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://tallystick.test") as found:
        yield found

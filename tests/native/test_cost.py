"""What a batch costs with the compiled sweep, in counts: as many statements as ever, and hardly a call for an event."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.ingest.compiled import Compiled
from shared.postgres import Pool, create_pool
from tests.integration import test_cost_of_a_batch as plain
from tests.unit.ingest.events import structured

CALLS_AN_EVENT = 1


@pytest_asyncio.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    pool = await create_pool(database, application_name="tests")
    yield pool
    await pool.close()


async def test_an_event_takes_hardly_a_call(pool: Pool) -> None:
    found = await plain.cost(pool, Compiled.REQUIRED)

    assert found.excess() == [], found
    assert found.calls_an_event <= CALLS_AN_EVENT


async def test_an_event_that_is_handed_back_is_noticed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = structured
    monkeypatch.setattr(plain, "structured", lambda **given: ordinary(**given, sequence="7"))

    assert (await plain.cost(pool, Compiled.REQUIRED)).calls_an_event > CALLS_AN_EVENT

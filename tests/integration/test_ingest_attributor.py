"""Whom a worker knows from the start."""

from __future__ import annotations

import pytest

import services.ingest.attribution
from services.ingest.attribution import Attributor, Owner
from shared.postgres import Pool
from tests.integration.schema_facts import make_subscription, make_user


async def test_a_worker_knows_the_newest_subscriptions_from_the_start(
    database_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database_pool.acquire() as connection:
        user = await make_user(connection)
        oldest, *newest = [await make_subscription(connection, user) for _ in range(3)]
    monkeypatch.setattr(services.ingest.attribution, "KNOWN_AT_START", 2)
    attributor = Attributor()
    await attributor.begin(database_pool)

    assert [attributor.known_as((str(id_), None, None)) for id_ in newest] == [Owner(id_, None) for id_ in newest]
    assert attributor.known_as((str(oldest), None, None)) is None

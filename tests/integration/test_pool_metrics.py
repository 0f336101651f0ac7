"""What the metrics say of the connections to Postgres."""

from __future__ import annotations

import asyncio

from prometheus_client import REGISTRY

from shared.postgres import Pool, create_pool, transaction


def connections(state: str) -> float:
    return REGISTRY.get_sample_value("tallystick_database_connections", {"state": state}) or 0


async def test_connections_in_use_and_the_wait_for_one_are_told(postgres: str) -> None:
    idle, used = connections("idle"), connections("in_use")
    waits = REGISTRY.get_sample_value("tallystick_database_wait_seconds_sum") or 0
    most = REGISTRY.get_sample_value("tallystick_database_connections_max") or 0
    pool = await create_pool(postgres, max_size=1)
    assert REGISTRY.get_sample_value("tallystick_database_connections_max") == most + 1
    async with transaction(pool) as connection:
        assert (connections("in_use"), connections("idle")) == (used + 1, idle)
        second = asyncio.create_task(take_turns(pool))
        await connection.execute("SELECT pg_sleep(0.1)")
    await second
    assert (REGISTRY.get_sample_value("tallystick_database_wait_seconds_sum") or 0) - waits > 0.08
    assert (connections("in_use"), connections("idle")) == (used, idle + 1)
    await pool.close()
    assert REGISTRY.get_sample_value("tallystick_database_connections_max") == most


async def take_turns(pool: Pool) -> None:
    async with transaction(pool):
        pass

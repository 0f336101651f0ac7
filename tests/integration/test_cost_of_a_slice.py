"""What a slice of usage.recorded costs the aggregator and billing, counted and not timed. Each limit fails on a planted waste."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

import services.aggregator.store
import services.billing.rating.store
from shared.consumer import Apply, Slice
from shared.contracts import USAGE_RECORDED, UsageDelta, encode
from shared.positions import Positions
from shared.postgres import Connection, Pool
from tests.integration.aggregator_facts import STORE_BATCH, Aggregator, make_subscription
from tests.integration.billing_facts import Desk, make_price
from tests.integration.test_cost_of_a_batch import counting_statements, wal_bytes
from tests.unit.aggregator.facts import delta, record, recorded

MESSAGES, SUBSCRIPTIONS = 10, 40
"""Of a slice: each message has usage of one model by each subscription."""


@dataclass(frozen=True)
class Cost:
    """Of a slice: round trips (but COPY), rows written to tables but the inbox, bytes of WAL."""

    statements: int
    rows: int
    wal: int

    def excess(self, limit: Cost) -> list[str]:
        """Return what is beyond a limit."""
        found = {
            "statements": (self.statements, limit.statements),
            "rows": (self.rows, limit.rows),
            "WAL": (self.wal, limit.wal),
        }
        return [f"{name}: {cost} > {most}" for name, (cost, most) in found.items() if cost > most]


LIMITS = {
    "aggregator": Cost(statements=7, rows=5 * SUBSCRIPTIONS + 4, wal=79_000),
    "billing": Cost(statements=5, rows=SUBSCRIPTIONS + 2, wal=23_000),
}
"""An hour, a day, a month, an hour of a use and the counters for each subscription, an hour, a day and a month of everybody, and the position; a
rated row for each, the run and the position."""


WRITTEN = (
    "SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0)::int FROM pg_stat_xact_user_tables WHERE relname NOT LIKE '%inbox'"
)


async def cost_of(service: str, pool: Pool) -> Cost:
    """Return what a slice costs a service that has applied one before."""
    async with pool.acquire() as connection:
        await make_price(connection, currency="EUR")
    apply: Apply = Aggregator(pool).handler if service == "aggregator" else Desk(pool).rate
    users = [await make_subscription(pool) for _ in range(SUBSCRIPTIONS)]
    positions = Positions(f"{service}_positions", cluster="main")
    async with pool.acquire() as connection:
        await positions.create(connection, USAGE_RECORDED, 0, 0)
    await _apply(apply, pool, positions, users)
    return await _apply(apply, pool, positions, users)


async def _apply(apply: Apply, pool: Pool, positions: Positions, users: list[UUID]) -> Cost:
    def used(user: UUID) -> UsageDelta:
        return delta(user, tokens=10, latency_sum_ms=900, latency_count=1, latency_histogram=[0] * 5 + [1] + [0] * 6)

    messages = [recorded(*map(used, users)) for _ in range(MESSAGES)]
    await pool.executemany(STORE_BATCH, [(m.batch_id, m.event_count, m.parts) for m in messages])
    async with pool.acquire() as connection:
        before = await wal_bytes(connection)
        async with connection.transaction():
            position = await positions.lock(connection, USAGE_RECORDED, 0)
            assert position is not None
            records = [record(encode(m), offset=position.next_offset + n) for n, m in enumerate(messages)]
            rows = await connection.fetchval(WRITTEN)
            with counting_statements() as statements:
                after_commit = await apply(connection, Slice(position, records))
            rows = await connection.fetchval(WRITTEN) - rows
        wal = await wal_bytes(connection) - before
    await after_commit()
    return Cost(len(statements), rows, wal)


@pytest.mark.parametrize("service", ["aggregator", "billing"])
async def test_a_slice_costs_no_more_than_it_did(database_pool: Pool, service: str) -> None:
    found = await cost_of(service, database_pool)

    assert found.excess(LIMITS[service]) == [], found
    assert (found.statements, found.rows) == (LIMITS[service].statements, LIMITS[service].rows), (
        "fewer: lower the limit"
    )


def wasting(module: Any, name: str, waste: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Return what lets a function of a store be called as `waste` does, which is given it."""
    original = getattr(module, name)

    async def wasteful(connection: Connection, *given: Any) -> Any:
        return await waste(original, connection, *given)

    return lambda patch: patch.setattr(module, name, wasteful)


async def one_more_statement(original: Any, connection: Connection, *given: Any) -> Any:
    await connection.fetchval("SELECT 1")
    return await original(connection, *given)


async def each_row_twice(original: Any, connection: Connection, rows: Any) -> None:
    for row in rows:  # as if messages had been added one by one
        await original(connection, [row])
    await original(connection, rows)


async def half_of_the_rows_again(original: Any, connection: Connection, run_id: UUID, rows: Any) -> None:
    await original(connection, run_id, rows)
    again = [row._replace(key=row.key._replace(feature_type="again")) for row in rows]
    await original(connection, run_id, again)


AGGREGATOR, BILLING = services.aggregator.store, services.billing.rating.store


@pytest.mark.parametrize(
    ("service", "plant", "named"),
    [
        ("aggregator", wasting(AGGREGATOR, "begin", one_more_statement), {"statements"}),
        ("aggregator", wasting(AGGREGATOR, "add_summaries", each_row_twice), {"statements", "rows", "WAL"}),
        ("billing", wasting(BILLING, "read_payers", one_more_statement), {"statements"}),
        ("billing", wasting(BILLING, "insert_rated", half_of_the_rows_again), {"rows", "WAL"}),
    ],
)
async def test_a_waste_is_noticed(
    database_pool: Pool, monkeypatch: pytest.MonkeyPatch, service: str, plant: Any, named: set[str]
) -> None:
    plant(monkeypatch)

    excess = (await cost_of(service, database_pool)).excess(LIMITS[service])

    assert {line.split(":")[0] for line in excess} == named

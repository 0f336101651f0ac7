"""What row-level security costs: the API's own queries as a tenant, and as a role that is not filtered, in turn, on a real Postgres.

    python -m benchmarks.row_level_security [--customers 500] [--invoices 2000] [--rounds 1000]

A customer has a month of summaries by the hour for three models, and `invoices` invoices; there are `customers` of them, so a million rows
of each. Asked for: a month's usage series and a page of invoices cost at most 10 % more (median) than without the security. Both sides are
one transaction as a request makes it, with the same query and the same arguments, of which the owner is one. The third line leaves the
owner out: what the security alone does then.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from deploy.local.stack import running_stack
from deploy.migrate import migrate
from services.api.auth.principal import Principal
from services.api.database import Database
from shared.postgres import Connection, connect, create_pool
from shared.sql import Queries

MOST_PERCENT = 10.0
START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 31, tzinfo=UTC)
PAGE = 51
IN_TURN = 5
"""Questions of one side before those of the other: requests of tenants follow each other, too."""

FACTS = (
    "SET session_replication_role = replica",  # no triggers: a million invoices are there, not made
    "INSERT INTO users (id, username, email) SELECT md5('u' || c)::uuid, 'c' || c, 'c' || c || '@example.com' FROM generate_series(1, {customers}) c",
    """INSERT INTO subscriptions (id, user_id, model_id, status) SELECT md5('s' || c)::uuid, md5('u' || c)::uuid, 'm', 'active'
       FROM generate_series(1, {customers}) c""",
    """INSERT INTO usage_summaries (subscription_id, period_type, period_start, model_id, request_count, request_tokens, latency_histogram)
       SELECT md5('s' || c)::uuid, 'hour', '2026-10-01Z'::timestamptz + h * interval '1 hour', 'model-' || m, 10, 1000, '{{1,2,3,4,0,0,0,0,0,0,0,0}}'
       FROM generate_series(0, 719) h, generate_series(1, {customers}) c, generate_series(1, 3) m""",
    """INSERT INTO invoices (user_id, currency, period_start, period_end, created_at)
       SELECT md5('u' || c)::uuid, 'USD', at, at + interval '1 hour', at
       FROM generate_series(1, {invoices}) n, generate_series(1, {customers}) c,
            LATERAL (SELECT '2020-01-01Z'::timestamptz + n * interval '1 hour' AS at) t""",
    "RESET session_replication_role",
    "VACUUM ANALYZE",
)  # fmt: skip

Ask = Callable[[Connection, UUID, UUID], Awaitable[int]]


async def series(connection: Connection, _user: UUID, subscription: UUID) -> int:
    """A month of hours, by model, as GET /api/v1/usage asks for it."""
    hours = [START + timedelta(hours=n) for n in range(720)]
    sql = Queries.load("services.api.usage", usage_logs="tenant_usage_logs", rated_usage="tenant_rated_usage")["series"]
    return len(await connection.fetch(sql, [subscription], ["hour"], [START], [END], hours, "model"))


async def invoices(connection: Connection, user: UUID | None, _subscription: UUID) -> int:
    """The first page of invoices, as GET /api/v1/invoices asks for it."""
    sql = Queries.load("services.api.invoices")["invoices"]
    return len(await connection.fetch(sql, user, None, True, None, None, 0, PAGE))


async def all_invoices(connection: Connection, _user: UUID, subscription: UUID) -> int:
    """The same without naming the owner."""
    return await invoices(connection, None, subscription)


async def compare(
    database: Database, ask: Ask, wanted: int, customers: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Ask in turn as the tenant and as who reads all; return the seconds of each. Raises `AssertionError` for a wrong answer."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds // IN_TURN):
        user, subscription = _id(f"u{number % customers + 1}"), _id(f"s{number % customers + 1}")
        people = [Principal(user, "tenant", frozenset({"user"})), Principal(user, "reader", frozenset({"admin"}))]
        for place in (0, 1) if number % 2 else (1, 0):
            for _ in range(IN_TURN):
                started = time.perf_counter()
                async with database.reading(people[place]) as connection:
                    found = await ask(connection, user, subscription)
                taken[place].append(time.perf_counter() - started)
                assert found == wanted, f"{ask.__name__}: {found} rows, not {wanted}"
    return taken


async def measure(url: str, customers: int, invoices_each: int, rounds: int) -> list[float]:
    """Store the facts and compare; return the cost of each comparison in per cent."""
    await migrate(url)
    owner = await connect(url)
    for statement in FACTS:
        await owner.execute(statement.format(customers=customers, invoices=invoices_each), timeout=3600)
    counts = [await owner.fetchval(f"SELECT count(*) FROM {table}") for table in ("usage_summaries", "invoices")]  # noqa: S608
    await owner.close()
    print(
        f"{counts[0]:,} summaries, {counts[1]:,} invoices of {customers:,} customers; {rounds:,} questions of each kind"
    )
    pool = await create_pool(
        url, role="tallystick_api", max_size=1
    )  # a plan is made anew when the role of its session changes
    database = Database(pool)
    try:
        return [
            await show("a month's usage series", database, series, 2_160, customers=customers, rounds=rounds),
            await show("a page of invoices", database, invoices, PAGE, customers=customers, rounds=rounds),
            await show(
                "a page of invoices, the owner not named",
                database,
                all_invoices,
                PAGE,
                customers=customers,
                rounds=min(rounds, 50),
            ),
        ]
    finally:
        await pool.close()


async def show(what: str, database: Database, ask: Ask, wanted: int, *, customers: int, rounds: int) -> float:
    """Compare and print; return the cost in per cent of the median."""
    await compare(database, ask, wanted, customers, max(rounds // 10, 10))  # warm
    tenant, reader = await compare(database, ask, wanted, customers, rounds)
    cost = 100 * (statistics.median(tenant) / statistics.median(reader) - 1)
    print(f"{what:42} {_ms(tenant)} with, {_ms(reader)} without: {cost:+.1f} %")
    return cost


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:6.2f} ms (p95 {statistics.quantiles(seconds, n=20)[18] * 1000:6.2f})"


def _id(name: str) -> UUID:
    return UUID(bytes=hashlib.md5(name.encode(), usedforsecurity=False).digest())


def main() -> int:
    """Measure on a server of its own; exit code 1 if it costs too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--customers", type=int, default=500)
    parser.add_argument("--invoices", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=1_000)
    arguments = parser.parse_args()
    os.environ.pop("DATABASE_URL", None)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with running_stack(servers=("postgres",), durable=False) as running:
        costs = asyncio.run(
            measure(running.stack.database_url, arguments.customers, arguments.invoices, arguments.rounds)
        )
    return int(max(costs[:2]) > MOST_PERCENT)


if __name__ == "__main__":
    sys.exit(main())

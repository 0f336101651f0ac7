"""Whether debits keep up with a rate of events; and how fast prepaid usage becomes ledger entries, beside bare UPDATEs of as many balances.

    python -m benchmarks.settlement [--events-per-second 60000] [--users 5000] [--rows 4] [--windows 3] [--json FILE]

A ledger entry is of a user and a window of 5 s, never of an event: what has to be kept up with is users, and the events only say how much
each has used. So `--users` prepaid users share what so many events per second are in a window; each has `--rows` rows of rated usage. A
settlement claims them, writes one ledger entry and what each grant paid, moves account and grants, records the settlement, and checks at
COMMIT that ledger, grants and balance agree. It keeps up if every window is settled in less than a window.

The limit is a bare table of balances that is updated in chunks as large, one transaction each: what Postgres needs at least to remember
them. Beside the rates it prints CPU (this process and its session in Postgres), which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import asyncpg
import psutil

from benchmarks.traffic import database
from deploy.local.stack import running_stack
from services.billing.credits.credits import Pending
from services.billing.credits.settlement import ACCOUNTS_AT_ONCE, Settling
from shared.clock import SystemClock
from shared.outbox import Outbox
from shared.postgres import create_pool

WINDOW_SECONDS = 5
GRANTS = 3
"""Open grants of each user: an allowance, a gift, a purchase."""
HOUR = datetime(2026, 11, 1, tzinfo=UTC)


class Cost(NamedTuple):
    """What it took for each user, in seconds: by the clock, and of CPU."""

    clock: float
    cpu: float


class Meter:
    """Measures what this process and one session of Postgres do."""

    def __init__(self, pid: int) -> None:
        self._processes = [psutil.Process(), psutil.Process(pid)]

    def __enter__(self) -> Meter:
        self._clock, self._cpu = time.perf_counter(), self._busy()
        return self

    def __exit__(self, *_: object) -> None:
        self.clock, self.cpu = time.perf_counter() - self._clock, self._busy() - self._cpu

    def per(self, count: int) -> Cost:
        """Return what it cost for each of so many."""
        return Cost(self.clock / count, self.cpu / count)

    def _busy(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)


async def prepare(connection: asyncpg.Connection, users: int) -> None:
    """Make users with prepaid subscriptions and grants, and a price."""
    await connection.execute(
        "INSERT INTO models (id, name, provider) VALUES ('gpt-4o', 'gpt-4o', 'openai') ON CONFLICT DO NOTHING"
    )
    await connection.execute(
        """INSERT INTO model_prices (id, model_id, valid_from, currency, input_price_per_1k)
           VALUES ($1, 'gpt-4o', '2026-01-01Z', 'USD', 0.0025)""",
        UUID(int=1),
    )
    await connection.execute(
        """INSERT INTO users (id, username, email)
           SELECT md5('user ' || n)::uuid, 'user ' || n, 'user' || n || '@example.com' FROM generate_series(1, $1::int) n""",
        users,
    )
    await connection.execute(
        """INSERT INTO subscriptions (id, user_id, plan_id, status, billing_mode, currency, quota_period_start)
           SELECT id, id, 'enterprise', 'active', 'prepaid', 'USD', '2026-01-01Z' FROM users WHERE email LIKE 'user%'"""
    )
    for kind, amount in (("allowance", 100_000), ("bonus", 50_000), ("purchase", 1_000_000))[:GRANTS]:
        await connection.execute(
            "SELECT add_user_credits(id, $1, $2) FROM users WHERE email LIKE 'user%'", Decimal(amount), kind
        )
    await connection.execute(
        "CREATE TABLE bare (user_id uuid PRIMARY KEY, balance numeric NOT NULL) WITH (fillfactor = 70)"
    )
    await connection.execute("INSERT INTO bare SELECT user_id, balance FROM user_credits")


async def use(connection: asyncpg.Connection, window: int, rows: int, events: int) -> None:
    """Rate a window's usage of every user, as so many rows of so many events."""
    await connection.execute(
        """INSERT INTO rated_usage (subscription_id, hour, model_id, rating_run_id, user_id, billing_mode, requests, request_tokens,
                                    price_id, multiplier, currency, amount)
           SELECT s.id, $1, 'gpt-4o', md5(format('run %s %s', $2::int, r))::uuid, s.user_id, 'prepaid', $5::bigint, $5 * 100, $4, 1, 'USD',
                  $5 * 100 * 0.0000025
           FROM subscriptions s CROSS JOIN generate_series(1, $3::int) r WHERE s.billing_mode = 'prepaid'""",
        HOUR, window, rows, UUID(int=1), events,
    )  # fmt: skip
    await connection.execute("VACUUM ANALYZE rated_usage")
    await connection.execute("CHECKPOINT")


async def bare_updates(connection: asyncpg.Connection) -> int:
    """Update every balance; return how many."""
    ids = [row["user_id"] for row in await connection.fetch("SELECT user_id FROM bare ORDER BY user_id")]
    for first in range(0, len(ids), ACCOUNTS_AT_ONCE):
        chunk = ids[first : first + ACCOUNTS_AT_ONCE]
        await connection.execute(
            "UPDATE bare b SET balance = balance - d.amount FROM unnest($1::uuid[], $2::numeric[]) AS d (id, amount) WHERE b.user_id = d.id",
            chunk,
            [Decimal("0.15")] * len(chunk),
        )
    return len(ids)


async def measure(
    server: str, users: int, rows: int, windows: int, events_of_row: int
) -> tuple[list[Cost], list[Cost]]:
    """Return what a settlement cost, and what a bare UPDATE, for each window."""
    async with database(server) as (url, connection):
        await prepare(connection, users)
        pool = await create_pool(url, max_size=1)
        pid = await pool.fetchval("SELECT pg_backend_pid()")
        settling = Settling(pool, SystemClock(), Outbox("billing_outbox"), Pending({}, Decimal("0.8")))
        ours, limit = [], []
        for window in range(windows):
            await use(connection, window, rows, events_of_row)
            async with pool.acquire() as session:
                with Meter(pid) as bare:
                    assert await bare_updates(session) == users
            with Meter(pid) as settled:
                assert await settling.settle_all() == users
            limit.append(bare.per(users))
            ours.append(settled.per(users))
            print(
                f"window {window + 1}: {1 / ours[-1].clock:.0f} settled/s, bare {1 / limit[-1].clock:.0f}/s",
                file=sys.stderr,
            )
        await pool.close()
        sums = await connection.fetchrow(
            """SELECT (SELECT sum(amount) FROM credit_transactions) AS ledger, (SELECT sum(remaining) FROM credit_grants) AS grants,
                      (SELECT sum(balance) FROM user_credits) AS balances, (SELECT sum(amount) * 10 FROM rated_usage) AS rated,
                      (SELECT sum(amount) FROM credit_settlements) AS settled"""
        )
        assert sums["ledger"] == sums["grants"] == sums["balances"], sums
        assert sums["rated"] == sums["settled"], sums
        return ours, limit


def main() -> None:
    """Run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events-per-second", type=int, default=60_000, help="events of all users together")
    parser.add_argument("--users", type=int, default=5_000, help="users with usage in a window")
    parser.add_argument("--rows", type=int, default=4, help="rows of rated usage of each user in a window")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    events_of_row = round(options.events_per_second * WINDOW_SECONDS / options.users / options.rows)
    if not events_of_row:
        parser.error(
            "there are more rows than events in a window: give fewer --users or --rows, or more --events-per-second"
        )
    with running_stack(servers=("postgres",), say=lambda line: print(line, file=sys.stderr)) as running:
        server = running.stack.database_url
        ours, limit = asyncio.run(measure(server, options.users, options.rows, options.windows, events_of_row))
    events = options.users * options.rows * events_of_row
    figures = {**_circumstances(), **_figures(options.users, events, ours, limit)}
    print(json.dumps(figures, indent=2))
    print(_verdict(options.users, events, ours), file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _circumstances() -> dict[str, object]:
    return {
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_of_the_machine": round(os.getloadavg()[0], 1),
    }


def _figures(users: int, events: int, ours: list[Cost], limit: list[Cost]) -> dict[str, object]:
    """Return the figures of windows of so many users and events."""
    settled, bare = (statistics.median(1 / cost.clock for cost in costs) for costs in (ours, limit))
    cpu, bare_cpu = (statistics.median(cost.cpu for cost in costs) for costs in (ours, limit))
    return {
        "users": users,
        "events_in_a_window": events,
        "events_per_second": round(events / WINDOW_SECONDS),
        "settlements_per_second_that_this_needs": round(users / WINDOW_SECONDS),
        "settled_per_second": [round(1 / cost.clock) for cost in ours],
        "seconds_of_each_window_of_5_s": [round(cost.clock * users, 2) for cost in ours],
        "keeps_up": _keeps_up(users, ours),
        "cores_busy_with_it": round(cpu * users / WINDOW_SECONDS, 2),
        "users_that_one_worker_settles_in_a_window": round(settled * WINDOW_SECONDS),
        "bare_updates_per_second": [round(1 / cost.clock) for cost in limit],
        "ratio": round(settled / bare, 3),
        "cpu_microseconds_per_settlement": round(cpu * 1e6),
        "cpu_microseconds_per_bare_update": round(bare_cpu * 1e6, 1),
    }


def _keeps_up(users: int, costs: list[Cost]) -> bool:
    return all(cost.clock * users < WINDOW_SECONDS for cost in costs)


def _verdict(users: int, events: int, costs: list[Cost]) -> str:
    slowest = max(cost.clock for cost in costs) * users
    return (
        f"{events / WINDOW_SECONDS:,.0f} events/s of {users:,} prepaid users are {users / WINDOW_SECONDS:,.0f} settlements/s: "
        f"{'keeps up' if _keeps_up(users, costs) else 'does NOT keep up'} "
        f"(a window of {WINDOW_SECONDS} s was settled in {slowest:.2f} s at most)"
    )


if __name__ == "__main__":
    main()

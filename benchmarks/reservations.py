"""How many reservations a process of the API makes in a second, and what one waits for.

    python -m benchmarks.reservations [--seconds 5] [--gateways 100] [--subscriptions 1000] [--json FILE]

Three ways: of many subscriptions; of one, whose row one transaction at a time can have; and of many that prepay, which hold credits, too.
`--gateways` ask one after the other, each as soon as it has its answer. Everything, Postgres as well, shares the machine; Postgres is
durable (fsync).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import asyncpg

from benchmarks.traffic import database
from deploy.local.stack import running_stack
from services.api.reservations import Ask, Reserver
from shared.clock import SystemClock
from shared.postgres import create_pool

TTL_SECONDS = 60


class Measured(NamedTuple):
    """Answers in a second, and what one waited for, in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


async def prepare(connection: asyncpg.Connection, subscriptions: int) -> dict[str, list[UUID]]:
    """Make subscriptions with quotas, half of them prepaid; return their ids by billing mode."""
    await connection.execute(
        """INSERT INTO users (id, username, email)
           SELECT md5('user ' || n)::uuid, 'user ' || n, 'user' || n || '@example.com' FROM generate_series(1, $1::int) n""",
        2 * subscriptions,
    )
    await connection.execute(
        "INSERT INTO plans (id, name, amount, currency, interval) VALUES ('many', 'Many', 0, 'USD', 'month')"
    )
    await connection.execute(
        """INSERT INTO subscriptions (id, user_id, plan_id, status, billing_mode, currency, quota_requests, quota_tokens)
           SELECT id, id, 'many', 'active', CASE WHEN row_number() OVER () <= $1 THEN 'prepaid' ELSE 'postpaid' END, 'USD', 1e9, 1e15
           FROM users WHERE email LIKE 'user%'""",
        subscriptions,
    )
    await connection.execute("SELECT add_user_credits(user_id, 1e9) FROM subscriptions WHERE billing_mode = 'prepaid'")
    await connection.execute("VACUUM ANALYZE")
    rows = await connection.fetch("SELECT id, billing_mode FROM subscriptions")
    return {mode: [row["id"] for row in rows if row["billing_mode"] == mode] for mode in ("prepaid", "postpaid")}


async def rush(reserver: Reserver, ask: Callable[[], Ask], gateways: int, seconds: float) -> Measured:
    """Let gateways ask for some seconds."""
    waited: list[float] = []
    end = time.perf_counter() + seconds

    async def gateway() -> None:
        while (began := time.perf_counter()) < end:
            answer = await reserver.reserve(ask())
            assert answer.outcome == "reserved", answer
            waited.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(gateway() for _ in range(gateways)))
    took = time.perf_counter() - began
    return Measured(len(waited) / took, *(round(_quantile(waited, q) * 1e3, 2) for q in (0.5, 0.99)))


def _quantile(values: Sequence[float], share: float) -> float:
    return statistics.quantiles(values, n=1000)[round(share * 1000) - 1]


async def measure(server: str, gateways: int, subscriptions: int, seconds: float) -> dict[str, Measured]:
    """Return what each way made."""
    async with database(server) as (url, connection):
        known = await prepare(connection, subscriptions)
        pool = await create_pool(url, max_size=4, role="tallystick_api")
        reserver = Reserver(pool, SystemClock())
        hot = known["postpaid"][0]
        ways: dict[str, Callable[[], Ask]] = {
            "of many subscriptions": lambda: Ask(random.choice(known["postpaid"]), tokens=900, ttl_seconds=TTL_SECONDS),
            "of one hot subscription": lambda: Ask(hot, tokens=900, ttl_seconds=TTL_SECONDS),
            "of many that prepay": lambda: Ask(random.choice(known["prepaid"]), tokens=900, credits=Decimal("0.04"), ttl_seconds=TTL_SECONDS),
        }  # fmt: skip
        measured = {}
        for name, ask in ways.items():
            await rush(reserver, ask, gateways, 0.5)
            measured[name] = await rush(reserver, ask, gateways, seconds)
            print(f"{name}: {measured[name].per_second:,.0f}/s, p99 {measured[name].p99_ms} ms", file=sys.stderr)
        held = await connection.fetchrow(
            """SELECT (SELECT sum(open) FROM reservation_holds) = (SELECT count(*) FROM reservations WHERE state = 'held') AS open,
                      (SELECT sum(credits) FROM credit_holds) = (SELECT sum(credits) FROM reservation_credits WHERE state = 'held') AS credits"""
        )
        assert all(held.values()), held
        await pool.close()
        return measured


def main() -> None:
    """Run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--gateways", type=int, default=100, help="that ask at once")
    parser.add_argument("--subscriptions", type=int, default=1_000)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    with running_stack(servers=("postgres",), say=lambda line: print(line, file=sys.stderr)) as running:
        measured = asyncio.run(
            measure(running.stack.database_url, options.gateways, options.subscriptions, options.seconds)
        )
    figures = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_of_the_machine": round(os.getloadavg()[0], 1),
        "gateways": options.gateways,
        **{name: {**way._asdict(), "per_second": round(way.per_second)} for name, way in measured.items()},
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

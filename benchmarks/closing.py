"""Closing a month: unbilled rated usage → issued invoices, with billing's role on a real Postgres, durable as it comes.

    python -m benchmarks.closing [--customers 1000,10000] [--lines 100] [--rows 3] [--json FILE]

Each customer has `lines` lines (input and output tokens of models at two power levels), each pair of them over `rows` rows of rated usage of
different hours. Asked for: 10,000 customers with 100 lines each in 60 s on two cores, and time in proportion to customers (linearity 1). Every
size runs in a database of its own and ends with a count and a sum: a fast wrong answer is no answer. Beside the time it prints CPU (this process
and its sessions in Postgres), which other work on the machine disturbs less, and its linearity. 100,000 customers need about 12 GB of disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import structlog

from deploy.local.stack import running_stack
from deploy.migrate import migrate
from services.billing.invoices.closing import close_period
from shared.clock import FixedClock
from shared.period import Period
from shared.postgres import Pool, connect, create_pool

OCTOBER = Period.parse_month("2026-10")
CLOSED_AT = datetime(2026, 11, 3, tzinfo=UTC)
TARGET_SECONDS, TARGET_CUSTOMERS = 60, 10_000

# Prices are such that every line comes to whole cents and more, so that the sum proves something.
FACTS = (
    "INSERT INTO plans (id, name, amount, currency, interval) VALUES ('metered', 'Metered', 0, 'USD', 'month')",
    """INSERT INTO users (id, email) SELECT md5('u' || n)::uuid, 'customer' || n || '@example.com' FROM generate_series(1, $1::int) n""",
    """INSERT INTO subscriptions (id, user_id, plan_id, status, billing_mode, currency, amount, quota_requests, quota_tokens, quota_period_start,
                                  created_at)
       SELECT md5('s' || n)::uuid, md5('u' || n)::uuid, 'metered', 'active', 'postpaid', 'USD', 0, NULL, NULL, '2026-01-01Z', '2026-01-01Z'
       FROM generate_series(1, $1::int) n""",
    """INSERT INTO models (id, name, provider) SELECT 'model-' || m, 'model-' || m, 'openai' FROM generate_series(1, ($1::int + 3) / 4) m""",
    """INSERT INTO model_prices (id, model_id, valid_from, currency, input_price_per_1k, output_price_per_1k)
       SELECT md5('p' || m)::uuid, 'model-' || m, '2026-01-01Z', 'USD', 0.0025, 0.01 FROM generate_series(1, ($1::int + 3) / 4) m""",
    """INSERT INTO rated_usage (subscription_id, hour, model_id, power_level, rating_run_id, user_id, billing_mode, requests, request_tokens,
                                response_tokens, price_id, multiplier, currency, amount, first_event_at, last_event_at)
       SELECT md5('s' || n)::uuid, at, 'model-' || m, level, '00000000-0000-0000-0000-000000000001', md5('u' || n)::uuid, 'postpaid', 40,
              20000 + n, 5000, md5('p' || m)::uuid, factor, 'USD', ((20000 + n) * 0.0000025 + 5000 * 0.00001) * factor, at, at
       FROM generate_series(1, $1::int) n, generate_series(1, ($2::int + 3) / 4) m, (VALUES ('eco', 0.7), ('precision', 1.5)) AS p (level, factor),
            generate_series(1, $3::int) h, LATERAL (SELECT '2026-10-01Z'::timestamptz + h * interval '7 hours') AS t (at)""",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What one size took."""

    customers: int
    lines: int
    rated_rows: int
    seconds: float
    cpu_python: float
    cpu_postgres: float

    @property
    def microseconds(self) -> float:
        """Time of a line."""
        return self.seconds / self.lines * 1e6

    @property
    def cpu_microseconds(self) -> float:
        """CPU of a line."""
        return (self.cpu_python + self.cpu_postgres) / self.lines * 1e6


async def measure(server: str, customers: int, lines: int, rows: int) -> Result:
    """Close a month of so many customers in a new database, and check what came of it. Raises `AssertionError` if that is wrong."""
    name = f"closing_{customers}"
    administrator = await connect(server)
    await administrator.execute(f'DROP DATABASE IF EXISTS "{name}"')
    await administrator.execute(f'CREATE DATABASE "{name}"')
    await administrator.close()
    url = server.rsplit("/", 1)[0] + f"/{name}"
    await migrate(url)
    await _store_facts(url, customers, lines, rows)
    pool = await create_pool(url, role="tallystick_billing", application_name="benchmark")
    started, python = time.perf_counter(), time.process_time()
    closing = await close_period(pool, OCTOBER, clock=FixedClock(CLOSED_AT), grace=timedelta(0))
    seconds, python = time.perf_counter() - started, time.process_time() - python
    assert not closing.failures, closing.failures[:3]
    issued = sum(invoice.lines for invoice in closing.invoices)
    postgres = await _cpu_of_sessions(pool)
    result = Result(customers, issued, await _rated(pool), seconds, python, postgres)
    await _check(pool, result, lines)
    await pool.close()
    administrator = await connect(server)
    await administrator.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await administrator.close()
    return result


async def _store_facts(url: str, customers: int, lines: int, rows: int) -> None:
    owner = await connect(url)
    for statement, arguments in zip(
        FACTS, ((), (customers,), (customers,), (lines,), (lines,), (customers, lines, rows)), strict=True
    ):
        await owner.execute(statement, *arguments, timeout=3600)
    await owner.execute("VACUUM ANALYZE", timeout=3600)
    await owner.execute("CHECKPOINT")
    await owner.close()


async def _rated(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM rated_usage WHERE invoice_line_id IS NOT NULL"))


async def _cpu_of_sessions(pool: Pool) -> float:
    """Seconds of CPU that the server's processes for this pool have used: the machine may be busy with other things."""
    rows = await pool.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'benchmark'")
    return sum(sum(psutil.Process(row["pid"]).cpu_times()[:2]) for row in rows)


async def _check(pool: Pool, result: Result, lines: int) -> None:
    facts: dict[str, Any] = dict(
        await pool.fetchrow(
            """SELECT (SELECT count(*) FROM invoices WHERE number IS NOT NULL) AS invoices, (SELECT count(*) FROM invoice_lines) AS lines,
                      (SELECT sum(exact_amount) FROM invoice_lines) - (SELECT sum(amount) FROM rated_usage) AS difference,
                      (SELECT count(*) FROM rated_usage WHERE invoice_line_id IS NULL) AS unbilled"""
        )
    )
    expected = {
        "invoices": result.customers,
        "lines": result.customers * lines,
        "difference": Decimal(0),
        "unbilled": 0,
    }
    assert facts == expected, f"{facts} instead of {expected}"


_COLUMNS = (
    "customers",
    "lines",
    "rated rows",
    "seconds",
    "lines/s",
    "µs/line",
    "linearity",
    "CPU Python",
    "Postgres",
    "µs/line",
    "linearity",
)


def report(results: Sequence[Result]) -> None:
    """Print the sizes beside each other, and how far time and CPU of a line are from those of the first size."""
    print("".join(f"{name:>12}" for name in _COLUMNS))
    first = results[0]
    for r in results:
        cells = (
            f"{r.customers:,}", f"{r.lines:,}", f"{r.rated_rows:,}", f"{r.seconds:.1f}", f"{r.lines / r.seconds:,.0f}", f"{r.microseconds:.1f}",
            f"{r.microseconds / first.microseconds:.2f}", f"{r.cpu_python:.1f} s", f"{r.cpu_postgres:.1f} s", f"{r.cpu_microseconds:.1f}",
            f"{r.cpu_microseconds / first.cpu_microseconds:.2f}",
        )  # fmt: skip
        print("".join(f"{cell:>12}" for cell in cells))
        if (r.customers, r.lines) == (TARGET_CUSTOMERS, TARGET_CUSTOMERS * 100):
            verdict = "holds" if r.seconds <= TARGET_SECONDS else "does NOT hold"
            machine = f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}"
            print(f"{'':>12}asked for: {TARGET_SECONDS} s; {verdict} on this machine ({machine})")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--customers", default="1000,10000", help="sizes, with commas")
    parser.add_argument("--lines", type=int, default=100, help="lines per customer, a multiple of 4")
    parser.add_argument("--rows", type=int, default=3, help="rows of rated usage behind each pair of lines")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    if arguments.lines % 4:
        parser.error("--lines must be a multiple of 4")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with running_stack(servers=("postgres",)) as running:
        server = running.stack.servers[0].address
        results = []
        for customers in (int(size) for size in arguments.customers.split(",")):
            results.append(asyncio.run(measure(server, customers, arguments.lines, arguments.rows)))
            report(results)
            sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What an event costs the aggregator and billing: CPU of worker and session, WAL, rows written, transactions.

    python -m benchmarks.derived [--together] [--events 200000] [--batch 10000] [--messages 1] [--rounds 3] [--json FILE]

Each works alone on what ingest has announced, or all work at once (`--together`). `--batch` is how many records ingest fetches at once,
and so how large messages are; `--messages` how many of them a fetch brings, which then nothing else joins: 1 is what live traffic would be
if messages did not gather. The least of the rounds counts, since whatever else the machine does only adds; each begins anew with what the
service had written taken away. Everything ends with `tallystick reconcile`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.hardware import Used, cpu_seconds, machine
from benchmarks.running import PATIENCE_SECONDS, Place, make_customers, place, workers
from benchmarks.traffic import Traffic, subscriptions, traffic
from deploy.local.stack import Stack, running_stack

SERVICES = ("aggregator", "billing")
FORGET = {
    "aggregator": "TRUNCATE aggregator_positions, aggregator_inbox, usage_summaries, usage_hours, provider_observations;"
    "UPDATE subscriptions SET used_requests = 0, used_tokens = 0",
    "billing": "TRUNCATE billing_positions, billing_inbox;"
    "SET session_replication_role = replica; TRUNCATE rated_usage; RESET session_replication_role",
}
"""What takes away all that a service has written, so that it begins anew."""
COUNTED_SECONDS = 1.5
"""After so long every session has told the statistics what it has written."""

Rows = dict[str, tuple[int, int, int]]


def say(line: str) -> None:
    """Tell a person who waits."""
    print(line, file=sys.stderr, flush=True)


async def ready(connection: asyncpg.Connection) -> None:
    """Let gateways know of the subscriptions already: telling them is not what is measured."""
    await connection.execute("UPDATE subscriptions SET status_published_version = status_version")
    await connection.execute("VACUUM FULL ANALYZE subscriptions")


async def rows_written(connection: asyncpg.Connection) -> Rows:
    """Return the rows inserted, updated, and of these updated in place, of each table so far."""
    rows = await connection.fetch("SELECT relname, n_tup_ins, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables")
    return {row["relname"]: (row["n_tup_ins"], row["n_tup_upd"], row["n_tup_hot_upd"]) for row in rows}


def rows_an_event(before: Rows, after: Rows, events: int) -> dict[str, list[float]]:
    """Return how many rows an event wrote, by table, where that is one in a thousand events or more."""
    found = {
        name: [round((now - then) / events, 3) for now, then in zip(rows, before.get(name, (0, 0, 0)), strict=True)]
        for name, rows in after.items()
    }
    return {name: counts for name, counts in found.items() if any(counts)}


def transactions(before: Rows, after: Rows, service: str) -> int:
    """Return how many transactions moved a position of a service."""
    return after[f"{service}_positions"][1] - before[f"{service}_positions"][1]


async def sessions(connection: asyncpg.Connection) -> dict[str, float]:
    """Return the CPU seconds of workers' sessions, by worker."""
    found: dict[str, float] = {}
    for row in await connection.fetch(
        "SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'tallystick-%'"
    ):
        name = row["application_name"].removeprefix("tallystick-")
        found[name] = found.get(name, 0.0) + cpu_seconds(row["pid"])
    return found


@dataclass(frozen=True)
class Derived:
    """A place with announced messages."""

    where: Place
    events: int
    variables: dict[str, str]

    async def measure(self, service: str) -> dict[str, Any]:
        """Let a worker apply everything."""
        connection = self.where.connection
        await connection.execute(FORGET[service])
        await connection.execute("VACUUM ANALYZE subscriptions")
        await connection.execute("CHECKPOINT")
        rows = await rows_written(connection)
        with workers(self.where, [f"services.{service}"], self.variables) as pids:
            while not await connection.fetchval(f"SELECT EXISTS (SELECT FROM {service}_positions)"):  # noqa: S608
                await asyncio.sleep(0.005)
            before, started = await Used.now(connection, self.where.stack, pids), time.perf_counter()
            while (
                await connection.fetchval(f"SELECT coalesce(sum(event_count), 0) FROM {service}_inbox") < self.events  # noqa: S608
            ):
                await asyncio.sleep(0.05)
                if time.perf_counter() > started + PATIENCE_SECONDS:
                    raise SystemExit(f"{service} is not done within {PATIENCE_SECONDS:.0f} s")
            seconds = time.perf_counter() - started
            used = (await Used.now(connection, self.where.stack, pids)).since(before, self.events)
        await asyncio.sleep(COUNTED_SECONDS)
        after = await rows_written(connection)
        return {
            "events_per_second": round(self.events / seconds),
            **used,
            "transactions": transactions(rows, after, service),
            "rows_an_event": rows_an_event(rows, after, self.events),
        }


async def announced(where: Place, sent: Traffic, batch: int) -> None:
    """Let ingest store and announce everything."""
    with workers(where, ["services.ingest"], {"TALLYSTICK_INGEST_BATCH_RECORDS": str(batch)}):
        while await where.connection.fetchval(
            "SELECT $1 - coalesce(sum(next_offset), 0) + (SELECT count(*) FROM ingest_outbox) FROM ingest_positions",
            len(sent.records),
        ):
            await asyncio.sleep(0.1)


async def alone(stack: Stack, options: argparse.Namespace, owners: list[str], variables: dict[str, str]) -> Any:
    """Measure each service by itself."""
    sent, found = traffic(options.events, owners), dict[str, Any]()
    async with place(stack, owners, sent) as where:
        await make_customers(where.connection, owners, prepaid=False)
        await ready(where.connection)
        await announced(where, sent, options.batch)
        found["messages"] = await where.connection.fetchval("SELECT sum(message_count) FROM usage_batches")
        derived = Derived(where, len(sent.rows), variables)
        for service in SERVICES:
            runs = []
            for _ in range(options.rounds):
                runs.append(await derived.measure(service))
                say(f"{service}: {runs[-1]}")
            least = {
                name: min(run[name] for run in runs) for name in ("worker_us", "postgres_us", "kafka_us", "wal_bytes")
            }
            found[service] = {**runs[-1], **least}
        with workers(where, ["services.ingest", "services.aggregator", "services.billing"]):
            await where.caught_up()
        found["checks"] = await where.reconciled()
    return found


async def together(stack: Stack, options: argparse.Namespace, owners: list[str], variables: dict[str, str]) -> Any:
    """Let all three work at once on a backlog, and say what each used, and its sessions."""
    names, sent = ("ingest", *SERVICES), traffic(options.events, owners, seed=2)
    events = len(sent.rows)
    async with place(stack, owners, sent) as where:
        connection = where.connection
        await make_customers(connection, owners)
        await ready(connection)
        rows = await rows_written(connection)
        more = {"TALLYSTICK_INGEST_BATCH_RECORDS": str(options.batch), **variables}
        with workers(where, [f"services.{name}" for name in names], more) as pids:
            while not await connection.fetchval("SELECT coalesce(sum(next_offset), 0) FROM ingest_positions"):
                await asyncio.sleep(0.01)
            before, started = await Used.now(connection, stack, pids), time.perf_counter()
            cpu, of_sessions = [cpu_seconds(pid) for pid in pids], await sessions(connection)
            await where.caught_up()
            seconds = time.perf_counter() - started
            used = (await Used.now(connection, stack, pids)).since(before, events)
            workers_us = [(cpu_seconds(pid) - then) / events * 1e6 for pid, then in zip(pids, cpu, strict=True)]
            sessions_us = {
                name: round((now - of_sessions.get(name, 0.0)) / events * 1e6, 2)
                for name, now in (await sessions(connection)).items()
            }
            await asyncio.sleep(COUNTED_SECONDS)
            after = await rows_written(connection)
        return {
            "events_per_second": round(events / seconds),
            **used,
            "workers_us": {name: round(each, 2) for name, each in zip(names, workers_us, strict=True)},
            "sessions_us": sessions_us,
            "transactions": {name: transactions(rows, after, name) for name in names},
            "rows_an_event": rows_an_event(rows, after, events),
            "checks": await where.reconciled(),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--together", action="store_true", help="all three at once, instead of each alone")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=10_000, help="records that ingest fetches at once")
    parser.add_argument("--messages", type=int, help="messages that a fetch brings, joined by no others")
    parser.add_argument("--rounds", type=int, default=3, help="of each service alone")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    where, owners = machine(), subscriptions()
    variables = {
        f"TALLYSTICK_{service.upper()}_{name}": value
        for service in SERVICES
        for name, value in (("BATCH_MESSAGES", str(options.messages)), ("GATHER_SECONDS", "0"))
        if options.messages
    }
    with running_stack(servers=("postgres", "kafka"), say=say) as running:
        found = asyncio.run((together if options.together else alone)(running.stack, options, owners, variables))
    text = json.dumps({"machine": where, "events": options.events, "batch": options.batch, **found}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

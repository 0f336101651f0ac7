"""The hot path beside its limit and its peers, in one run: what `make bench` prints and docs/reports/performance.md shows.

    python -m benchmarks.suite [--quick | --long] [--only copy,scale,pipeline,alone,freshness,growth] [--json FILE] [--report]

`copy` lets raw COPY, our worker, the straightforward FastStream worker and the seeds' row insert take turns, round by round, so
that whatever else the machine does disturbs all of them: believe the ratios, not the rates. Every run of ours ends with a count of
what was stored, every run of the whole pipeline with `tallystick reconcile`: a fast wrong answer is no answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import freshness, growth
from benchmarks.hardware import Used, cpu_seconds, machine
from benchmarks.ingest import BATCH, SUBSCRIPTIONS, Traffic, database, traffic
from benchmarks.peers import TRIGGER, row_inserts
from benchmarks.report import write_report
from benchmarks.running import drain, drain_naively, place, workers
from deploy.local.stack import Stack, running_stack
from services.ingest.acceptance import Limits, accept
from services.ingest.attribution import Owner
from services.ingest.identities import copy_packed
from services.ingest.packing import COLUMNS as PACKED_COLUMNS
from services.ingest.packing import Candidate, pack
from services.ingest.rows import COLUMNS
from shared.contracts import UsageEvent
from shared.ids import event_key, uuid7

PARTS = ("copy", "scale", "pipeline", "alone", "freshness", "growth")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    events: int
    rounds: int
    naive_events: int
    seed_rows: int
    pipeline_events: int
    rates: tuple[int, ...]
    seconds: int
    grown: tuple[int, ...]


QUICK = Size(30_000, 3, 10_000, 500, 30_000, (2_000,), 5, (200_000,))
SMALL = Size(200_000, 5, 50_000, 3_000, 300_000, (5_000, 20_000, 40_000), 15, (1_000_000,))
LONG = Size(1_000_000, 5, 200_000, 20_000, 5_000_000, (5_000, 20_000, 40_000), 120, (1_000_000, 10_000_000))


def say(line: str) -> None:
    """Tell a person who waits."""
    print(line, file=sys.stderr, flush=True)


@dataclass
class Bench:
    """One run of the suite."""

    stack: Stack
    size: Size
    owners: list[str]
    sent: Traffic

    async def raw_copy(self, source: str) -> dict[str, Any]:
        """COPY of ready rows in batches of 10,000: `records` as asyncpg encodes them, `packed` as bytes that are there already."""
        rows, packed = self.sent.rows, _packed(self.sent) if source == "packed" else []
        async with database(self.stack.database_url) as (_, connection):
            await connection.execute(
                "SELECT ensure_usage_partition(now()), ensure_usage_partition(now() - interval '1 hour')"
            )
            await connection.execute("CHECKPOINT")
            before, started, own = await Used.now(connection, self.stack, []), time.perf_counter(), time.process_time()
            for number, first in enumerate(range(0, len(rows), BATCH)):
                async with connection.transaction():
                    if source == "packed":
                        await copy_packed(connection, "usage_logs", packed[number], PACKED_COLUMNS)
                    else:
                        await connection.copy_records_to_table(
                            "usage_logs", records=rows[first : first + BATCH], columns=COLUMNS
                        )
            seconds, own = time.perf_counter() - started, time.process_time() - own
            used = (await Used.now(connection, self.stack, [])).since(before, len(rows))
            assert await connection.fetchval("SELECT count(*) FROM usage_logs") == len(rows)
        return {
            "events_per_second": round(len(rows) / seconds),
            **used,
            "worker_us": round(own / len(rows) * 1e6, 2),
        }

    async def ours(self, count: int = 1) -> dict[str, Any]:
        """Ingest workers, from the broker to committed rows and sums."""
        async with place(self.stack, self.owners, self.sent) as where:
            return (await drain(where, self.sent, count)).figures()

    async def naive(self) -> dict[str, Any]:
        """The straightforward FastStream worker."""
        records = self.sent.records[: self.size.naive_events]
        some = Traffic(records, self.sent.rows[: len({value for _, value in records})])
        async with place(self.stack, self.owners, some) as where:
            await where.connection.execute(TRIGGER)
            return (await drain_naively(where, some)).figures()

    async def seed(self) -> dict[str, Any]:
        """Row inserts with the seeds' triggers."""
        async with place(self.stack, self.owners) as where:
            await where.connection.execute(TRIGGER)
            return {
                "events_per_second": round(await row_inserts(where.connection, self.sent.rows[: self.size.seed_rows]))
            }

    async def pipeline(self) -> dict[str, Any]:
        """All three workers, until every effect is there: rows, summaries, rated and settled usage, published messages."""
        sent = traffic(self.size.pipeline_events, self.owners, seed=2)
        async with place(self.stack, self.owners, sent) as where:
            with workers(where, ["services.ingest", "services.aggregator", "services.billing"]) as pids:
                while not await where.connection.fetchval("SELECT coalesce(sum(next_offset), 0) FROM ingest_positions"):
                    await asyncio.sleep(0.01)
                before, started = await Used.now(where.connection, self.stack, pids), time.perf_counter()
                await where.caught_up()
                seconds = time.perf_counter() - started
                used = (await Used.now(where.connection, self.stack, pids)).since(before, len(sent.records))
            return {
                "events_per_second": round(len(sent.records) / seconds),
                **used,
                "checks": await where.reconciled(),
            }

    async def alone(self) -> dict[str, Any]:
        """The aggregator and billing, each alone, on what ingest has announced."""
        figures: dict[str, Any] = {}
        async with place(self.stack, self.owners, self.sent) as where:
            await drain(where, self.sent)
            events = len(self.sent.rows)
            for service, done in (
                (
                    "aggregator",
                    "SELECT coalesce(sum(request_count), 0) FROM usage_summaries WHERE period_type = 'hour'",
                ),
                ("billing", "SELECT coalesce(sum(event_count), 0) FROM billing_inbox"),
            ):
                with workers(where, [f"services.{service}"]) as pids:
                    while not await where.connection.fetchval(f"SELECT EXISTS (SELECT FROM {service}_positions)"):  # noqa: S608
                        await asyncio.sleep(0.005)
                    started, cpu = time.perf_counter(), sum(map(cpu_seconds, pids))
                    while await where.connection.fetchval(done) < events:
                        await asyncio.sleep(0.005)
                    figures[service] = {
                        "events_per_second": round(events / (time.perf_counter() - started)),
                        "worker_us": round((sum(map(cpu_seconds, pids)) - cpu) / events * 1e6, 2),
                    }
            with workers(where, ["services.ingest", "services.aggregator", "services.billing"]):
                await where.caught_up()
            figures["checks"] = await where.reconciled()
        return figures


def _packed(sent: Traffic) -> list[bytes]:
    """Return the rows of what is sent as COPY takes them, in batches."""
    limits, batch_id, owners = Limits(), uuid7(), dict[str, Owner]()
    window, seen, candidates = limits.window(max(row.created_at for row in sent.rows)), set[bytes](), list[Candidate]()
    for _, value in sent.records:
        event = accept(value, (), limits, *window)
        assert isinstance(event, UsageEvent)
        key, subject = event_key(event.source, event.id), str(event.subject)
        if key not in seen:
            seen.add(key)
            owner = owners.get(subject) or owners.setdefault(subject, Owner(uuid.UUID(subject), None))
            candidates.append(Candidate(None, key, event, owner))
    return [pack(candidates[at : at + BATCH], batch_id, 1).rows for at in range(0, len(candidates), BATCH)]


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return each figure's median, and the rates of all rounds."""
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return {**middle, "rounds": [run["events_per_second"] for run in runs]}


def run(bench: Bench, parts: Sequence[str]) -> dict[str, Any]:
    """Measure the parts that are asked for."""
    found: dict[str, Any] = {}
    if "copy" in parts:
        turns: dict[str, Callable[[], Coroutine[Any, Any, dict[str, Any]]]] = {
            "raw COPY": lambda: bench.raw_copy("records"),
            "raw COPY, packed": lambda: bench.raw_copy("packed"),
            "ours": bench.ours,
            "naive worker": bench.naive,
            "row inserts": bench.seed,
        }
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
        for number in range(1, bench.size.rounds + 1):
            for name, measure in turns.items():
                figures: dict[str, Any] = asyncio.run(measure())
                say(f"round {number} of {bench.size.rounds}: {name}: {figures}")
                runs[name].append(figures)
        found["copy"] = {name: medians(measured) for name, measured in runs.items()}
        found["ratio"] = {
            name: round(found["copy"]["ours"]["events_per_second"] / one["events_per_second"], 3)
            for name, one in found["copy"].items()
            if name != "ours"
        }
    if "scale" in parts:
        found["scale"] = {}
        for count in (1, 2, 4):
            found["scale"][count] = medians([asyncio.run(bench.ours(count)) for _ in range(min(3, bench.size.rounds))])
            say(f"{count} ingest workers: {found['scale'][count]}")
    for name, part in (("pipeline", bench.pipeline), ("alone", bench.alone)):
        if name in parts:
            found[name] = asyncio.run(part())
            say(f"{name}: {found[name]}")
    if "freshness" in parts:
        found["freshness"] = {}
        for rate in bench.size.rates:
            found["freshness"][rate] = asyncio.run(
                freshness.measure(bench.stack, bench.owners, rate, bench.size.seconds)
            )
            say(f"freshness at {rate} events/s: {found['freshness'][rate]}")
    if "growth" in parts:
        found["growth"] = asyncio.run(growth.measure(bench.stack, bench.owners, bench.sent, (0, *bench.size.grown)))
        say(f"growth: {found['growth']}")
    return found


def main() -> None:
    """Run, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a minute or two, to see that it works")
    size.add_argument("--long", action="store_true", help="an hour or more")
    parser.add_argument("--only", default=",".join(PARTS), help="which parts, with commas")
    parser.add_argument("--json", type=Path, default=Path(".tallystick/bench.json"), help="where the figures go")
    parser.add_argument("--report", action="store_true", help="also write docs/reports/performance.md and its plot")
    options = parser.parse_args()
    chosen = QUICK if options.quick else LONG if options.long else SMALL
    where = machine()
    owners = [str(uuid.UUID(int=random.Random(n).getrandbits(128), version=4)) for n in range(SUBSCRIPTIONS)]
    sent = traffic(chosen.events, owners)
    with running_stack(servers=("postgres", "kafka"), say=say) as running:
        found = run(Bench(running.stack, chosen, owners, sent), options.only.split(","))
    document = {"machine": where, "events": chosen.events, "record_bytes": len(sent.records[0][1]), **found}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    say(f"figures: {options.json}")
    print(write_report(document, Path("docs/reports") if options.report else None))


if __name__ == "__main__":
    main()

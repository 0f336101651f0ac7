"""What an event costs a worker and Postgres, stage by stage: microseconds of CPU, which other programs disturb less than rates.

    python -m benchmarks.stages [--events 40000] [--rounds 7] [--json FILE]

Each stage runs alone, on the same events, in batches as the worker has them; the least of the rounds counts. The plain ways (`row`,
`aggregate`, COPY of records) are what `packing.pack` replaced: they are measured beside it in every run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import aiokafka.consumer.fetcher
import asyncpg
from aiokafka import TopicPartition
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from benchmarks.hardware import cpu_seconds, machine
from benchmarks.traffic import database, subscriptions, traffic
from deploy.local.stack import running_stack
from services.ingest.acceptance import Limits, accept
from services.ingest.announcement import announce_recorded
from services.ingest.attribution import Attributor, Owner
from services.ingest.compiled import Compiled, load, make_sweeper
from services.ingest.compiled_reading import CompiledReader
from services.ingest.decoding import decode_structured
from services.ingest.deltas import aggregate
from services.ingest.identities import copy_packed
from services.ingest.packing import COLUMNS as PACKED
from services.ingest.packing import IDENTITY_COLUMNS, Candidate, pack
from services.ingest.rows import COLUMNS, UsageRow, usage_row
from services.ingest.sweeping import Sweep, Sweeper, sweep_plainly
from shared.contracts import Origin, UsageEvent
from shared.fetching import BatchReader, TolerantRecords, read_batches_with
from shared.ids import event_key, uuid7

BATCH = 5_000
FETCHED_AT_ONCE = 700
NO_RECORD: Any = None
"""Packing asks no candidate where it came from."""
ORIGIN = Origin("main", "usage.events", 0, 0, 0, BATCH)


def events_of(count: int) -> tuple[list[bytes], list[Candidate]]:
    """Return records' values and the events in them, each once."""
    owners = subscriptions()
    of = {owner: Owner(uuid.UUID(owner), None) for owner in owners}
    values = list(dict.fromkeys(value for _, value in traffic(count, owners).records))
    window, found = Limits().window(datetime.now(UTC)), []
    for value in values:
        event = accept(value, (), Limits(), *window)
        assert isinstance(event, UsageEvent)
        key = event_key(event.source, event.id)
        found.append(Candidate(NO_RECORD, key, event, of[str(event.subject)]))
    return values, found


def in_batches(action: Callable[[Any], object], items: list[Any]) -> Callable[[], None]:
    """Return what does it to all items, a batch at a time."""

    def run() -> None:
        for first in range(0, len(items), BATCH):
            action(items[first : first + BATCH])

    return run


def python_stages(values: list[bytes], candidates: list[Candidate]) -> dict[str, Callable[[], object]]:
    """Return what the worker does with all events in Python, by stage."""
    limits, batch_id = Limits(), uuid7()
    window = limits.window(datetime.now(UTC))
    rows = rows_of(candidates, batch_id)
    sums = pack(candidates[:BATCH], batch_id, 1).sums()
    fetched = encoded(values)
    known = {c.event.subject: c.owner for c in candidates}
    sweep = Sweep(limits, window, lambda event: known[event.subject])
    sweepers: dict[str, Sweeper] = {"in Python": sweep_plainly}
    readers: dict[str, BatchReader | None] = {"in Python": None}
    with suppress(ImportError):
        readers["compiled"] = CompiledReader(load(Compiled.REQUIRED))
        attributor = Attributor()
        attributor.remember({(subject, None, None): owner for subject, owner in known.items()})
        sweepers["compiled"] = make_sweeper(load(Compiled.REQUIRED), limits, attributor.known_as, BATCH)[0]
    return {
        **{f"fetch ({how})": partial(read, fetched, reader) for how, reader in readers.items()},
        "decode (msgspec)": lambda: [decode_structured(value) for value in values],
        "accept, with decode": lambda: [accept(value, (), limits, *window) for value in values],
        "identity (UUIDv5)": lambda: [event_key(c.event.source, c.event.id) for c in candidates],
        "pack: rows, identities": in_batches(lambda some: pack(some, batch_id, 1), candidates),
        "pack, with sums": in_batches(lambda some: pack(some, batch_id, 1).sums(), candidates),
        **{
            f"sweep {how}: accept, identity, owner, pack, sums": in_batches(
                partial(swept, sweeper, sweep, batch_id), read(fetched, readers[how])
            )
            for how, sweeper in sweepers.items()
        },
        "announcement": in_batches(lambda _: announce_recorded(batch_id, ORIGIN, sums, datetime.now(UTC)), candidates),
        "plain: row": lambda: rows_of(candidates, batch_id),
        "plain: aggregate": in_batches(aggregate, rows),
    }


def read(fetched: bytes, reader: BatchReader | None) -> list[Any]:
    """Make records of what was fetched, as a consumer does."""
    read_batches_with(reader)
    walk = aiokafka.consumer.fetcher.PartitionRecords
    return list(iter(walk(TopicPartition("usage.events", 0), TolerantRecords(fetched), [], 0, None, None, True, 1)))


def swept(sweeper: Sweeper, sweep: Sweep, batch_id: uuid.UUID, records: list[Any]) -> None:
    """Go over a batch, and add it up."""
    sweeper(sweep, records, batch_id, 1).packed.sums()


def rows_of(candidates: list[Candidate], batch_id: uuid.UUID) -> list[UsageRow]:
    return [usage_row(c.event, c.key, c.owner.subscription_id, c.owner.api_key_id, batch_id) for c in candidates]


def encoded(values: list[bytes]) -> bytes:
    """Return records as a broker keeps them."""
    parts: list[bytes] = []
    for first in range(0, len(values), FETCHED_AT_ONCE):
        builder = DefaultRecordBatchBuilder(
            magic=2, compression_type=0, is_transactional=False, producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=2**24
        )  # fmt: skip
        for number, value in enumerate(values[first : first + FETCHED_AT_ONCE]):
            builder.append(number, 1_700_000_000_000, b"k" * 36, value, [])
        parts.append(first.to_bytes(8, "big") + bytes(builder.build())[8:])
    return b"".join(parts)


async def database_stages(
    server: str, pid: int | None, candidates: list[Candidate], rounds: int
) -> dict[str, dict[str, float]]:
    """Return what COPY costs the client, and Postgres, for an event."""
    batch_id = uuid7()
    rows = rows_of(candidates, batch_id)
    packed = [pack(candidates[first : first + BATCH], batch_id, 1) for first in range(0, len(candidates), BATCH)]
    async with database(server) as (_, connection):
        for at in (rows[0].created_at, rows[-1].created_at):
            await connection.execute("SELECT ensure_usage_partition($1)", at)

        async def records(first: int) -> None:
            await connection.copy_records_to_table("usage_logs", records=rows[first : first + BATCH], columns=COLUMNS)

        async def ready(first: int) -> None:
            await copy_packed(connection, "usage_logs", packed[first // BATCH].rows, PACKED)

        async def guarded(first: int) -> None:
            await copy_packed(connection, "usage_ids", packed[first // BATCH].identities, IDENTITY_COLUMNS)
            await ready(first)

        variants = {"COPY of records": records, "COPY of packed rows": ready, "the same, with identities": guarded}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, copy in variants.items():
                found[name].append(await _copied(connection, pid, copy, len(rows)))
    return {
        name: {"client_us": round(min(c for c, _ in took), 2), "postgres_us": round(min(s for _, s in took), 2)}
        for name, took in found.items()
    }


async def _copied(
    connection: asyncpg.Connection, pid: int | None, copy: Callable[[int], Awaitable[None]], events: int
) -> tuple[float, float]:
    await connection.execute("TRUNCATE usage_logs, usage_ids")
    await connection.execute("CHECKPOINT")
    ours, servers = process_time(), cpu_seconds(pid)
    for first in range(0, events, BATCH):
        async with connection.transaction():
            await copy(first)
    return (process_time() - ours) / events * 1e6, (cpu_seconds(pid) - servers) / events * 1e6


def measure(server: str, pid: int | None, events: int, rounds: int) -> dict[str, Any]:
    """Return microseconds of CPU for an event, by stage."""
    values, candidates = events_of(events)
    stages = python_stages(values, candidates)
    gc.collect()
    gc.freeze()  # as a worker does
    gc.set_threshold(200_000, 10, 20)
    took: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds):
        for name, stage in stages.items():
            started = process_time()
            stage()
            took[name].append((process_time() - started) / len(candidates) * 1e6)
    return {
        "python_us": {name: round(min(times), 2) for name, times in took.items()},
        "copy": asyncio.run(database_stages(server, pid, candidates, rounds)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    where = machine()
    with running_stack(servers=("postgres",)) as running:
        [postgres] = running.stack.servers
        found = measure(running.stack.database_url, postgres.pid, options.events, options.rounds)
    text = json.dumps({"machine": where, **found}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

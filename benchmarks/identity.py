"""What it costs to know every identity for ever: candidates for the index of `(source, id)`, beside the log without one.

    python -m benchmarks.identity [--sizes 0,1000000,10000000] [--events 200000] [--json FILE]

Each candidate has a log of its own and holds `size` identities before the clock starts (its index two thirds full, as random
insertions leave it). Then batches of 5,000 are copied in, one transaction each, all candidates in turn batch by batch: believe
the ratios to the log alone, which is the present schema, and not the rates. A checkpoint comes first, so that full-page
images are paid for as after any checkpoint: the more pages a batch touches, the more of them.
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
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.traffic import database, traffic
from deploy.local.stack import running_stack
from services.ingest.rows import COLUMNS, UsageRow

BATCH = 5_000
MONTHS = 14
"""Months of event time that 400 days touch."""
GENERATIONS = 3
"""Half-years behind the newest one that 400 days touch."""


@dataclass(frozen=True)
class Candidate:
    """One way to keep identities: its table, how it is filled with `{size}` of them, its unique index, and what a batch asks first."""

    name: str
    table: str
    fill: str = ""
    index: str = ""
    columns: tuple[str, ...] = ()
    probe: str = ""
    ordered: bool = True


_UUIDS = "SELECT gen_random_uuid(), now() - random() * interval '400 days' FROM generate_series(1, {size})"
_HASHES = (
    "SELECT (random() * 18446744073709551615 - 9223372036854775808)::bigint, now() FROM generate_series(1, {size})"
)
_IN = "SELECT id, created_at FROM {table} WHERE id = ANY($1::uuid[])"

CANDIDATES = (
    Candidate("log alone", ""),
    Candidate(
        "uuid", "(id uuid NOT NULL, created_at timestamptz NOT NULL)", "INSERT INTO {table} " + _UUIDS,
        "CREATE UNIQUE INDEX {table}_key ON {table} (id) WITH (fillfactor = 66)", ("id", "created_at"),
    ),
    Candidate(
        "uuid, as they come", "(id uuid NOT NULL, created_at timestamptz NOT NULL)", "INSERT INTO {table} " + _UUIDS,
        "CREATE UNIQUE INDEX {table}_key ON {table} (id) WITH (fillfactor = 66)", ("id", "created_at"), ordered=False,
    ),
    Candidate(
        "8-byte hash", "(hash bigint NOT NULL, created_at timestamptz NOT NULL)",
        "INSERT INTO {table} " + _HASHES,
        "CREATE UNIQUE INDEX {table}_key ON {table} (hash) WITH (fillfactor = 66)", ("hash", "created_at"),
    ),
    Candidate(
        "exclusion by hash index", "(id uuid NOT NULL, created_at timestamptz NOT NULL)", "INSERT INTO {table} " + _UUIDS,
        "ALTER TABLE {table} ADD CONSTRAINT {table}_key EXCLUDE USING hash (id WITH =)", ("id", "created_at"),
    ),
    Candidate(
        "generations", "(id uuid NOT NULL, created_at timestamptz NOT NULL, generation smallint NOT NULL) PARTITION BY LIST (generation)",
        "INSERT INTO {table} SELECT gen_random_uuid(), now(), n % 3 FROM generate_series(1, {size}) n",
        "CREATE UNIQUE INDEX ON {part} (id) WITH (fillfactor = 66)", ("id", "created_at", "generation"),
        probe=_IN + " AND generation < 3",
    ),
    Candidate(
        "index by event month, all probed",
        "(id uuid NOT NULL, created_at timestamptz NOT NULL, generation smallint NOT NULL) PARTITION BY LIST (generation)",
        "INSERT INTO {table} SELECT gen_random_uuid(), now(), n % 14 FROM generate_series(1, {size}) n",
        "CREATE INDEX ON {part} (id) WITH (fillfactor = 66)", ("id", "created_at", "generation"), probe=_IN,
    ),
)  # fmt: skip


@dataclass
class Figures:
    """Of one candidate at one size."""

    seconds: list[float] = field(default_factory=list)
    wal_bytes: int = 0
    index_bytes: int = 0
    heap_bytes: int = 0


async def prepare(connection: asyncpg.Connection, number: int, candidate: Candidate, size: int) -> None:
    """Make a candidate's log and its table, with `size` identities in it."""
    await connection.execute(f"CREATE TABLE log_{number} (LIKE usage_logs INCLUDING ALL)")
    if not candidate.table:
        return
    table, parts = f"ids_{number}", 0
    await connection.execute(f"CREATE TABLE {table} {candidate.table}")
    if "PARTITION" in candidate.table:
        parts = MONTHS if "month" in candidate.name else GENERATIONS + 1
        for part in range(parts):
            await connection.execute(f"CREATE TABLE {table}_{part} PARTITION OF {table} FOR VALUES IN ({part})")
    await connection.execute(candidate.fill.format(table=table, size=size))
    for leaf in [f"{table}_{n}" for n in range(parts)] or [table]:
        await connection.execute(candidate.index.format(table=table, part=leaf))
    await connection.execute(f"VACUUM ANALYZE {table}")


async def store(connection: asyncpg.Connection, number: int, candidate: Candidate, rows: Sequence[UsageRow]) -> None:
    """Store one batch, as ingest would."""
    table = f"ids_{number}"
    async with connection.transaction():
        if candidate.table:
            newest = MONTHS - 1 if "month" in candidate.name else GENERATIONS
            made: list[tuple[Any, ...]]
            match candidate.columns:
                case ("hash", _):
                    made = [(int.from_bytes(row.id.bytes[:8], "big", signed=True), row.created_at) for row in rows]
                case (_, _):
                    made = [(row.id, row.created_at) for row in rows]
                case _:
                    made = [(row.id, row.created_at, newest) for row in rows]
            if candidate.probe:
                found = await connection.fetch(candidate.probe.format(table=table), sorted(row.id for row in rows))
                assert not found
            records = sorted(made) if candidate.ordered else made
            await connection.copy_records_to_table(table, records=records, columns=candidate.columns)
        await connection.copy_records_to_table(f"log_{number}", records=rows, columns=COLUMNS)


async def measure(
    server: str, size: int, rows: Sequence[UsageRow], candidates: Sequence[Candidate]
) -> dict[str, Figures]:
    """Let the candidates store the same rows, in turn."""
    figures = {candidate.name: Figures() for candidate in candidates}
    async with database(server) as (_, connection):
        for number, candidate in enumerate(candidates):
            print(f"size {size}: {candidate.name}", file=sys.stderr)
            await prepare(connection, number, candidate, size)
        await connection.execute("CHECKPOINT")
        for first in range(0, len(rows), BATCH):
            turn = list(enumerate(candidates))
            random.Random(first).shuffle(turn)
            for number, candidate in turn:
                figure, before = figures[candidate.name], await _wal(connection)
                started = time.perf_counter()
                await store(connection, number, candidate, rows[first : first + BATCH])
                figure.seconds.append(time.perf_counter() - started)
                figure.wal_bytes += await _wal(connection) - before
        for number, candidate in enumerate(candidates):
            if candidate.table:
                row = await connection.fetchrow(
                    "SELECT sum(pg_indexes_size(oid)) AS indexes, sum(pg_relation_size(oid)) AS heap "
                    "FROM pg_class WHERE relname ~ $1 AND relkind = 'r'",
                    rf"^ids_{number}(_\d+)?$",
                )
                figures[candidate.name].index_bytes = int(row["indexes"])
                figures[candidate.name].heap_bytes = int(row["heap"])
    return figures


async def _wal(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"))


def table(size: int, events: int, figures: dict[str, Figures]) -> list[dict[str, float | str | int]]:
    """Return a line for each candidate."""
    alone = figures["log alone"]
    return [
        {
            "size": size,
            "candidate": name,
            "ratio": round(statistics.median(alone.seconds) / statistics.median(figure.seconds), 2),
            "wal_bytes_per_event": round(figure.wal_bytes / events),
            "index_bytes_per_identity": round(figure.index_bytes / (size + events)),
            "heap_bytes_per_identity": round(figure.heap_bytes / (size + events)),
        }
        for name, figure in figures.items()
    ]


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0,1000000,10000000")
    parser.add_argument(
        "--only", default="", help="names of candidates, with commas; all without it. The log alone is always one"
    )
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    rows = traffic(options.events, [str(uuid.UUID(int=n + 1)) for n in range(10_000)]).rows
    named = set(options.only.split(",")) - {""}
    candidates = [c for c in CANDIDATES if not named or c.name in named | {CANDIDATES[0].name}]
    lines = []
    with running_stack(
        servers=("postgres",), postgres_settings={"shared_buffers": "1GB", "max_wal_size": "8GB"}
    ) as running:
        for size in map(int, options.sizes.split(",")):
            figures = asyncio.run(measure(running.stack.database_url, size, rows, candidates))
            for line in table(size, len(rows), figures):
                lines.append(line)
                print(json.dumps(line), flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine, "events": len(rows), "figures": lines}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()

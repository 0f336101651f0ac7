"""Ingest's IO with Postgres beside the log: what was refused or held, batches, positions. The SQL is in queries.sql.

Each function runs in the caller's transaction. The log's own writer is in log.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.ingest.acceptance import Rejected
from services.ingest.attribution import Unknown
from shared.contracts import Origin
from shared.errors import BrokenInvariant
from shared.ids import uuid7
from shared.postgres import Connection
from shared.slices import Record
from shared.sql import Queries

_SQL = Queries.load("services.ingest")


@dataclass(frozen=True, slots=True)
class Counts:
    """The account of one batch's offsets."""

    inserted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    held: int = 0
    gaps: int = 0
    amended: int = 0
    """Of the inserted, those that left two rows."""


async def quarantine(
    connection: Connection,
    origin: Origin,
    batch_id: UUID,
    refused: Sequence[tuple[Record, Rejected]],
) -> list[UUID]:
    """Keep refused records with reason, original bytes and origin. Return their new ids, in the same order."""
    ids = [uuid7() for _ in refused]
    if not refused:
        return ids
    await connection.execute(
        _SQL["quarantine"],
        *_place(origin),
        batch_id,
        ids,
        [rejected.reason for _, rejected in refused],
        [rejected.detail.replace("\x00", "\\u0000") for _, rejected in refused],
        *_columns(record for record, _ in refused),
        [_instant(record.timestamp) for record, _ in refused],
    )
    return ids


async def hold(
    connection: Connection,
    origin: Origin,
    batch_id: UUID,
    held: Sequence[tuple[Record, Unknown, datetime]],
) -> None:
    """Keep valid events of unknown subscriptions or keys, and corrections of unknown originals, with their own times."""
    if not held:
        return
    await connection.execute(
        _SQL["hold"],
        *_place(origin),
        batch_id,
        [uuid7() for _ in held],
        [unknown.reason for _, unknown, _ in held],
        [unknown.subscription_id for _, unknown, _ in held],
        [unknown.api_key_id for _, unknown, _ in held],
        [unknown.api_key_hash for _, unknown, _ in held],
        [unknown.original_id for _, unknown, _ in held],
        [occurred_at for _, _, occurred_at in held],
        *_columns(record for record, _, _ in held),
    )


async def record_batch(
    connection: Connection, batch_id: UUID, kind: str, origin: Origin, counts: Counts, *, message_count: int
) -> None:
    """Write the batch's own row."""
    await connection.execute(
        _SQL["record_batch"], batch_id, kind, *_place(origin), origin.first_offset, origin.next_offset,
        counts.inserted, counts.duplicates, counts.quarantined, counts.held, counts.gaps, message_count, counts.amended,
    )  # fmt: skip


async def advance_position(connection: Connection, origin: Origin, counts: Counts) -> None:
    """Move the position past the batch. Raises `BrokenInvariant` if it is not where the batch began."""
    moved = await connection.execute(
        _SQL["advance_position"], *_place(origin), origin.first_offset, origin.next_offset,
        counts.inserted, counts.duplicates, counts.quarantined, counts.held, counts.gaps,
    )  # fmt: skip
    if moved != "UPDATE 1":
        raise BrokenInvariant(
            f"the position of {origin.topic}[{origin.partition}] was not at {origin.first_offset} although its row was locked"
        )


async def attributable(connection: Connection, cluster: str, limit: int) -> list[asyncpg.Record]:
    """Take held events whose owner exists by now, oldest first."""
    return await connection.fetch(_SQL["attributable"], limit, cluster)  # type: ignore[no-any-return]


async def mark_attributed(connection: Connection, ids: Sequence[UUID], batch_id: UUID) -> None:
    """Say which batch attributed held events."""
    await connection.execute(_SQL["attributed"], ids, batch_id)


async def still_held(connection: Connection) -> tuple[int, float]:
    """Return how many events are held and the age of the oldest in seconds."""
    row = await connection.fetchrow(_SQL["still_held"])
    return row["events"], row["oldest_seconds"]


def headers_json(headers: Iterable[tuple[str, bytes | None]]) -> str:
    """Return record headers as a JSON list of [name, base64 or null]: any bytes survive."""
    readable = ((name.replace("\x00", "\\u0000"), content) for name, content in headers)  # jsonb holds no NUL
    return json.dumps(
        [[name, None if content is None else base64.b64encode(content).decode()] for name, content in readable]
    )


def headers_of_json(text: str) -> list[tuple[str, bytes | None]]:
    """Return the headers that `headers_json` wrote."""
    return [(name, None if content is None else base64.b64decode(content)) for name, content in json.loads(text)]


def _place(origin: Origin) -> tuple[str, str, int, int]:
    return origin.cluster, origin.topic, origin.partition, origin.epoch


def _columns(records: Iterable[Record]) -> tuple[list[Any], ...]:
    """Return the columns offset, key, value, headers of records."""
    all_records = list(records)
    return (
        [r.offset for r in all_records],
        [r.key for r in all_records],
        [r.value for r in all_records],
        [headers_json(r.headers) for r in all_records],
    )


def _instant(milliseconds: int | None) -> datetime | None:
    """Return a record's own time; None for what is no time, such as the nanoseconds that some producers send."""
    try:
        return None if milliseconds is None or milliseconds < 0 else datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None

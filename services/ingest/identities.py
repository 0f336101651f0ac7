"""Identities: which events were ever stored, at whatever time and for whomever (usage_ids). The SQL is in queries.sql.

An identity is guarded by a unique key, in the transaction that stores its row. Generations of them that are closed are only
looked into: `Guard.hold` says which one is open, and keeps it open until the transaction ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import asyncpg

from services.ingest.packing import IDENTITY_COLUMNS
from shared.postgres import Connection
from shared.sql import Queries

_SQL = Queries.load("services.ingest")
ElsewhereIdentity: TypeAlias = tuple[datetime, UUID, UUID | None]
"""What is guarded: the event time of the row that an event left, the event's id, and the id of the row where that is another one."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The generation that is open for this transaction, and whether closed ones must be looked into."""

    generation: int
    earlier: bool

    @classmethod
    async def hold(cls, connection: Connection) -> Guard:
        """Keep the open generation open until the caller's transaction ends."""
        row = await connection.fetchrow(_SQL["write_usage_ids"])
        return cls(row["generation"], row["earlier"])

    async def known_before(self, connection: Connection, ids: Sequence[UUID]) -> set[UUID]:
        """Return those ids that closed generations guard: those the open one's unique key does not see."""
        if not self.earlier or not ids:
            return set()
        return {row["id"] for row in await connection.fetch(_SQL["known_before"], ids, self.generation)}

    async def add(self, connection: Connection, identities: bytes) -> None:
        """Guard packed identities (see packing.py). Raises asyncpg's `UniqueViolationError` if the open generation has one of them.

        Their order keeps neighbours in the index together; and two workers with the same ids wait for each other, but not in a circle.
        """
        await copy_packed(connection, "usage_ids", identities, IDENTITY_COLUMNS)

    async def add_elsewhere(self, connection: Connection, identities: Iterable[ElsewhereIdentity]) -> None:
        """Guard identities of which some left a row of another id, in any order. Raises as `add` does."""
        await connection.copy_records_to_table(
            "usage_ids",
            records=[(*identity, self.generation) for identity in sorted(identities, key=lambda one: one[1].bytes)],
            columns=("created_at", "id", "row_id", "generation"),
        )


async def copy_packed(connection: Connection, table: str, packed: bytes, columns: Sequence[str]) -> None:
    """Copy rows that are packed already into a table."""
    await connection.copy_to_table(
        table, source=memoryview(packed), columns=columns, format="binary"
    )  # bytes would be a path


async def stored_versions(
    connection: Connection, wanted: Sequence[tuple[UUID, datetime]]
) -> dict[UUID, dict[str, object]]:
    """Return what is stored under ids: the row that the identity left, and `guarded_at`, its time.

    A row without `id` is one whose month is archived. The times are those of the events that came: they find what is in the
    log, but for some reason not guarded.
    """
    query = _SQL["stored_versions_distributed" if _Log.distributed else "stored_versions"]
    try:
        rows = await connection.fetch(query, [id_ for id_, _ in wanted], [at for _, at in wanted])
    except asyncpg.FeatureNotSupportedError:
        _Log.distributed = True  # the transaction is lost: who repeats it asks the other way
        raise
    return {row["wanted"]: dict(row) for row in rows}


class _Log:
    """What this process has learnt of the log."""

    distributed = False
    """Citus refuses a query for one table: it has distributed the log. Found out by trying, as a question each time costs more."""

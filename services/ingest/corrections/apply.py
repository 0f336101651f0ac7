"""Applies corrections, in the transaction of the batch that brought them, after its usage events are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from services.ingest.acceptance import Rejected
from services.ingest.corrections.decisions import (
    CORRECTION_COLUMNS,
    Becomes,
    Correcting,
    Stored,
    decide,
    original_row,
    replacement,
    reversal_of,
)
from services.ingest.identities import ElsewhereIdentity, Guard, stored_versions
from services.ingest.rows import UsageRow
from services.ingest.verdicts import REFUSALS_OF_VALUES, refused_by_database
from shared.postgres import Connection
from shared.slices import Record


@dataclass(slots=True)
class Corrected:
    """What became of the corrections of a batch: they are in one of the numbers or lists each, an amendment's rows in both of the first."""

    reversed: list[UsageRow] = field(default_factory=list)
    """The rows that were taken back: what is to be subtracted."""
    replaced: list[UsageRow] = field(default_factory=list)
    voided: int = 0
    amended: int = 0
    duplicates: int = 0
    refused: list[tuple[Record, Rejected]] = field(default_factory=list)
    waiting: list[Correcting] = field(default_factory=list)

    @property
    def applied(self) -> int:
        """Corrections that left rows."""
        return self.voided + self.amended


async def apply_corrections(connection: Connection, batch_id: UUID, corrections: Sequence[Correcting]) -> Corrected:
    """Apply each correction once; of two that name the same original, the first.

    Comes in rounds: a correction may name an amendment of the same batch. What names nothing that is known is waiting.
    """
    result, pending = Corrected(), list(corrections)
    if not pending:
        return result
    applying = _Applying(connection, await Guard.hold(connection), batch_id, result)
    while pending:
        stored = await stored_versions(connection, [asked for c in pending for asked in c.asked])
        ready, waiting, later = _sort(pending, stored, batch_id, result)
        if not ready and not later:
            result.waiting = waiting
            return result
        later += await applying.store(ready, stored)
        left = {id(c) for c in (*waiting, *later)}
        pending = [c for c in pending if id(c) in left]
    return result


def _sort(
    pending: Sequence[Correcting], stored: Stored, batch_id: UUID, result: Corrected
) -> tuple[list[Correcting], list[Correcting], list[Correcting]]:
    """Return which can be applied now, which wait for an original, and which for another correction of this round."""
    ready: list[Correcting] = []
    waiting: list[Correcting] = []
    later: list[Correcting] = []
    taken: set[UUID] = set()
    for correcting in pending:
        if taken & {correcting.id, correcting.original, correcting.reversal}:
            later.append(correcting)
            continue
        found = decide(correcting, stored, batch_id)
        if isinstance(found, Rejected):
            result.refused.append((correcting.record, found))
        elif found is Becomes.DUPLICATE:
            result.duplicates += 1
        elif found is Becomes.WAITING:
            waiting.append(correcting)
        else:
            ready.append(correcting)
            taken |= {correcting.id, correcting.reversal}
    return ready, waiting, later


@dataclass(slots=True)
class _Applying:
    """Stores the rows of corrections, and counts them in `result`."""

    connection: Connection
    guard: Guard
    batch_id: UUID
    result: Corrected

    async def store(self, ready: list[Correcting], stored: Stored) -> list[Correcting]:
        """Return those to look at again, because another transaction was quicker."""
        if not ready:
            return []
        originals = [original_row(stored[c.original]) for c in ready]
        replaced = [replacement(c, o.created_at, self.batch_id) for c, o in zip(ready, originals, strict=True)]
        try:
            async with self.connection.transaction():
                await self._copy(ready, originals, replaced)
        except asyncpg.UniqueViolationError:
            ids = [asked for c in ready for asked in (c.asked[0], c.asked[2])]
            if not await stored_versions(self.connection, ids):
                raise  # another transaction has it in flight: come again
            return ready
        except REFUSALS_OF_VALUES as error:
            if len(ready) == 1:
                self.result.refused.append((ready[0].record, refused_by_database(error)))
                return []
            middle = len(ready) // 2
            return await self.store(ready[:middle], stored) + await self.store(ready[middle:], stored)
        self.result.reversed += originals
        self.result.replaced += (new := [row for row in replaced if row is not None])
        self.result.amended += len(new)
        self.result.voided += len(ready) - len(new)
        return []

    async def _copy(
        self, ready: Sequence[Correcting], originals: Sequence[UsageRow], replaced: Sequence[UsageRow | None]
    ) -> None:
        rows: list[tuple[Any, ...]] = []
        identities: list[ElsewhereIdentity] = []
        for correcting, original, new in zip(ready, originals, replaced, strict=True):
            at = original.created_at
            rows.append(reversal_of(correcting, original, self.batch_id))
            identities.append((at, correcting.reversal, None))
            identities.append((at, correcting.id, None if new else correcting.reversal))
            if new is not None:
                rows.append((*new, 1, correcting.original, correcting.event.time))
        await self.guard.add_elsewhere(self.connection, identities)
        await self.connection.copy_records_to_table("usage_logs", records=rows, columns=CORRECTION_COLUMNS)

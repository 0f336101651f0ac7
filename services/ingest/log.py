"""The log's writer: each event once, as fast as an optimistic COPY allows. Runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import asyncpg

from services.ingest.acceptance import Rejected, in_utc
from services.ingest.identities import Guard, copy_packed, stored_versions
from services.ingest.packing import COLUMNS, Candidate, Packed, pack, packed_identities
from services.ingest.recent import Recent
from services.ingest.rows import UsageRow, usage_row
from services.ingest.sweeping import Swept
from services.ingest.verdicts import (
    REFUSALS_OF_VALUES,
    conflict_of,
    has_no_partition,
    of_an_archived_month,
    refused_by_database,
)
from shared.ids import uuid_of_bytes
from shared.period import month_start, next_month
from shared.postgres import Connection, Pool
from shared.slices import Record
from shared.sql import Queries

_SQL = Queries.load("services.ingest")


@dataclass(slots=True)
class Inserted:
    """What became of the candidates: stored, duplicates and refused together they are all of them. `packed` is what was copied."""

    stored: list[Candidate] = field(default_factory=list)
    duplicates: int = 0
    refused: list[tuple[Record, Rejected]] = field(default_factory=list)
    packed: list[Packed] = field(default_factory=list)


class UsageLog:
    """Writes usage rows, and the identities that guard them."""

    def __init__(self, pool: Pool, recent: Recent) -> None:
        self._pool = pool
        self._recent = recent
        self._months: set[datetime] = set()

    async def sweep_in(
        self, connection: Connection, sweep: Callable[[Set[bytes], int], Awaitable[Swept]]
    ) -> tuple[Swept | None, Guard]:
        """Store what one pass over a batch packs: all of it by one COPY, or none. None if it has to go in event by event.

        `sweep` gets the ids that it is not to pack, and the open generation of identities. What is found to be stored already is passed
        over by another sweep.
        """
        guard, known = await Guard.hold(connection), set[bytes]()
        while True:
            try:
                swept = await sweep(known, guard.generation)
                stored = await self._copy_swept(connection, guard, swept)
            except REFUSALS_OF_VALUES as error:
                if has_no_partition(error):  # it was detached: make it again when the batch comes again
                    self._months.clear()
                    raise
                if isinstance(error, asyncpg.UniqueViolationError):
                    raise
                stored = None
            if stored is None:
                return None, guard
            if not stored:
                return swept, guard
            known |= {id_.bytes for id_ in stored}

    async def _copy_swept(self, connection: Connection, guard: Guard, swept: Swept) -> Collection[UUID] | None:
        """Copy what was packed, and return nothing; or return its ids that are stored already; or None if a month is archived."""
        packed = swept.packed
        if not swept.keys:
            return ()
        if await self.ensure_partitions(packed.minutes):
            return None
        if guard.earlier and (
            before := await guard.known_before(connection, [uuid_of_bytes(key) for key in swept.keys])
        ):
            return before
        try:
            await _copy(connection, guard, packed)
        except asyncpg.UniqueViolationError:
            known = await stored_versions(connection, packed_identities(packed.identities))
            if not known:
                raise  # another transaction has it in flight: come again
            return known
        return ()

    async def insert(
        self,
        connection: Connection,
        candidates: Sequence[Candidate],
        batch_id: UUID,
        *,
        guard: Guard | None = None,
        suspected: Collection[bytes] = (),
    ) -> Inserted:
        """Store candidates that were never stored. One that was is a duplicate if it is the same, else refused as a conflict.

        Events that the recent window, this batch or a closed generation of identities has seen, and those that are `suspected`, are
        suspects; the rest is copied straight in. Only if a unique key objects are the stored ones looked up, and what they do not explain
        is copied again.
        """
        result = Inserted()
        if not candidates:
            return result
        if archived := await self.ensure_partitions([c.event.time for c in candidates]):
            candidates = _without(archived, candidates, result)
        into = _Into(connection, guard or await Guard.hold(connection), batch_id, result)
        fresh, suspects = self._split(candidates, suspected)
        if into.guard.earlier and (before := await into.guard.known_before(connection, _ids(fresh))):
            suspects += [c for c in fresh if uuid_of_bytes(c.key) in before]
            fresh = [c for c in fresh if uuid_of_bytes(c.key) not in before]
        await self._copy_new(into, fresh, suspects)
        while suspects:
            suspects = await self._judge(into, suspects)
        return result

    def _split(
        self, candidates: Sequence[Candidate], suspected: Collection[bytes]
    ) -> tuple[list[Candidate], list[Candidate]]:
        fresh: dict[bytes, Candidate] = {}
        suspects: list[Candidate] = []
        for candidate in candidates:
            if candidate.key in fresh or candidate.key in self._recent or candidate.key in suspected:
                suspects.append(candidate)
            else:
                fresh[candidate.key] = candidate
        return list(fresh.values()), suspects

    async def _copy_new(self, into: _Into, fresh: list[Candidate], suspects: list[Candidate]) -> None:
        """Copy `fresh`; what is stored already joins `suspects`."""
        while fresh:
            try:
                await into.copy(fresh)
            except asyncpg.UniqueViolationError:
                known = await stored_versions(into.connection, _ids_and_times(fresh))
                if not known:
                    raise  # another transaction has it in flight: come again
                suspects += [c for c in fresh if uuid_of_bytes(c.key) in known]
                fresh = [c for c in fresh if uuid_of_bytes(c.key) not in known]
            except REFUSALS_OF_VALUES as error:
                if has_no_partition(error):  # it was detached: make it again when the batch comes again
                    self._months.clear()
                    raise
                if len(fresh) == 1:
                    into.result.refused.append((fresh[0].record, refused_by_database(error)))
                    return
                # Postgres refused a value that validation let pass: find the one row, so that its neighbours are unharmed.
                middle = len(fresh) // 2
                await self._copy_new(into, fresh[:middle], suspects)
                fresh = fresh[middle:]
            else:
                return

    async def _judge(self, into: _Into, suspects: list[Candidate]) -> list[Candidate]:
        """Compare suspects with what is stored under their id. Return those that must be looked at again."""
        stored = await stored_versions(into.connection, _ids_and_times(suspects))
        unexplained: list[Candidate] = []
        for candidate in suspects:
            earlier = stored.get(uuid_of_bytes(candidate.key))
            if earlier is None:
                unexplained.append(candidate)
            elif conflict := conflict_of(row_of(candidate, into.batch_id), earlier):
                into.result.refused.append((candidate.record, conflict))
            else:
                into.result.duplicates += 1
        if not unexplained:
            return []
        # The window or the batch pointed at an event that was itself refused: the first of each id is new after all.
        firsts = list({c.key: c for c in reversed(unexplained)}.values())[::-1]
        taken = {id(c) for c in firsts}
        again: list[Candidate] = [c for c in unexplained if id(c) not in taken]
        await self._copy_new(into, firsts, again)
        return again

    async def ensure_partitions(self, times: Collection[datetime]) -> set[datetime]:
        """Make the months of event times: in transactions of their own, so that their locks end at once.

        Return the months that are archived: those are not made anew.
        """
        archived: set[datetime] = set()
        first, last = month_start(min(times)), month_start(max(times))
        # Always near, but for what an operator replays: there, years may lie between.
        near = last <= next_month(next_month(first))
        months = {first, min(next_month(first), last), last} if near else {month_start(at) for at in times}
        for month in sorted(months - self._months):
            made = await self._pool.fetchval(_SQL["ensure_partition"], month)
            (archived if made is None else self._months).add(month)
        return archived


def _without(archived: set[datetime], candidates: Sequence[Candidate], result: Inserted) -> list[Candidate]:
    """Refuse the candidates of archived months: whether they were counted before, only the archive knows."""
    kept: list[Candidate] = []
    for candidate in candidates:
        month = month_start(in_utc(candidate.event.time))
        if month in archived:
            result.refused.append((candidate.record, of_an_archived_month(month)))
        else:
            kept.append(candidate)
    return kept


@dataclass(frozen=True, slots=True)
class _Into:
    """Where one batch goes: its transaction, the open generation of identities, its id, and the account of what became of it."""

    connection: Connection
    guard: Guard
    batch_id: UUID
    result: Inserted

    async def copy(self, candidates: Sequence[Candidate]) -> None:
        """Copy candidates and their identities: all of them, or none and raise."""
        packed = pack(candidates, self.batch_id, self.guard.generation)
        await _copy(self.connection, self.guard, packed)
        self.result.stored += candidates
        self.result.packed.append(packed)


async def _copy(connection: Connection, guard: Guard, packed: Packed) -> None:
    """Copy packed events and their identities: all of them, or none and raise."""
    async with connection.transaction():  # a savepoint: a refusal must not cost the transaction
        await guard.add(connection, packed.identities)
        await copy_packed(connection, "usage_logs", packed.rows, COLUMNS)
    packed.rows = packed.identities = b""  # sent: only the sums are wanted from here on


def row_of(candidate: Candidate, batch_id: UUID) -> UsageRow:
    """Return the row that a candidate leaves."""
    owner = candidate.owner
    return usage_row(candidate.event, candidate.key, owner.subscription_id, owner.api_key_id, batch_id)


def _ids(candidates: Sequence[Candidate]) -> list[UUID]:
    return [uuid_of_bytes(c.key) for c in candidates]


def _ids_and_times(candidates: Sequence[Candidate]) -> list[tuple[UUID, datetime]]:
    return [(uuid_of_bytes(c.key), c.event.time) for c in candidates]

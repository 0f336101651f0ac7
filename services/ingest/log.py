"""The log's writer: each event once, as fast as an optimistic COPY allows. Runs in the caller's transaction."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import asyncpg
from aiokafka import ConsumerRecord

from services.ingest.acceptance import Reason, Rejected, in_utc
from services.ingest.deltas import Sums, merge
from services.ingest.identities import Guard, copy_packed, stored_versions
from services.ingest.packing import COLUMNS, Candidate, Packed, pack
from services.ingest.recent import RecentEvents
from services.ingest.rows import UsageRow, differing_columns, usage_row
from shared.ids import uuid_of_bytes
from shared.period import month_start, next_month
from shared.postgres import Connection, Pool
from shared.sql import Queries

_SQL = Queries.load("services.ingest")

REFUSALS_OF_VALUES = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeEncodeError, struct.error)
"""What packing and COPY raise for a value that Postgres does not take."""


@dataclass(slots=True)
class Inserted:
    """What became of the candidates: stored, duplicates and refused together they are all of them. `packed` is what was copied."""

    stored: list[Candidate] = field(default_factory=list)
    duplicates: int = 0
    refused: list[tuple[ConsumerRecord[bytes, bytes], Rejected]] = field(default_factory=list)
    packed: list[Packed] = field(default_factory=list)

    def sums(self) -> Sums:
        """Return what the stored events add up to."""
        if len(self.packed) == 1:  # nearly always
            return self.packed[0].sums()
        parts = [packed.sums() for packed in self.packed]
        return Sums(
            merge(delta for part in parts for delta in part.deltas), [p for part in parts for p in part.providers]
        )


class UsageLog:
    """Writes usage rows, and the identities that guard them."""

    def __init__(self, pool: Pool, recent: RecentEvents) -> None:
        self._pool = pool
        self._recent = recent
        self._months: set[datetime] = set()

    async def insert(self, connection: Connection, candidates: Sequence[Candidate], batch_id: UUID) -> Inserted:
        """Store candidates that were never stored. One that was is a duplicate if it is the same, else refused as a conflict.

        Events that the recent window, this batch or a closed generation of identities has seen are suspects; the rest is copied
        straight in. Only if a unique key objects are the stored ones looked up, and what they do not explain is copied again.
        """
        result = Inserted()
        if not candidates:
            return result
        if archived := await self.ensure_partitions([c.event.time for c in candidates]):
            candidates = _without(archived, candidates, result)
        into = _Into(connection, await Guard.hold(connection), batch_id, result)
        fresh, suspects = self._split(candidates)
        if into.guard.earlier and (before := await into.guard.known_before(connection, _ids(fresh))):
            suspects += [c for c in fresh if uuid_of_bytes(c.key) in before]
            fresh = [c for c in fresh if uuid_of_bytes(c.key) not in before]
        await self._copy_new(into, fresh, suspects)
        while suspects:
            suspects = await self._judge(into, suspects)
        return result

    def _split(self, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
        fresh: dict[bytes, Candidate] = {}
        suspects: list[Candidate] = []
        for candidate in candidates:
            if candidate.key in fresh or candidate.key in self._recent:
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

    async def ensure_partitions(self, times: Sequence[datetime]) -> set[datetime]:
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


def of_an_archived_month(month: datetime) -> Rejected:
    """Return why an event that belongs to a month outside of the log is refused."""
    return Rejected(
        Reason.TOO_OLD,
        f"the usage of {month:%Y-%m} is archived: restore it ('tallystick partitions restore'), then replay the event",
    )


def refused_by_database(error: Exception) -> Rejected:
    """Return why a single row is refused that Postgres did not take."""
    return Rejected(Reason.REFUSED_BY_DATABASE, f"Postgres refused a value: {str(error).splitlines()[0]}")


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
        async with self.connection.transaction():  # a savepoint: a refusal must not cost the transaction
            await self.guard.add(self.connection, packed.identities)
            await copy_packed(self.connection, "usage_logs", packed.rows, COLUMNS)
        packed.rows = packed.identities = b""  # sent: only the sums are wanted from here on
        self.result.stored += candidates
        self.result.packed.append(packed)


def row_of(candidate: Candidate, batch_id: UUID) -> UsageRow:
    """Return the row that a candidate leaves."""
    owner = candidate.owner
    return usage_row(candidate.event, candidate.key, owner.subscription_id, owner.api_key_id, batch_id)


def _ids(candidates: Sequence[Candidate]) -> list[UUID]:
    return [uuid_of_bytes(c.key) for c in candidates]


def _ids_and_times(candidates: Sequence[Candidate]) -> list[tuple[UUID, datetime]]:
    return [(uuid_of_bytes(c.key), c.event.time) for c in candidates]


def has_no_partition(error: Exception) -> bool:
    """Tell a missing partition from a CHECK that a row breaks: the same SQLSTATE, but no constraint is named."""
    return isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None


def conflict_of(row: UsageRow, earlier: dict[str, object]) -> Rejected | None:
    """Return why a row is refused of which another version was stored (pure); None if it is the same.

    `earlier` is a row of `stored_versions`: without an `id` if only its identity is left, because its month is archived.
    """
    if earlier["id"] is None:
        differing, earlier = ["created_at"], {"created_at": earlier["guarded_at"]}
    else:
        differing = differing_columns(row, earlier) or ["corrects"] * (earlier.get("corrects") is not None)
    if not differing:
        return None
    what = "; ".join(
        f"{name}: {_show(earlier[name])} was stored, {_show(getattr(row, name, None))} came" for name in differing[:5]
    )
    return Rejected(
        Reason.CONFLICT,
        f"the event (source {row.source}, id {row.request_id}) was stored already with other content – {what}. "
        "It is not counted again; send a new id for new usage",
    )


def _show(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return text if len(text) <= 80 else text[:77] + "…"

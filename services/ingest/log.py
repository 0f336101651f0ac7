"""The log's writer: each event once, as fast as an optimistic COPY allows. Runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import NamedTuple

import asyncpg
from aiokafka import ConsumerRecord

from services.ingest.acceptance import Reason, Rejected
from services.ingest.identities import Guard, stored_versions
from services.ingest.recent import RecentEvents
from services.ingest.rows import COLUMNS, UsageRow, differing_columns
from shared.period import month_start, next_month
from shared.postgres import Connection, Pool
from shared.sql import Queries

_SQL = Queries.load("services.ingest")

REFUSALS_OF_VALUES = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeEncodeError)
"""What COPY raises for a value that Postgres does not take."""


class Candidate(NamedTuple):
    """An accepted event on its way into the log: the record it came in, its 16-byte id, its row."""

    record: ConsumerRecord[bytes, bytes]
    key: bytes
    row: UsageRow


_BY_ID = itemgetter(1)


@dataclass(slots=True)
class Inserted:
    """What became of the candidates: together they are all of them."""

    rows: list[UsageRow] = field(default_factory=list)
    duplicates: int = 0
    refused: list[tuple[ConsumerRecord[bytes, bytes], Rejected]] = field(default_factory=list)


class UsageLog:
    """Writes usage rows, and the identities that guard them."""

    def __init__(self, pool: Pool, recent: RecentEvents) -> None:
        self._pool = pool
        self._recent = recent
        self._months: set[datetime] = set()

    async def insert(self, connection: Connection, candidates: Sequence[Candidate]) -> Inserted:
        """Store candidates that were never stored. One that was is a duplicate if it is the same, else refused as a conflict.

        Events that the recent window, this batch or a closed generation of identities has seen are suspects; the rest is copied
        straight in. Only if a unique key objects are the stored ones looked up, and what they do not explain is copied again.
        """
        result = Inserted()
        if not candidates:
            return result
        if archived := await self.ensure_partitions([c.row.created_at for c in candidates]):
            candidates = _without(archived, candidates, result)
        guard = await Guard.hold(connection)
        fresh, suspects = self._split(candidates)
        if before := await guard.known_before(connection, [c.row.id for c in fresh]):
            suspects += [c for c in fresh if c.row.id in before]
            fresh = [c for c in fresh if c.row.id not in before]
        new = await self._copy_new(connection, guard, fresh, suspects, result)
        result.rows += [c.row for c in new]
        while suspects:
            suspects = await self._judge(connection, guard, suspects, result)
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

    async def _copy_new(
        self, connection: Connection, guard: Guard, fresh: list[Candidate], suspects: list[Candidate], result: Inserted
    ) -> list[Candidate]:
        """Copy `fresh`; what is stored already joins `suspects`. Return what was stored."""
        while fresh:
            try:
                await _copy(connection, guard, fresh)
            except asyncpg.UniqueViolationError:
                known = await stored_versions(connection, [(c.row.id, c.row.created_at) for c in fresh])
                if not known:
                    raise  # another transaction has it in flight: come again
                suspects += [c for c in fresh if c.row.id in known]
                fresh = [c for c in fresh if c.row.id not in known]
            except REFUSALS_OF_VALUES as error:
                if has_no_partition(error):  # it was detached: make it again when the batch comes again
                    self._months.clear()
                    raise
                if len(fresh) > 1:
                    return await self._copy_halves(connection, guard, fresh, suspects, result)
                result.refused.append((fresh[0].record, refused_by_database(error)))
                return []
            else:
                return fresh
        return []

    async def _copy_halves(
        self, connection: Connection, guard: Guard, fresh: list[Candidate], suspects: list[Candidate], result: Inserted
    ) -> list[Candidate]:
        """Postgres refused a value that validation let pass: find the one row, so that its neighbours are unharmed."""
        middle = len(fresh) // 2
        first = await self._copy_new(connection, guard, fresh[:middle], suspects, result)
        return first + await self._copy_new(connection, guard, fresh[middle:], suspects, result)

    async def _judge(
        self, connection: Connection, guard: Guard, suspects: list[Candidate], result: Inserted
    ) -> list[Candidate]:
        """Compare suspects with what is stored under their id. Return those that must be looked at again."""
        stored = await stored_versions(connection, [(c.row.id, c.row.created_at) for c in suspects])
        unexplained: list[Candidate] = []
        for candidate in suspects:
            earlier = stored.get(candidate.row.id)
            if earlier is None:
                unexplained.append(candidate)
            elif conflict := conflict_of(candidate.row, earlier):
                result.refused.append((candidate.record, conflict))
            else:
                result.duplicates += 1
        if not unexplained:
            return []
        # The window or the batch pointed at an event that was itself refused: the first of each id is new after all.
        firsts = list({c.key: c for c in reversed(unexplained)}.values())[::-1]
        taken = {id(c) for c in firsts}
        again: list[Candidate] = [c for c in unexplained if id(c) not in taken]
        result.rows += [c.row for c in await self._copy_new(connection, guard, firsts, again, result)]
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
        month = month_start(candidate.row.created_at)
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


async def _copy(connection: Connection, guard: Guard, candidates: Sequence[Candidate]) -> None:
    async with connection.transaction():  # a savepoint: a refusal must not cost the transaction
        await guard.add(connection, ((row.created_at, row.id) for _, _, row in sorted(candidates, key=_BY_ID)))
        await connection.copy_records_to_table("usage_logs", records=[c.row for c in candidates], columns=COLUMNS)


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

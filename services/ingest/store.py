"""Ingest's IO with Postgres. Each function runs in the caller's transaction; the SQL is in queries.sql."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from aiokafka import ConsumerRecord

from services.ingest.acceptance import Reason, Rejected
from services.ingest.attribution import Unknown
from services.ingest.recent import RecentEvents
from services.ingest.rows import COLUMNS, UsageRow, differing_columns
from shared.contracts import Origin
from shared.errors import BrokenInvariant
from shared.ids import uuid7
from shared.period import month_start, next_month
from shared.postgres import Connection, Pool
from shared.sql import Queries

_SQL = Queries.load("services.ingest")


class Candidate(NamedTuple):
    """An accepted event on its way into the log: the record it came in, its 16-byte id, its row."""

    record: ConsumerRecord[bytes, bytes]
    key: bytes
    row: UsageRow


@dataclass(slots=True)
class Inserted:
    """What became of the candidates: together they are all of them."""

    rows: list[UsageRow] = field(default_factory=list)
    duplicates: int = 0
    refused: list[tuple[ConsumerRecord[bytes, bytes], Rejected]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Counts:
    """The account of one batch's offsets."""

    inserted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    held: int = 0
    gaps: int = 0


class UsageLog:
    """Writes usage rows, each event once, as fast as an optimistic COPY allows."""

    def __init__(self, pool: Pool, recent: RecentEvents) -> None:
        self._pool = pool
        self._recent = recent
        self._months: set[datetime] = set()

    async def insert(self, connection: Connection, candidates: Sequence[Candidate]) -> Inserted:
        """Store candidates that were never stored. One that was is a duplicate if it is the same, else refused as a conflict.

        Events that the recent window or this batch has seen are suspects; the rest is copied straight in. Only if the
        primary key objects are the stored ones looked up, and what they do not explain is copied again.
        """
        result = Inserted()
        if not candidates:
            return result
        times = [c.row.created_at for c in candidates]
        if archived := await self._ensure_partitions(times):
            candidates = _without(archived, candidates, result)
        fresh, suspects = self._split(candidates)
        new = await self._copy_new(connection, fresh, suspects, result)
        result.rows += [c.row for c in new]
        here = {c.key: c.row.created_at for c in new} if suspects else {}
        while suspects:
            suspects = await self._judge(connection, suspects, here, result)
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
        self, connection: Connection, fresh: list[Candidate], suspects: list[Candidate], result: Inserted
    ) -> list[Candidate]:
        """Copy `fresh`; what the primary key knows already joins `suspects`. Return what was stored."""
        while fresh:
            try:
                await _copy(connection, fresh)
            except asyncpg.UniqueViolationError:
                known = {
                    (row["created_at"], row["id"])
                    for row in await _stored(connection, [(c.row.created_at, c.row.id) for c in fresh])
                }
                if not known:
                    raise  # another transaction has it in flight: come again
                suspects += [c for c in fresh if (c.row.created_at, c.row.id) in known]
                fresh = [c for c in fresh if (c.row.created_at, c.row.id) not in known]
            except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeEncodeError) as error:
                if _has_no_partition(error):  # it was detached: make it again when the batch comes again
                    self._months.clear()
                    raise
                return await self._copy_halves(connection, fresh, suspects, result, error)
            else:
                return fresh
        return []

    async def _copy_halves(
        self,
        connection: Connection,
        fresh: list[Candidate],
        suspects: list[Candidate],
        result: Inserted,
        error: Exception,
    ) -> list[Candidate]:
        """Postgres refused a value that validation let pass: find the one row, so that its neighbours are unharmed."""
        if len(fresh) == 1:
            detail = f"Postgres refused a value: {str(error).splitlines()[0]}"
            result.refused.append((fresh[0].record, Rejected(Reason.REFUSED_BY_DATABASE, detail)))
            return []
        middle = len(fresh) // 2
        first = await self._copy_new(connection, fresh[:middle], suspects, result)
        return first + await self._copy_new(connection, fresh[middle:], suspects, result)

    async def _judge(
        self, connection: Connection, suspects: list[Candidate], here: dict[bytes, datetime], result: Inserted
    ) -> list[Candidate]:
        """Compare suspects with what is stored under their id. Return those that must be looked at again."""
        times = [
            (at, c.row.id)
            for c in suspects
            for at in {c.row.created_at, self._recent.get(c.key), here.get(c.key)}
            if at is not None
        ]
        stored = {row["id"]: row for row in await _stored(connection, times)}
        unexplained: list[Candidate] = []
        for candidate in suspects:
            earlier = stored.get(candidate.row.id)
            if earlier is None:
                unexplained.append(candidate)
            elif differing := differing_columns(candidate.row, dict(earlier)):
                result.refused.append((candidate.record, _conflict(candidate.row, earlier, differing)))
            else:
                result.duplicates += 1
        if not unexplained:
            return []
        # The window or the batch pointed at an event that was itself refused: the first of each id is new after all.
        firsts = list({c.key: c for c in reversed(unexplained)}.values())[::-1]
        taken = {id(c) for c in firsts}
        again: list[Candidate] = [c for c in unexplained if id(c) not in taken]
        stored_now = await self._copy_new(connection, firsts, again, result)
        result.rows += [c.row for c in stored_now]
        here.update((c.key, c.row.created_at) for c in stored_now)
        return again

    async def _ensure_partitions(self, times: Sequence[datetime]) -> set[datetime]:
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
            detail = f"the usage of {month:%Y-%m} is archived: restore it ('tallystick partitions restore'), then replay the event"
            result.refused.append((candidate.record, Rejected(Reason.TOO_OLD, detail)))
        else:
            kept.append(candidate)
    return kept


async def _copy(connection: Connection, candidates: Sequence[Candidate]) -> None:
    async with connection.transaction():  # a savepoint: a refusal must not cost the transaction
        await connection.copy_records_to_table("usage_logs", records=[c.row for c in candidates], columns=COLUMNS)


def _has_no_partition(error: Exception) -> bool:
    """Tell a missing partition from a CHECK that a row breaks: the same SQLSTATE, but no constraint is named."""
    return isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None


async def _stored(connection: Connection, keys: Sequence[tuple[datetime, UUID]]) -> list[asyncpg.Record]:
    return await connection.fetch(_SQL["stored_rows"], [at for at, _ in keys], [id_ for _, id_ in keys])  # type: ignore[no-any-return]


def _conflict(row: UsageRow, earlier: asyncpg.Record, differing: list[str]) -> Rejected:
    what = "; ".join(
        f"{name}: {_show(earlier[name])} was stored, {_show(getattr(row, name))} came" for name in differing[:5]
    )
    return Rejected(
        Reason.CONFLICT,
        f"the event (source {row.source}, id {row.request_id}) was stored already with other content – {what}. "
        "It is not counted again; send a new id for new usage",
    )


def _show(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return text if len(text) <= 80 else text[:77] + "…"


# --- the rest of a batch ---------------------------------------------------------------------------------------------


async def quarantine(
    connection: Connection,
    origin: Origin,
    batch_id: UUID,
    refused: Sequence[tuple[ConsumerRecord[bytes, bytes], Rejected]],
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
    held: Sequence[tuple[ConsumerRecord[bytes, bytes], Unknown, datetime]],
) -> None:
    """Keep valid events of unknown subscriptions or keys, with their event times."""
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
        [occurred_at for _, _, occurred_at in held],
        *_columns(record for record, _, _ in held),
    )


async def record_batch(
    connection: Connection, batch_id: UUID, kind: str, origin: Origin, counts: Counts, *, message_count: int
) -> None:
    """Write the batch's own row."""
    await connection.execute(
        _SQL["record_batch"], batch_id, kind, *_place(origin), origin.first_offset, origin.next_offset,
        counts.inserted, counts.duplicates, counts.quarantined, counts.held, counts.gaps, message_count,
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


def _columns(records: Iterable[ConsumerRecord[bytes, bytes]]) -> tuple[list[Any], ...]:
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

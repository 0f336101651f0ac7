"""Makes the messages of batches anew from their rows, for readers that have not heard of them.

What they said is in the log. A reader that has heard a message drops it, by its batch and part, so announcing once too often
does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from services.ingest.announcement import announce_recorded
from services.ingest.deltas import aggregate
from services.ingest.rows import COLUMNS, UsageRow
from shared.contracts import Origin
from shared.outbox import Message, Outbox
from shared.postgres import Connection
from shared.sql import Queries

_SQL = Queries.load("services.ingest.announcing")
BATCHES_AT_ONCE = 20
"""Most batches whose rows are held in memory: each look goes through the whole log, which has no index by batch."""


class Unheard(NamedTuple):
    """A batch that a reader has not heard of, or not wholly. `aggregated` and `rated` are the messages that were applied."""

    batch_id: UUID
    cluster: str
    topic: str
    partition: int
    epoch: int
    first_offset: int | None
    next_offset: int | None
    message_count: int
    recorded_at: datetime
    rows: int
    aggregated: int
    rated: int

    @property
    def heard_in_part(self) -> bool:
        """Whether a reader has heard some of several messages: which rows went into which, nothing tells."""
        return any(0 < heard < self.message_count for heard in (self.aggregated, self.rated))


@dataclass(frozen=True, slots=True)
class Announced:
    """What became of batches: announced again, or left alone because their messages cannot be made as they were."""

    announced: list[UUID] = field(default_factory=list)
    left_alone: list[UUID] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a batch: its own, those that replaced others, those that it took back (`announcement.Corrections`)."""

    own: list[UsageRow] = field(default_factory=list)
    replaced: list[UsageRow] = field(default_factory=list)
    reversed: list[UsageRow] = field(default_factory=list)


async def find_unheard(connection: Connection, before: datetime, limit: int = 100_000) -> list[Unheard]:
    """Return batches recorded before a time of which a reader has not applied every message, oldest first."""
    return [Unheard(*row) for row in await connection.fetch(_SQL["unheard"], before, limit)]


async def announce_again(connection: Connection, batches: Sequence[Unheard], *, actor: str) -> Announced:
    """Put the messages of batches into ingest's outbox, in the caller's transaction; a running ingest worker publishes them.

    The audit trail says who did it.
    """
    result, outbox = Announced(), Outbox("ingest_outbox")
    whole = [batch for batch in batches if not batch.heard_in_part]
    result.left_alone.extend(batch.batch_id for batch in batches if batch.heard_in_part)
    for some in _chunks(whole, BATCHES_AT_ONCE):
        rows = _by_batch(await connection.fetch(_SQL["rows"], [batch.batch_id for batch in some]))
        for batch in some:
            messages = _messages(batch, rows.get(batch.batch_id, _Rows()))
            if len(messages) != batch.message_count:  # its month is archived, or it was cut otherwise
                result.left_alone.append(batch.batch_id)
                continue
            await outbox.enqueue(connection, messages)
            result.announced.append(batch.batch_id)
    await connection.execute(_SQL["note_announced"], actor, result.announced)
    return result


def _by_batch(rows: Iterable[Any]) -> dict[UUID, _Rows]:
    found: dict[UUID, _Rows] = {}
    for row in rows:
        of_batch = found.setdefault(row["batch_id"], _Rows())
        kind = of_batch.reversed if row["quantity"] < 0 else of_batch.replaced if row["corrects"] else of_batch.own
        kind.append(UsageRow(*(row[name] for name in COLUMNS)))
    return found


def _messages(batch: Unheard, rows: _Rows) -> list[Message]:
    place = Origin(batch.cluster, batch.topic, batch.partition, batch.epoch, batch.first_offset, batch.next_offset)
    if len(rows.own) + len(rows.replaced) + len(rows.reversed) != batch.rows:
        return []  # some of them are archived
    return announce_recorded(batch.batch_id, place, aggregate(rows.own), batch.recorded_at, corrections=rows)


def _chunks(whole: Sequence[Unheard], size: int) -> Iterable[Sequence[Unheard]]:
    return (whole[start : start + size] for start in range(0, len(whole), size))

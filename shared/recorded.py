"""Reading `usage.recorded`: what the aggregator and billing do alike, each with positions of its own.

A message counts only while the batch that it announces is in the database. After a failover to a replica that was behind, or
from an older backup, the messages of batches that were lost are still in Kafka; ingest reads their events again and announces
them under the ids of new batches. What the lost ones had announced is then *orphaned*: passed, counted, and said aloud.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import structlog

from shared.contracts import UsageRecorded, decode_recorded, youngest_event
from shared.errors import BrokenInvariant
from shared.postgres import Connection
from shared.slices import Record, Slice
from shared.sql import Queries

log = structlog.get_logger("recorded")


def decode(record: Record, check: Callable[[UsageRecorded], None] = lambda _: None) -> UsageRecorded:
    """Decode a message of our own making. One that cannot be decoded, or that `check` raises `ValueError` for, is a
    `BrokenInvariant`: nothing may be skipped."""
    try:
        message = decode_recorded(record.value or b"")
        check(message)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BrokenInvariant(
            f"{record.topic}[{record.partition}] offset {record.offset} is not a usage.recorded message ({error}): "
            "nothing is counted until every worker runs one version, or the record is understood"
        ) from error
    return message


class Recorded:
    """One service's reading. `table` holds its positions, with columns for applied, duplicates, orphaned and gaps."""

    def __init__(self, table: str) -> None:
        self._sql = Queries.load("shared", "recorded.sql", table=table)

    async def stored(
        self, connection: Connection, messages: Sequence[UsageRecorded], new: Sequence[UsageRecorded]
    ) -> Sequence[UsageRecorded]:
        """Return the messages whose batch is in the database. Those that are `new`, noted in an inbox just now, are: nearly always all of them."""
        if len(new) == len(messages):
            return messages
        ids = {message.batch_id for message in messages}
        known = {row["batch_id"] for row in await connection.fetch(self._sql["known_batches"], list(ids))}
        return [message for message in messages if message.batch_id in known]

    async def advance(
        self, connection: Connection, cluster: str, batch: Slice, *, applied: int, duplicates: int, orphaned: int
    ) -> None:
        """Move the position past a slice. Raises `BrokenInvariant` if it is not where the slice began."""
        at = batch.position
        moved = await connection.execute(
            self._sql["advance"], cluster, at.topic, at.partition, at.epoch, at.next_offset, batch.next_offset,
            applied, duplicates, orphaned, batch.gaps,
        )  # fmt: skip
        if moved != "UPDATE 1":
            raise BrokenInvariant(
                f"the position of {at.topic}[{at.partition}] was not at {at.next_offset} although its row was locked"
            )


def late_seconds(messages: Sequence[UsageRecorded]) -> float:
    """Return by how much the youngest usage of the last message was late when it was recorded; 0 where nothing says when it was."""
    if not messages:
        return 0.0
    youngest = youngest_event(messages[-1].deltas)
    return max(0.0, (messages[-1].recorded_at - youngest).total_seconds()) if youngest else 0.0


def report_orphans(batch: Slice, messages: Sequence[UsageRecorded], stored: Sequence[UsageRecorded]) -> None:
    """Say aloud which batches were announced and are not there, once the slice is committed."""
    if len(stored) < len(messages):
        lost = sorted({message.batch_id for message in messages} - {message.batch_id for message in stored})
        log.error(
            "messages_of_lost_batches",
            partition=batch.position.partition,
            offsets=[batch.first_offset, batch.next_offset],
            messages=len(messages) - len(stored),
            batches=[str(batch_id) for batch_id in lost[:10]],
            then="they are not counted: the database went back in time; ingest stores their events again",
        )

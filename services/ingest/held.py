"""Held events find their owner: as soon as a subscription or key exists, its events go into the log in their own event time.
So does a correction, as soon as its original is there.

The same decoding, deduplication, rows and deltas as for a batch from Kafka; only the position is not concerned, because
the offsets of held events were accounted for when they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import structlog
from aiokafka import ConsumerRecord

from services.ingest import metrics, store
from services.ingest.announcement import announce_recorded, announce_refused
from services.ingest.handlers import IngestBatch
from services.ingest.store import Counts
from shared.contracts import Origin
from shared.ids import uuid7
from shared.outbox import Message
from shared.postgres import Connection, Pool, transaction

log = structlog.get_logger("ingest.held")

ATTRIBUTE_AT_ONCE = 2_000
"""Held events that one transaction attributes."""

EVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@dataclass(slots=True)
class HeldEvents:
    """Attributes held events, on a timer."""

    pool: Pool
    ingest: IngestBatch

    async def attribute(self) -> None:
        """Attribute whatever can be by now, and report what still waits."""
        while await self._attribute_some() == ATTRIBUTE_AT_ONCE:
            pass
        async with self.pool.acquire() as connection:
            metrics.report_held(*await store.still_held(connection))

    async def _attribute_some(self) -> int:
        messages: list[Message] = []
        async with transaction(self.pool) as connection:
            rows = await store.attributable(connection, self.ingest.cluster, ATTRIBUTE_AT_ONCE)
            for place, group in groupby(rows, key=lambda row: (row["topic"], row["partition"], row["epoch"])):
                messages += await self._attribute_partition(
                    connection, Origin(self.ingest.cluster, *place), list(group)
                )
        await self.ingest.publishing.publish(messages)
        return len(rows)

    async def _attribute_partition(self, connection: Connection, origin: Origin, rows: Sequence[Any]) -> list[Message]:
        """Store the held events of one partition as a batch of their own. They were judged when they came: age is no matter now."""
        ingest, batch_id, now = self.ingest, uuid7(), self.ingest.clock.now()
        decoded = ingest.decode([record_of(row) for row in rows], now, window=EVER)
        taken = await ingest.take_in(connection, batch_id, decoded)
        ids = await store.quarantine(connection, origin, batch_id, taken.refused)
        announced = announce_recorded(batch_id, origin, taken.sums, now, corrections=taken.corrected)
        messages = [*announced, *announce_refused(origin, ids, taken.refused)]
        await ingest.outbox.enqueue(connection, messages)
        still_held = {record.offset for record, _, _ in taken.held}
        counts = Counts(taken.inserted, taken.duplicates, len(taken.refused), amended=taken.corrected.amended)
        await store.record_batch(connection, batch_id, "held", origin, counts, message_count=len(announced))
        await store.mark_attributed(
            connection, [row["id"] for row in rows if row["record_offset"] not in still_held], batch_id
        )
        log.info(
            "held_events_attributed", partition=origin.partition, inserted=counts.inserted, refused=counts.quarantined
        )
        return messages


def record_of(row: Any) -> ConsumerRecord[bytes, bytes]:
    """Return the Kafka record that a held or quarantined event came in."""
    return ConsumerRecord(
        topic=row["topic"],
        partition=row["partition"],
        offset=row["record_offset"],
        timestamp=-1,
        timestamp_type=0,
        key=row["record_key"],
        value=row["record_value"],
        checksum=None,
        serialized_key_size=len(row["record_key"] or b""),
        serialized_value_size=len(row["record_value"] or b""),
        headers=tuple(store.headers_of_json(row["record_headers"])),
    )

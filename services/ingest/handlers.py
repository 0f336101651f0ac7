"""The story of a batch: decode, decide, store, publish.

Everything up to the return runs in one transaction with the position (shared/consumer.py opens it and has locked the
position's row). What is returned runs after COMMIT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeAlias
from uuid import UUID

from aiokafka import ConsumerRecord

from services.ingest import metrics, store
from services.ingest.acceptance import Limits, Rejected, accept
from services.ingest.announcement import announce_recorded, announce_refused
from services.ingest.attribution import Attributor, Owner, Unknown, name_of
from services.ingest.log import Candidate, UsageLog
from services.ingest.publishing import Publishing
from services.ingest.recent import RecentEvents
from services.ingest.refusals import Refusals, Remember
from services.ingest.rows import UsageRow, usage_row
from services.ingest.store import Counts
from shared.clock import Clock
from shared.consumer import AfterCommit, Slice
from shared.contracts import Origin, UsageEvent
from shared.ids import event_key, uuid7
from shared.outbox import Message, Outbox
from shared.postgres import Connection

Record: TypeAlias = ConsumerRecord[bytes, bytes]


@dataclass(slots=True)
class Decided:
    """What became of a batch's records before the database was asked about duplicates: each is in exactly one list."""

    candidates: list[Candidate] = field(default_factory=list)
    refused: list[tuple[Record, Rejected]] = field(default_factory=list)
    held: list[tuple[Record, Unknown, datetime]] = field(default_factory=list)


@dataclass(slots=True)
class IngestBatch:
    """Applies slices of `usage.events` (implements `shared.consumer.Apply`)."""

    cluster: str
    limits: Limits
    clock: Clock
    log: UsageLog
    recent: RecentEvents
    attributor: Attributor
    outbox: Outbox
    publishing: Publishing
    refusals: Refusals = field(default_factory=Refusals)

    async def __call__(self, connection: Connection, batch: Slice) -> AfterCommit:
        """Store a slice, its deltas, its rejects and its position; return what publishes them."""
        batch_id, now, origin = uuid7(), self.clock.now(), self._origin(batch)

        accepted, refused = self.decode(batch.records, now)
        decided = await self.decide(connection, batch_id, accepted, refused)

        inserted = await self.log.insert(connection, decided.candidates)
        refused = decided.refused + inserted.refused
        refusals = self.refusals.judge(batch, refused)  # halts here, before anything is committed, if it is too many
        ids = await store.quarantine(connection, origin, batch_id, refused)
        await store.hold(connection, origin, batch_id, decided.held)

        announced = announce_recorded(batch_id, origin, inserted.rows, now)
        letters = announce_refused(origin, ids, refused)
        await self.outbox.enqueue(connection, [*announced, *letters])

        counts = Counts(len(inserted.rows), inserted.duplicates, len(refused), len(decided.held), batch.gaps)
        await store.record_batch(connection, batch_id, "kafka", origin, counts, message_count=len(announced))
        await store.advance_position(connection, origin, counts)

        return partial(self.committed, inserted.rows, refused, counts, [*announced, *letters], refusals)

    def decode(
        self, records: Sequence[Record], now: datetime, *, window: tuple[datetime, datetime] | None = None
    ) -> tuple[list[tuple[Record, UsageEvent]], list[tuple[Record, Rejected]]]:
        """Split records into well-formed events and refused ones (pure). `window` replaces the limits' own event times."""
        accepted: list[tuple[Record, UsageEvent]] = []
        refused: list[tuple[Record, Rejected]] = []
        earliest, latest = window or self.limits.window(now)
        for record in records:
            found = accept(record.value, record.headers, self.limits, earliest, latest)
            if isinstance(found, UsageEvent):
                accepted.append((record, found))
            else:
                refused.append((record, found))
        return accepted, refused

    async def decide(
        self,
        connection: Connection,
        batch_id: UUID,
        accepted: Sequence[tuple[Record, UsageEvent]],
        refused: list[tuple[Record, Rejected]],
    ) -> Decided:
        """Find out whose usage each event is: candidates of known owners, held ones of owners not known yet."""
        known = self.attributor.known
        decided = Decided(refused=refused)
        candidates = decided.candidates
        strangers: list[tuple[Record, UsageEvent]] = []
        for record, event in accepted:
            owner = known(event)
            if owner is None:
                strangers.append((record, event))
            else:
                candidates.append(_candidate(record, event, owner, batch_id))
        if strangers:
            found = await self.attributor.look_up(connection, [name_of(event) for _, event in strangers])
            for record, event in strangers:
                attribution = found[name_of(event)]
                if isinstance(attribution, Owner):
                    candidates.append(_candidate(record, event, attribution, batch_id))
                elif isinstance(attribution, Unknown):
                    decided.held.append((record, attribution, event.time))
                else:
                    decided.refused.append((record, attribution))
        return decided

    async def committed(
        self,
        rows: Sequence[UsageRow],
        refused: Sequence[tuple[Record, Rejected]],
        counts: Counts,
        messages: Sequence[Message],
        refusals: Remember,
    ) -> None:
        """After COMMIT: remember what was stored and refused, count it, publish what was announced."""
        refusals()
        self.recent.remember(row.id.bytes for row in rows)
        metrics.count_batch(counts, [rejected.reason for _, rejected in refused])
        metrics.observe_freshness(self.clock.now(), rows)
        await self.publishing.publish(messages)

    def _origin(self, batch: Slice) -> Origin:
        position = batch.position
        return Origin(
            cluster=self.cluster,
            topic=position.topic,
            partition=position.partition,
            epoch=position.epoch,
            first_offset=batch.first_offset,
            next_offset=batch.next_offset,
        )


def _candidate(record: Record, event: UsageEvent, owner: Owner, batch_id: UUID) -> Candidate:
    key = event_key(event.source, event.id)
    return Candidate(record, key, usage_row(event, key, owner.subscription_id, owner.api_key_id, batch_id))

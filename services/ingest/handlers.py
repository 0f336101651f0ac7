"""The story of a batch: decode, decide, store, publish.

Everything up to the return runs in one transaction with the position (shared/consumer.py opens it and has locked the
position's row). What is returned runs after COMMIT.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from uuid import UUID

from services.ingest import metrics, store
from services.ingest.acceptance import Correction, Limits, Rejected, accept
from services.ingest.announcement import announce_recorded, announce_refused
from services.ingest.attribution import Attributor, Owner, Unknown, name_of
from services.ingest.corrections import Corrected, Correcting, apply_corrections
from services.ingest.deltas import EncodedSums, Sums
from services.ingest.identities import Guard
from services.ingest.log import UsageLog
from services.ingest.packing import Candidate, sums_of
from services.ingest.publishing import Publishing
from services.ingest.recent import Recent
from services.ingest.refusals import Refusals, Remember
from services.ingest.store import Counts
from services.ingest.sweeping import Decoded, Sweep, Sweeper, Swept, sweep_plainly
from shared.clock import Clock
from shared.contracts import Origin, UsageEvent
from shared.corrections import AmendEvent
from shared.ids import event_id, event_key, uuid7
from shared.outbox import Message, Outbox
from shared.postgres import Connection
from shared.slices import AfterCommit, Record, Slice

MANY_OF = 50
"""Strangers are many if they are more than one in so many records."""


@dataclass(slots=True)
class Taken:
    """What became of a batch's records: each is stored, applied in `corrected`, a duplicate, refused, or held."""

    stored: Collection[bytes]
    """The 16-byte ids of those that left a row."""
    sums: Sums | EncodedSums
    """What the stored ones add up to."""
    corrected: Corrected
    duplicates: int
    refused: list[tuple[Record, Rejected]]
    held: list[tuple[Record, Unknown, datetime]]

    @property
    def inserted(self) -> int:
        """Records that left rows: one each, an amendment two."""
        return len(self.stored) + self.corrected.applied


@dataclass(slots=True)
class IngestBatch:
    """Applies slices of `usage.events` (implements `shared.consumer.Apply`). Held and replayed events go the same way, but for the position."""

    cluster: str
    limits: Limits
    clock: Clock
    log: UsageLog
    recent: Recent
    attributor: Attributor
    outbox: Outbox
    publishing: Publishing
    refusals: Refusals = field(default_factory=Refusals)
    sweeper: Sweeper = sweep_plainly

    async def __call__(self, connection: Connection, batch: Slice) -> AfterCommit:
        """Store a slice, its deltas, its rejects and its position; return what publishes them."""
        batch_id, now, origin = uuid7(), self.clock.now(), self._origin(batch)

        sweep = partial(self._sweep, connection, batch.records, batch_id, now)
        swept, guard = await self.log.sweep_in(connection, sweep)
        rest = swept.rest if swept else self.decode(batch.records, now)
        taken = await self.take_in(connection, batch_id, rest, swept=swept, guard=guard)

        refusals = self.refusals.judge(batch, taken.refused)  # halts before anything is committed, if it is too many
        ids = await store.quarantine(connection, origin, batch_id, taken.refused)
        await store.hold(connection, origin, batch_id, taken.held)

        announced = announce_recorded(batch_id, origin, taken.sums, now, corrections=taken.corrected)
        letters = announce_refused(origin, ids, taken.refused)
        await self.outbox.enqueue(connection, [*announced, *letters])

        counts = Counts(
            taken.inserted, taken.duplicates, len(taken.refused), len(taken.held), batch.gaps, taken.corrected.amended
        )
        await store.record_batch(connection, batch_id, "kafka", origin, counts, message_count=len(announced))
        await store.advance_position(connection, origin, counts)

        return partial(self.committed, taken, counts, [*announced, *letters], refusals)

    def decode(
        self, records: Sequence[Record], now: datetime, *, window: tuple[datetime, datetime] | None = None
    ) -> Decoded:
        """Tell usage, corrections and what is refused apart (pure). `window` replaces the limits' own event times."""
        decoded = Decoded()
        earliest, latest = window or self.limits.window(now)
        for record in records:
            decoded.note(record, accept(record.value, record.headers, self.limits, earliest, latest))
        return decoded

    async def _sweep(  # noqa: PLR0917 – what a batch knows, and then what the log tells
        self,
        connection: Connection,
        records: Sequence[Record],
        batch_id: UUID,
        now: datetime,
        known: Set[bytes],
        generation: int,
    ) -> Swept:
        """Go over a batch, passing over the ids that are `known` to be stored.

        Where many are of strangers, as after a start, they are asked for, and it is gone over again: that costs less than to store each with care.
        """
        sweep = Sweep(self.limits, self.limits.window(now), self.attributor.known, self.recent.generations, known)
        swept = self.sweeper(sweep, records, batch_id, generation)
        strangers = {name_of(event) for _, event in swept.rest.usage if self.attributor.known(event) is None}
        if len(strangers) * MANY_OF <= len(records):
            return swept
        found = await self.attributor.look_up(connection, list(strangers))
        if not any(isinstance(one, Owner) for one in found.values()):
            return swept
        return self.sweeper(sweep, records, batch_id, generation)

    async def take_in(
        self,
        connection: Connection,
        batch_id: UUID,
        decoded: Decoded,
        *,
        swept: Swept | None = None,
        guard: Guard | None = None,
    ) -> Taken:
        """Store what is new: usage first, so that a correction finds an original that came with it, before or behind it.

        `swept` is what one pass has stored already of the same batch.
        """
        taken = Taken((), Sums([], []), Corrected(), 0, decoded.refused, [])
        candidates = await self._candidates(connection, decoded.usage, taken)
        corrections = await self._corrections(connection, decoded.corrections, taken)
        before: Collection[bytes] = swept.keys if swept else ()
        inserted = await self.log.insert(connection, candidates, batch_id, guard=guard, suspected=before)
        taken.corrected = corrected = await apply_corrections(connection, batch_id, corrections)
        taken.stored = {*before, *(candidate.key for candidate in inserted.stored)} if inserted.stored else before
        taken.sums = sums_of([swept.packed, *inserted.packed] if swept and before else inserted.packed)
        taken.duplicates = inserted.duplicates + corrected.duplicates
        taken.refused = taken.refused + inserted.refused + corrected.refused
        taken.held += [
            (c.record, Unknown("unknown_original", original_id=c.original), c.event.time) for c in corrected.waiting
        ]
        return taken

    async def _candidates(
        self, connection: Connection, usage: Sequence[tuple[Record, UsageEvent]], taken: Taken
    ) -> list[Candidate]:
        """Find out whose usage each event is; those of nobody known join what is held or refused."""
        known = self.attributor.known
        candidates: list[Candidate] = []
        strangers: list[tuple[Record, UsageEvent]] = []
        for record, event in usage:
            owner = known(event)
            if owner is None:
                strangers.append((record, event))
            else:
                candidates.append(_candidate(record, event, owner))
        if strangers:
            found = await self.attributor.look_up(connection, [name_of(event) for _, event in strangers])
            for record, event in strangers:
                attribution = found[name_of(event)]
                if isinstance(attribution, Owner):
                    candidates.append(_candidate(record, event, attribution))
                elif isinstance(attribution, Unknown):
                    taken.held.append((record, attribution, event.time))
                else:
                    taken.refused.append((record, attribution))
        return candidates

    async def _corrections(
        self, connection: Connection, corrections: Sequence[tuple[Record, Correction]], taken: Taken
    ) -> list[Correcting]:
        """Find out who used what an amendment says; a void says nothing. In the order of the records."""
        names = [name_of(event) for _, event in corrections if isinstance(event, AmendEvent)]
        found = await self.attributor.look_up(connection, names) if names else {}
        correcting: list[Correcting] = []
        for record, event in corrections:
            attribution = found[name_of(event)] if isinstance(event, AmendEvent) else None
            if isinstance(attribution, Rejected):
                taken.refused.append((record, attribution))
            elif isinstance(attribution, Unknown):
                original_id = event_id(event.source, event.corrects)
                taken.held.append((record, replace(attribution, original_id=original_id), event.time))
            else:
                correcting.append(Correcting.of(record, event, attribution))
        return correcting

    async def committed(
        self,
        taken: Taken,
        counts: Counts,
        messages: Sequence[Message],
        refusals: Remember,
    ) -> None:
        """After COMMIT: remember what was stored and refused, count it, publish what was announced."""
        refusals()
        self.recent.remember(taken.stored)
        metrics.count_batch(counts, [rejected.reason for _, rejected in taken.refused])
        metrics.count_corrections(taken.corrected.voided, taken.corrected.amended)
        metrics.observe_freshness(self.clock.now(), taken.sums.youngest)
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


def _candidate(record: Record, event: UsageEvent, owner: Owner) -> Candidate:
    return Candidate(record, event_key(event.source, event.id), event, owner)

"""The story of a slice of `usage.recorded`: decode, fold, store, publish.

Everything up to the return runs in one transaction with the position (shared/consumer.py opens it and has locked the
position's row). What is returned runs after COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import perf_counter

from services.aggregator import metrics, store
from services.aggregator.aggregation import Folded, check, fold
from services.aggregator.counters import Counters, Settled
from services.aggregator.totals import totals
from shared.clock import Clock
from shared.consumer import AfterCommit, Slice
from shared.contracts import UsageRecorded, reservations_named, youngest_event
from shared.gathering import Pace
from shared.postgres import Connection
from shared.recorded import Recorded, decode, late_seconds, report_orphans

RECORDED = Recorded("aggregator_positions")


@dataclass(frozen=True, slots=True)
class ApplyRecorded:
    """Applies slices of `usage.recorded` (implements `shared.consumer.Apply`). `wake_publisher` is told of changed
    statuses, and how young the usage is that changed them; `pace` of how late usage comes."""

    cluster: str
    clock: Clock
    counters: Counters
    wake_publisher: Callable[[datetime | None], None]
    pace: Pace = field(default_factory=Pace)

    async def __call__(self, connection: Connection, batch: Slice) -> AfterCommit:
        """Store what the new messages of a slice add, and its position; return what counts and publishes it."""
        started, now = perf_counter(), self.clock.now()

        messages = [decode(record, check) for record in batch.records]
        await store.begin(connection)
        new = await store.receive(connection, messages)
        stored = await RECORDED.stored(connection, messages, new)
        folded = fold(new)

        locked = await store.lock_subscriptions(connection, folded.usage)
        await store.add_totals(connection, batch.position.partition, totals(folded.summaries))
        await store.add_summaries(connection, folded.summaries)
        settled = await self.counters.settle(connection, locked, folded.usage, now)
        reservations = await store.settle_reservations(connection, named := reservations_named(new), now)
        await store.add_observations(connection, batch.position.partition, folded.providers)
        keys_changed = await store.count_key_days(connection, folded.key_days, now)
        await store.touch_api_keys(connection, folded.keys_used)
        duplicates, orphaned = len(stored) - len(new), len(messages) - len(stored)
        await RECORDED.advance(
            connection, self.cluster, batch, applied=len(new), duplicates=duplicates, orphaned=orphaned
        )

        metrics.SLICE_SECONDS.observe(perf_counter() - started)

        async def committed() -> None:
            self.pace.note(batch.position.partition, late_seconds(messages))
            report_orphans(batch, messages, stored)
            metrics.count_outcomes(applied=len(new), duplicates=duplicates, orphaned=orphaned)
            metrics.count_reservations(settled=reservations, passed_over=len(named) - reservations)
            if settled.status_changed or keys_changed:
                self.wake_publisher(youngest_event(delta for message in new for delta in message.deltas))
            self.committed(new, folded, settled, len(locked))

        return committed

    def committed(self, new: Sequence[UsageRecorded], folded: Folded, settled: Settled, known: int) -> None:
        """After COMMIT: count what it came to."""
        metrics.count_slice(new, folded, self.clock.now())
        metrics.UNKNOWN_SUBSCRIPTIONS.inc(len(folded.usage) - known)
        self.counters.committed(settled)

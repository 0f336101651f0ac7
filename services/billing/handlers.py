"""The story of a slice of `usage.recorded`: decode, rate, store, settle, publish.

Everything up to the return runs in one transaction with the position (shared/consumer.py opens it and has locked the
position's row). What is returned runs after COMMIT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

from services.billing import metrics
from services.billing.credits.settlement import Settling
from services.billing.credits.store import use_reserved
from services.billing.rating import store
from services.billing.rating.prices import Prices
from services.billing.rating.rating import RatedRow
from services.billing.rating.usage import merge
from shared.clock import Clock
from shared.consumer import AfterCommit, Slice
from shared.contracts import UsageRecorded, reservations_named
from shared.gathering import Pace
from shared.ids import uuid7
from shared.postgres import Connection
from shared.recorded import Recorded, decode, late_seconds, report_orphans

RECORDED = Recorded("billing_positions")


@dataclass(frozen=True, slots=True)
class RateRecorded:
    """Rates slices of `usage.recorded` (implements `shared.consumer.Apply`). `pace` is told how late usage comes."""

    cluster: str
    clock: Clock
    prices: Prices
    settling: Settling
    pace: Pace = field(default_factory=Pace)

    async def __call__(self, connection: Connection, batch: Slice) -> AfterCommit:
        """Store what the new messages of a slice are worth, and its position; return what settles and counts it."""
        started, run_id, at = perf_counter(), uuid7(), batch.position

        messages = [decode(record) for record in batch.records]
        await store.begin_run(connection, run_id, self.cluster, at, batch.next_offset)
        new = await store.receive(connection, run_id, messages)
        stored = await RECORDED.stored(connection, messages, new)
        usage = merge(delta for message in new for delta in message.deltas)

        payers = await store.read_payers(connection, {key.subscription_id for key in usage})
        rated = await self.prices.rate(connection, usage, payers)

        await store.insert_rated(connection, run_id, rated)
        await use_reserved(connection, run_id, reservations_named(new))
        duplicates, orphaned = len(stored) - len(new), len(messages) - len(stored)
        await RECORDED.advance(
            connection, self.cluster, batch, applied=len(new), duplicates=duplicates, orphaned=orphaned
        )

        metrics.SLICE_SECONDS.observe(perf_counter() - started)

        async def committed() -> None:
            self.pace.note(at.partition, late_seconds(messages))
            report_orphans(batch, messages, stored)
            metrics.count_outcomes(rated=len(new), duplicates=duplicates, orphaned=orphaned)
            await self.committed(new, rated)

        return committed

    async def committed(self, new: Sequence[UsageRecorded], rated: Sequence[RatedRow]) -> None:
        """After COMMIT: settle at once whose credits are nearly gone, count the rest. The timer settles everybody else."""
        metrics.count_slice(new, rated, self.clock.now())
        if urgent := self.settling.pending.add(rated):
            await self.settling.settle_now(urgent)

"""The story of a slice of `usage.recorded`: decode, fold, store, publish.

Everything up to the return runs in one transaction with the position (shared/consumer.py opens it and has locked the
position's row). What is returned runs after COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import msgspec
from aiokafka import ConsumerRecord

from services.aggregator import metrics, store
from services.aggregator.aggregation import Folded, check, fold
from services.aggregator.counters import Counters, Settled
from shared.clock import Clock
from shared.consumer import AfterCommit, Slice
from shared.contracts import UsageRecorded, decode_recorded
from shared.errors import BrokenInvariant
from shared.postgres import Connection


@dataclass(frozen=True, slots=True)
class ApplyRecorded:
    """Applies slices of `usage.recorded` (implements `shared.consumer.Apply`). `wake_publisher` is told of changed statuses."""

    cluster: str
    clock: Clock
    counters: Counters
    wake_publisher: Callable[[], None]

    async def __call__(self, connection: Connection, batch: Slice) -> AfterCommit:
        """Store what the new messages of a slice add, and its position; return what counts and publishes it."""
        started, now = perf_counter(), self.clock.now()

        messages = [decode(record) for record in batch.records]
        new = await store.receive(connection, messages)
        folded = fold(new)

        await store.act_as_aggregator(connection)
        locked = await store.lock_subscriptions(connection, folded.usage)
        await store.add_summaries(connection, folded.summaries)
        settled = await self.counters.settle(connection, locked, folded.usage, now)
        await store.add_observations(connection, batch.position.partition, folded.providers)
        await store.touch_api_keys(connection, folded.keys_used)
        duplicates = len(messages) - len(new)
        await store.advance_position(
            connection, self.cluster, batch.position, batch.next_offset, applied=len(new), duplicates=duplicates, gaps=batch.gaps
        )  # fmt: skip

        metrics.SLICE_SECONDS.observe(perf_counter() - started)
        return partial(self.committed, new, duplicates, folded, settled, len(locked))

    async def committed(
        self, new: Sequence[UsageRecorded], duplicates: int, folded: Folded, settled: Settled, known: int
    ) -> None:
        """After COMMIT: let changed statuses be published, count the rest."""
        if settled.status_changed:
            self.wake_publisher()
        metrics.count_slice(new, duplicates, folded, self.clock.now())
        metrics.UNKNOWN_SUBSCRIPTIONS.inc(len(folded.usage) - known)
        settled.count()


def decode(record: ConsumerRecord[bytes, bytes]) -> UsageRecorded:
    """Decode a message of our own making. One that cannot be decoded or folded is a `BrokenInvariant`: nothing may be skipped."""
    try:
        message = decode_recorded(record.value or b"")
        check(message)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BrokenInvariant(
            f"{record.topic}[{record.partition}] offset {record.offset} is not a usage.recorded message ({error}): "
            "nothing is counted until every worker runs one version, or the record is understood"
        ) from error
    return message

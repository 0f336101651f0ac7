"""Publishes to gateways what became of subscriptions: `subscription.status`, compacted, keyed by subscription.

Whoever changes a subscription – usage, a reset, billing, an administrator – raises its `status_version` in the same
transaction. Here the present state of each that has not been published is read, published and, once the broker has
acknowledged it, marked with the version that was read. A crash in between publishes it again: harmless.

One publisher at a time, so that versions of one subscription reach the topic in their order. While the broker is slow,
nothing is locked but the publisher's own advisory lock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from services.aggregator import metrics, store
from services.aggregator.quota import remaining
from shared.clock import Clock
from shared.contracts import SUBSCRIPTION_STATUS, ExhaustedKey, Remaining, SubscriptionStatus, encode
from shared.outbox import Message, Producer
from shared.period import utc
from shared.postgres import Pool, transaction

log = structlog.get_logger("aggregator.status")

ROUND_STATUSES = 1_000
"""Most statuses that are on their way to the broker at once."""
BACKOFF_MOST_SECONDS = 5.0
MEASURED_CHANGES = 1_000
"""Most batches of which is remembered, while nothing can be published, how old their usage is."""


class StatusPublisher:
    """Publishes changed statuses: at once when woken, otherwise every `seconds`."""

    def __init__(self, pool: Pool, produce: Producer, clock: Clock, *, seconds: float) -> None:
        self._pool = pool
        self._clock = clock
        self._produce = produce
        self._seconds = seconds
        self._woken = asyncio.Event()
        self._failures = 0
        self._doubtful: set[UUID] = set()
        self._caused_by: list[datetime] = []

    def wake(self, event_time: datetime | None = None) -> None:
        """Say that a change was committed; `event_time` is that of the youngest usage behind it, if usage was the cause."""
        if event_time is not None and len(self._caused_by) < MEASURED_CHANGES:
            self._caused_by.append(event_time)
        self._woken.set()

    async def wait_and_publish(self) -> None:
        """Wait until woken or until it is time, then publish all that waits. After a failure wait longer."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), self._seconds)
        self._woken.clear()
        try:
            await self.publish()
        except Exception as error:
            self._failures += 1
            metrics.STATUS_FAILURES.inc()
            delay = min(BACKOFF_MOST_SECONDS, self._seconds * 2.0**self._failures)
            log.warning("status_publication_failed", error=repr(error), failures=self._failures, retry_seconds=delay)
            await asyncio.sleep(delay)
        else:
            self._failures = 0

    async def publish(self) -> int:
        """Publish until nothing waits or another worker is at it; return how many messages were acknowledged."""
        published, measured = 0, len(self._caused_by)
        while self._doubtful or await store.anything_unpublished(self._pool):
            count = await self._publish_round()
            if count is None:
                self._caused_by.clear()  # whoever holds the lock publishes them; nobody here learns when
                return published
            published += count
        metrics.observe_status_freshness(self._caused_by[:measured], self._clock.now())
        del self._caused_by[:measured]
        return published

    async def _publish_round(self) -> int | None:
        """Publish up to `ROUND_STATUSES`. Return None if another worker holds the lock: it publishes, or soon lets go."""
        async with transaction(self._pool) as connection:
            if not await store.become_only_one(connection, "status_publisher"):
                return None
            await self._settle_doubts()
            rows = await store.unpublished_statuses(connection, ROUND_STATUSES, utc(self._clock.now()).date())
            versions = {row["id"]: row["status_version"] for row in rows}
            # If this session is lost from here on, another worker may publish a newer state before our messages arrive,
            # and a compacted topic would keep ours. So what we cannot mark we publish once more, as it is then.
            self._doubtful |= versions.keys()
            await self._produce([status_message(row) for row in rows])
            await store.mark_published(connection, versions)
        self._doubtful -= versions.keys()
        metrics.STATUSES_PUBLISHED.inc(len(rows))
        return len(rows)

    async def _settle_doubts(self) -> None:
        """Let what an earlier round may have published too late be published again: in a transaction of its own, ended at once."""
        if self._doubtful:
            async with transaction(self._pool) as connection:
                await store.publish_again(connection, self._doubtful)
            self._doubtful.clear()


def status_message(row: Mapping[str, Any]) -> Message:
    """Return the message that tells a subscription's state, from a row of `unpublished_statuses`."""
    status = SubscriptionStatus(
        subscription=row["id"],
        status=row["status"],
        reasons=sorted(row["suspended_reasons"]),
        remaining=Remaining(
            requests=remaining(row["quota_requests"], row["used_requests"]),
            tokens=remaining(row["quota_tokens"], row["used_tokens"]),
            credits=None if row["credits"] is None else format(row["credits"], "f"),
        ),
        reset_at=row["reset_at"],
        as_of=row["as_of"],
        version=row["status_version"],
        exhausted_keys=[
            ExhaustedKey(key, day) for key, day in zip(row["exhausted_keys"], row["exhausted_days"], strict=True)
        ],
    )
    return Message(topic=SUBSCRIPTION_STATUS, value=encode(status), key=str(row["id"]).encode())

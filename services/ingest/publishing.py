"""Publishing beside ingestion: the next batch need not wait for the broker's acknowledgement of the last one's messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from shared.outbox import Message, Outbox, Producer
from shared.postgres import Pool

log = structlog.get_logger("ingest.publishing")

IN_FLIGHT = 8
"""Batches whose messages may be on their way at once; one more waits, so that memory stays bounded."""
LEFTOVER_SECONDS = 3.0
"""Older unpublished messages belong to nobody any more: a worker died between COMMIT and publishing."""


class Publishing:
    """Publishes the outbox of ingest: each batch's messages in the background, leftovers on a timer."""

    def __init__(self, pool: Pool, outbox: Outbox, produce: Producer) -> None:
        self._pool = pool
        self._outbox = outbox
        self._produce = produce
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(IN_FLIGHT)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Start publishing; return at once unless too many batches are on their way."""
        if messages:
            await self._room.acquire()
            task = asyncio.create_task(self._publish(messages))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    async def _publish(self, messages: Sequence[Message]) -> None:
        try:
            await self._outbox.publish(self._pool, self._produce, messages)
        except Exception as error:
            log.warning("publish_failed", messages=len(messages), error=repr(error), then="it stays in the outbox")

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()

    async def leftovers(self) -> None:
        """Publish what a crash or an absent broker left behind, and report what still waits."""
        await self._outbox.empty(self._pool, self._produce, service="ingest", older_than_seconds=LEFTOVER_SECONDS)

    async def finish(self) -> None:
        """Wait for what is on its way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

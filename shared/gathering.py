"""Records of one partition that wait until it is worth a transaction to apply them.

A message of `usage.recorded` touches nearly as many rows as ten of them together: the same subscriptions use the same models. So a
partition whose last slice began a moment ago lets records gather. The first one after a pause waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

GATHERED_BYTES = 4 * 2**20
"""Records of so many bytes wait no longer, and the next fetch waits for them: memory stays bounded."""


@dataclass(slots=True)
class Gathered:
    """What waits, as it was handed over, all of it since the partition's seek number `seeks`."""

    seeks: int
    records: list[Any] = field(default_factory=list)
    _bytes: int = 0
    _full: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def begin(self, seconds: float, start: Callable[[Gathered], Awaitable[None]]) -> None:
        """Call `start` after `seconds`, or as soon as this is full."""
        self._task = asyncio.create_task(self._wait(seconds, start), name="gathering")

    async def _wait(self, seconds: float, start: Callable[[Gathered], Awaitable[None]]) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._full.wait(), seconds)
        await start(self)

    async def add(self, records: Iterable[Any]) -> None:
        """Let records wait, too. Once these are many, return when they have been started on."""
        for record in records:
            self.records.append(record)
            self._bytes += len(record.value or b"")
        if self._bytes >= GATHERED_BYTES:
            self._full.set()
            await self.started()

    async def started(self) -> None:
        """Wait until what waits has been started on, or dropped."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def drop(self) -> None:
        """Forget what waits: it comes again, from the partition's position."""
        if self._task is not None:
            self._task.cancel()

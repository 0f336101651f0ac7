"""Records of one partition that wait until it is worth a transaction to apply them.

A message of `usage.recorded` touches nearly as many rows as ten of them together: the same subscriptions use the same models. So a
partition whose last slice began a moment ago lets records gather. The first one after a pause waits for nothing.

What comes while a partition's slice is at work gathers as well, so that it holds up nobody else's: other partitions find a lane meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

GATHERED_BYTES = 4 * 2**20
"""Records of so many bytes of a partition wait no longer, and the next fetch waits for them: memory stays bounded."""
ALL_GATHERED_BYTES = 16 * 2**20
"""Once so many bytes of all partitions wait, the next fetch waits for those that came last."""
LATE_SHARE = 1 / 3
"""Usage that was late already when it was recorded gathers for this share of how late it was: it is no third later for it."""
MOST_TIMES = 4
"""But at most so many times as long as usage that was not."""
WAITED_TIMES = 2
"""Records that have been at the broker for so many times as long gather no more: what was to come with them is there."""


@dataclass(slots=True)
class Pace:
    """How long after the beginning of a partition's last slice the next one begins, at least: `seconds`, when all goes well.

    Longer where usage is late before it comes here, so that a pipeline with more to do than it can has less to do for each event. Not
    at all where records come out of a backlog of our own: they are many by themselves, and the last of them wait for nobody.
    """

    seconds: float = 0.0
    _late: dict[int, float] = field(default_factory=dict)

    def note(self, partition: int, late_seconds: float) -> None:
        """Remember how late usage of a partition was when it was recorded."""
        self._late[partition] = late_seconds

    def after(self, partition: int, waited_seconds: float) -> float:
        """Return the seconds between slices of a partition whose newest record has been at the broker for so long."""
        if waited_seconds > WAITED_TIMES * self.seconds:
            return 0.0
        return min(MOST_TIMES * self.seconds, max(self.seconds, LATE_SHARE * self._late.get(partition, 0.0)))


@dataclass(slots=True)
class Gathered:
    """What waits, as it was handed over, all of it since the partition's seek number `seeks`."""

    seeks: int
    most_bytes: int = GATHERED_BYTES
    records: list[Any] = field(default_factory=list)
    bytes: int = 0
    _full: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def begin(self, seconds: float, start: Callable[[Gathered], Awaitable[None]]) -> None:
        """Call `start` after `seconds`, or as soon as this is full."""
        self._task = asyncio.create_task(self._wait(seconds, start), name="gathering")

    async def _wait(self, seconds: float, start: Callable[[Gathered], Awaitable[None]]) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._full.wait(), seconds)
        await start(self)

    def wait_no_longer(self) -> None:
        """Let what waits be started on at once."""
        self._full.set()

    @property
    def full(self) -> bool:
        """Whether these are as many as should wait."""
        return self.bytes >= self.most_bytes

    def add(self, records: Iterable[Any]) -> None:
        """Let records wait, too."""
        for record in records:
            self.records.append(record)
            self.bytes += max(0, record.serialized_value_size)  # aiokafka's -1: no value

    async def started(self) -> None:
        """Wait until what waits has been started on, or dropped."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def drop(self) -> None:
        """Forget what waits: it comes again, from the partition's position."""
        if self._task is not None:
            self._task.cancel()

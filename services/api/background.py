"""Work that outlasts the request that asked for it: a proof of the books, the invoices of a month."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog

log = structlog.get_logger("api.background")

T = TypeVar("T")

PATIENCE_SECONDS: Final = 2.0
"""How long a request waits for the work that it began; what takes longer goes on without it."""


@dataclass(slots=True)
class Background:
    """What was begun and goes on. It has to be such that it can be made again: it dies with the process.

    `patience`: for how many seconds a request waits for the work that it began.
    """

    patience: float = PATIENCE_SECONDS
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def begin(self, work: Coroutine[Any, Any, T], *, seconds: float | None = None) -> T | None:
        """Return what some work came to; None where it takes longer: it goes on then. Raises what it raises in that time."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        done, _ = await asyncio.wait({task}, timeout=self.patience if seconds is None else seconds)
        if not done:
            task.add_done_callback(self._ended)
            return None
        self._tasks.discard(task)
        return task.result()

    async def close(self) -> None:
        """End what is going on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background_work_failed", error=repr(error), exc_info=error)

"""Appends to the spool in a thread, for callers that must not wait for a disk: an event loop hands over, and is told when it is kept."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from tallystick.errors import SpoolFull

_log: Final = logging.getLogger("tallystick.writer")

MOST_WAITING: Final = 100_000
"""Items. More are refused: the disk has stopped taking anything."""

Work = Callable[[], None]
Done = Callable[[Exception | None], None]


class Writer:
    """Does what it is handed, in order, in its thread; tells how it went by the callback, in that thread."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[tuple[Work, Done | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tallystick-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work, done: Done | None = None) -> None:
        """Have `work` done, then `done` called with its error or None. Raises `SpoolFull` if too much waits already."""
        if self._items.qsize() >= MOST_WAITING:
            raise SpoolFull(
                f"{MOST_WAITING} events wait to be written; the disk of the spool takes nothing, look at it"
            )
        self._items.put((work, done))

    async def done(self, work: Work) -> None:
        """Have `work` done; return when it is, or raise its error."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self.submit(work, lambda error: _tell(loop, future, error))
        await future

    def stop(self) -> None:
        """Return when all that was submitted before is done."""
        self._items.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            work, done = item
            error: Exception | None = None
            try:
                work()
            except Exception as raised:
                error = raised
            if done is not None:
                try:
                    done(error)
                except Exception:
                    _log.exception("writer.callback_failed")
            elif error is not None:
                _log.error("writer.failed %s", error)


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], error: Exception | None) -> None:
    """Settle a future from another thread. Whoever waited may have gone, and the loop with it."""

    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(settle)

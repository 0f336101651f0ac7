"""An event loop without clock and IO: time is a number, and whatever waits for the outside waits at a gate until the simulation opens it."""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any

OWNER: ContextVar[set[Any]] = ContextVar("owner")
"""The tasks of the worker that runs: every task that it starts joins them, and leaves when it is done."""


def _owned_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coroutine, loop=loop, **options)
    tasks = OWNER.get()
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs what is ready, in its order, and returns: the same calls give the same run."""

    _ready: Any
    _scheduled: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.errors: list[str] = []
        self.set_exception_handler(lambda _, context: self.errors.append(str(context)))
        self.set_task_factory(_owned_task)

    def time(self) -> float:
        return self.now

    def start(self, coroutine: Coroutine[Any, Any, None], tasks: set[Any]) -> asyncio.Task[None]:
        """Run a coroutine until it waits. It, and every task that comes of it, is in `tasks` while it lasts."""
        context = copy_context()
        context.run(OWNER.set, tasks)
        task = context.run(self.create_task, coroutine)
        self.settle()
        return task

    def settle(self) -> None:
        """Run callbacks until everything waits for a gate or for time."""
        events._set_running_loop(self)
        try:
            ready = self._ready
            while ready:
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
        finally:
            events._set_running_loop(None)

    def pass_time(self) -> bool:
        """Let the earliest timer fire; return False if there is none."""
        while self._scheduled:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            if not timer._cancelled:
                self.now = max(self.now, timer._when)
                self._ready.append(timer)
                self.settle()
                return True
        return False

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """Cancelled timers are left out when their time comes."""


@dataclass(slots=True, eq=False)
class Gate:
    """Where a worker waits for the outside. `what` names the call; `may_open` says whether the outside can answer now."""

    owner: Any
    what: str
    future: asyncio.Future[None]
    may_open: Callable[[], bool] | None = None


class Gates:
    """All that is waited for; the simulation chooses what is answered next, and how."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.waiting: list[Gate] = []

    async def wait(self, owner: Any, what: str, may_open: Callable[[], bool] | None = None) -> None:
        """Wait until the simulation opens this gate, or raises here."""
        gate = Gate(owner, what, self._loop.create_future(), may_open)
        self.waiting.append(gate)
        try:
            await gate.future
        finally:
            if gate in self.waiting:
                self.waiting.remove(gate)

    def open(self, gate: Gate, error: BaseException | None = None) -> None:
        """Answer a call, with an error or without, and let the loop settle."""
        self.waiting.remove(gate)
        if gate.future.done():
            return
        if error:
            gate.future.set_exception(error)
        else:
            gate.future.set_result(None)
        self._loop.settle()

"""Walks through the plan: faults start in its order, several at once, at the pace of the traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from services.cli.chaos.faults import Fault
from services.cli.chaos.inject import inject
from services.cli.chaos.people import sign_up
from services.cli.chaos.result import Result
from services.cli.chaos.stage import AWAY, Stage

AT_ONCE: Final = 8
"""Most faults that strike at the same time."""
SLACK: Final = 30
"""Faults that the traffic may be ahead of, or behind."""
LATECOMERS_AFTER: Final = 300
"""Faults until they sign up, at the latest: their events are held until then."""
JOURNAL: Final = "faults.log"
_POLL_SECONDS: Final = 0.05

Show = Callable[[int, str], None]


@dataclass(slots=True)
class Strike:
    """One walk. `done` counts the faults that have begun; `stopping` ends it early."""

    stage: Stage
    plan: Sequence[Fault]
    events: int
    result: Result
    show: Show
    done: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _under_way: dict[str, asyncio.Task[bool]] = field(default_factory=dict)

    def allowed(self) -> float:
        """Return how many records may be published by now."""
        return self.events * min(1.0, (self.done + SLACK) / max(1, len(self.plan)))

    async def run(self) -> None:
        """Inject everything. Raises what an injection raised."""
        try:
            for number, fault in enumerate(self.plan):
                if self.stopping.is_set():
                    break
                if number == min(len(self.plan) // 2, LATECOMERS_AFTER):
                    await self._let_in_latecomers()
                await self._turn(number)
                self.show(number + 1, str(fault))
                self.done = number + 1
                self.result.injected.append(str(fault))
                await self._start(fault)
            await self._all_over()
            await self._let_in_latecomers()  # a second time changes nothing
        finally:
            for task in self._under_way.values():
                task.cancel()
            await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _turn(self, number: int) -> None:
        """Wait until the traffic has come so far."""
        due = self.events * max(0, number - SLACK) / len(self.plan)
        while self.stage.sender.drawn < due and not self.stopping.is_set():
            self.stage.sender.raise_failure()
            self._raise_failure()
            await asyncio.sleep(_POLL_SECONDS)

    async def _start(self, fault: Fault) -> None:
        if fault.alone:
            await self._all_over()
            await self._alone(fault)
            return
        while fault.lane in self._under_way or len(self._under_way) >= AT_ONCE:
            await asyncio.wait(self._under_way.values(), return_when=asyncio.FIRST_COMPLETED)
            self._raise_failure()
        self._under_way[fault.lane] = asyncio.create_task(self._inject(fault), name=str(fault))

    async def _inject(self, fault: Fault) -> bool:
        begun = monotonic()
        try:
            came_about = await inject(self.stage, fault)
        except AWAY as error:  # another one struck the harness' own hand
            came_about = False
            self._note(f"{fault}: {error!r}")
        self.result.struck(fault, came_about=came_about)
        self._note(f"{fault}: {monotonic() - begun:.2f} s{'' if came_about else ', did not come about'}")
        return came_about

    async def _alone(self, fault: Fault) -> None:
        if fault.timed:
            self._note(f"waited {await self.stage.recovered():.2f} s for what came before")
        if await self._inject(fault) and fault.timed:
            took = await self.stage.recovered()
            self.result.recovered(fault.kind, took)
            self._note(f"recovered in {took:.2f} s")

    def _note(self, line: str) -> None:
        with (self.stage.logs / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(f"{datetime.now(UTC):%H:%M:%S.%f} {line}\n")

    async def _all_over(self) -> None:
        while self._under_way:
            await asyncio.wait(self._under_way.values())
            self._raise_failure()

    def _raise_failure(self) -> None:
        """Forget what is over; raise what one of them raised."""
        for lane, task in list(self._under_way.items()):
            if task.done():
                del self._under_way[lane]
                task.result()

    async def _let_in_latecomers(self) -> None:
        """Let those sign up whose events have been held until now, whatever strikes meanwhile."""
        while True:
            try:
                async with self.stage.pool.acquire() as connection, connection.transaction():
                    await sign_up(connection, self.stage.world, self.stage.world.of("latecomer"))
            except AWAY:
                await asyncio.sleep(0.2)
            else:
                return

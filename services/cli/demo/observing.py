"""What a demo shows of itself: where to look while it plays, and what there is to try when all is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.external import VARIABLES
from services.cli.demo.display import Display
from services.cli.demo.observe import Programs, grafana, prometheus
from services.cli.supervisor import WorkerSpec


@dataclass(slots=True)
class Observing:
    """Runs what observes, in `directory`, and tells where it is."""

    programs: Programs
    directory: Path
    display: Display
    _address: str = field(default="", init=False)

    async def start(self, running: AsyncExitStack, specs: Sequence[WorkerSpec]) -> None:
        """Start Prometheus, and Grafana if there is one; `running` ends them."""
        self._address = await running.enter_async_context(
            prometheus(self.programs.prometheus, self.directory / "prometheus", specs)
        )
        self.display.say(f"Prometheus: {self._address}/alerts, and {self._address}/targets")
        if self.programs.grafana is None:
            self.display.say("no Grafana: there is none on PATH, and TALLYSTICK_GRAFANA names none")
            return
        address = await running.enter_async_context(
            grafana(self.programs.grafana, self.directory / "grafana", self._address)
        )
        self.display.say(f"Grafana: {address}")

    def tell(self) -> None:
        """Say where to look."""
        self.display.say(f"look: {self._address}/alerts; what to do about an alert: docs/runbooks/README.md")
        self.display.say(
            "TallystickFreshnessBurnsFast fires for some minutes: what the story sent had happened days and hours before"
        )
        self.display.say("for `tallystick` commands in another terminal:")
        for name in VARIABLES.values():
            line = f"export {name}={shlex.quote(os.environ[name])}"
            self.display.console.print(line, highlight=False, markup=False, soft_wrap=True)


async def until_interrupted(seconds: float | None) -> None:
    """Wait until Ctrl-C or SIGTERM, or for so long."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

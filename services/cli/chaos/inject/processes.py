"""Faults of the workers' processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from time import monotonic
from typing import Final

from deploy.local import ports
from services.cli.chaos import failpoints, faults
from services.cli.chaos.faults import Fault
from services.cli.chaos.stage import POLL_SECONDS, Stage
from services.cli.chaos.workers import Workers
from services.cli.supervisor import WorkerSpec
from shared.errors import TallystickError

SESSION_SECONDS: Final = 10.0
"""After so long without a heartbeat the group gives a member's partitions away (shared/kafka.py)."""
FROZEN_SECONDS: Final = SESSION_SECONDS + 2
PAUSED_SECONDS: Final = 0.4
POINT_SECONDS: Final = 5.0
"""A worker that has not come by its point until then is struck where it is: it may have nothing to do."""
STORM_SECONDS: Final = 30.0
_ACTIONS: Final = {
    faults.KILL_AT_POINT: failpoints.DIE,
    faults.CUT: failpoints.CUT,
    faults.STALL: failpoints.STALL,
    faults.PUBLISH: failpoints.FAIL,
}


async def kill(stage: Stage, fault: Fault) -> None:
    """SIGKILL at whatever moment."""
    await stage.running(fault.worker)
    with contextlib.suppress(ProcessLookupError):
        stage.workers.kill(fault.worker)


async def strike_at_point(stage: Stage, fault: Fault) -> bool:
    """Let the worker strike itself at its point; return False if it has not come by."""
    failpoints.choose(stage.points, fault.worker, fault.point, _ACTIONS[fault.kind])
    if await passed(stage, fault.worker):
        return True
    failpoints.withdraw(stage.points, fault.worker)
    if fault.kind == faults.KILL_AT_POINT:
        await kill(stage, fault)
    return False


async def lose_coordinator(stage: Stage, fault: Fault) -> bool:
    """Let the worker's client believe, as after the answer NOT_COORDINATOR, that its group has another coordinator."""
    failpoints.choose(stage.points, fault.worker, f"before_{failpoints.POLL}", failpoints.COORDINATOR)
    if await passed(stage, fault.worker):
        return True
    failpoints.withdraw(stage.points, fault.worker)
    return False


async def passed(stage: Stage, process: str, seconds: float = POINT_SECONDS) -> bool:
    """Wait until a process has come by its point; False if it does not in time."""
    deadline = monotonic() + seconds
    while not failpoints.passed(stage.points, process):
        if monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS / 5)
    return True


async def pause(stage: Stage, fault: Fault) -> None:
    """Stop it for less than a heartbeat."""
    await _stop(stage, fault.worker, PAUSED_SECONDS)


async def freeze(stage: Stage, fault: Fault) -> None:
    """Stop it for longer than its session lasts: it goes on as a zombie, beside its successor."""
    await _stop(stage, fault.worker, FROZEN_SECONDS)


async def _stop(stage: Stage, worker: str, seconds: float) -> None:
    await stage.running(worker)
    with contextlib.suppress(ProcessLookupError):
        stage.workers.kill(worker, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            stage.workers.kill(worker, signal.SIGCONT)


async def storm(stage: Stage, _fault: Fault) -> None:
    """Workers come and go: one of each service leaves as soon as it has its share, so that the groups deal anew twice."""
    extra = [WorkerSpec(f"services.{name}", 9, ports.choose()) for name in ("ingest", "aggregator", "billing")]
    async with Workers(stage.zygote, extra, stage.logs) as workers:
        with contextlib.suppress(TallystickError):  # a fault beside this one may keep it from becoming ready
            await workers.wait_until_ready(STORM_SECONDS)

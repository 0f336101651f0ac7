"""Periods that are closed while faults happen: by two processes at once, of which one is killed in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from services.cli.chaos import failpoints
from services.cli.chaos.faults import Fault
from services.cli.chaos.stage import Stage
from services.cli.chaos.world import DAYS
from shared.errors import ServiceUnavailable
from shared.period import Period

HOUR: Final = timedelta(hours=1)
TRIES: Final = 30
"""Of a closing that other faults strike: a job is made again until it is done."""
_TRY_SECONDS: Final = 120.0


async def close_twice(stage: Stage, fault: Fault) -> bool:
    """Close the hours that the traffic has passed, twice at once; one of the two is to die at the fault's point.

    Return False if it did not come by: the other one was quicker, or there was nothing to invoice.
    """
    hours = int(stage.sender.share * DAYS * 24) - 1
    start = stage.world.start + stage.closed_hours * HOUR
    if hours > stage.closed_hours:
        stage.closed_hours = hours
        period = Period(start, stage.world.start + hours * HOUR)
    else:  # there is nothing new: closing what is closed finds nothing to do
        period = Period(start, start + HOUR) if hours > 0 else Period(start - HOUR, start)
    failpoints.choose(stage.points, "closing-0", fault.point, failpoints.DIE)
    await asyncio.gather(*(_run(stage, f"closing-{n}", period) for n in range(2)))
    died = failpoints.passed(stage.points, "closing-0")
    failpoints.withdraw(stage.points, "closing-0")
    await close(stage, period)
    return died


async def close_rest(stage: Stage) -> None:
    """Close what is left, with everything that came late."""
    start = stage.world.start + stage.closed_hours * HOUR
    await close(stage, Period(start, stage.world.start + timedelta(days=DAYS + 3)))


async def close(stage: Stage, period: Period) -> None:
    """Close a period until it is closed. Raises `ServiceUnavailable`."""
    for _ in range(TRIES):
        if await _run(stage, "closing-2", period) == 0:
            return
        await asyncio.sleep(0.5)
    raise ServiceUnavailable(f"the period {period} could not be closed: look into {stage.logs}")


async def _run(stage: Stage, name: str, period: Period) -> int:
    arguments: Sequence[datetime] = (period.start, period.end)
    process = await stage.zygote.start(
        "services.cli.chaos.closing", name, "closing", environ={}, log=stage.logs / f"{name}.log",
        arguments=[at.isoformat() for at in arguments],
    )  # fmt: skip
    try:
        async with asyncio.timeout(_TRY_SECONDS):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()

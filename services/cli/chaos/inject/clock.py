"""Clocks that are a day off: each event is judged by the clock of the worker that reads it, and the model knows which one that is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from services.cli.chaos import failpoints
from services.cli.chaos.faults import Fault
from services.cli.chaos.stage import Stage

DAY = timedelta(days=1)
PROBES = 20


async def shift_clocks(stage: Stage, fault: Fault) -> None:
    """Put the clocks of all workers a day ahead or behind, send events that this makes a difference to, and put them right.

    The traffic waits meanwhile, so that nothing else is read by a wrong clock.
    """
    ahead = fault.number % 2 == 0
    await stage.sender.pause()
    await stage.drained()
    _set(stage, DAY if ahead else -DAY)
    now, probes = datetime.now(UTC), stage.probes
    if ahead:  # too far ahead for a right clock
        records = [probes.event((now + timedelta(hours=6)).timestamp()) for _ in range(PROBES)]
    else:
        when = (now - timedelta(hours=2)).timestamp()  # the present, and too far ahead for a clock that is behind
        records = [
            probes.refused(when, "too_far_ahead", "of the present, read by a clock a day behind") for _ in range(PROBES)
        ]
        records += [probes.event((now - 2 * DAY).timestamp()) for _ in range(PROBES)]
    await stage.sender.send(records)
    await stage.drained()
    _set(stage, timedelta(0))
    stage.sender.resume()


def _set(stage: Stage, off: timedelta) -> None:
    for name in stage.workers.names:
        failpoints.set_clock(stage.points, name, off)

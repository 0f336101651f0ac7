"""Faults of the two servers."""

from __future__ import annotations

import asyncio
from typing import Final

from services.cli.chaos import faults
from services.cli.chaos.faults import Fault
from services.cli.chaos.stage import Stage

DOWN_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 5.0
AWAY_SECONDS: Final = 10.0
LONG_AWAY_SECONDS: Final = 120.0
TOLD_SECONDS: Final = 9.0
"""Until then every worker must have said that it is not ready."""


async def kill_broker(stage: Stage, _fault: Fault) -> None:
    """SIGKILL, and start it again a moment later. It takes the group's coordinator with it."""
    await stage.servers.kill(stage.servers.kafka)
    await asyncio.sleep(DOWN_SECONDS)
    await stage.servers.revive(stage.servers.kafka)


async def broker_away(stage: Stage, _fault: Fault) -> None:
    """The same for longer: for minutes in a long run."""
    await stage.servers.kill(stage.servers.kafka)
    await asyncio.sleep(LONG_AWAY_SECONDS if stage.long else AWAY_SECONDS)
    await stage.servers.revive(stage.servers.kafka)


async def kill_postgres(stage: Stage, _fault: Fault) -> None:
    """SIGKILL, and start it again a moment later: crash recovery."""
    await stage.servers.kill(stage.servers.postgres)
    await asyncio.sleep(DOWN_SECONDS)
    await stage.servers.revive(stage.servers.postgres)


async def postgres_away(stage: Stage, _fault: Fault) -> None:
    """The same for longer, while records come in: readiness has to tell, and memory to stay flat."""
    await stage.servers.kill(stage.servers.postgres)
    await stage.until_told(faults.POSTGRES_AWAY, TOLD_SECONDS)
    await asyncio.sleep(LONG_AWAY_SECONDS / 2 if stage.long else 1.0)
    await stage.servers.revive(stage.servers.postgres)


async def silence_postgres(stage: Stage, fault: Fault) -> None:
    """Stop all its processes: connections stay, and nobody answers."""
    with stage.servers.postgres_stopped():
        if fault.timed:
            await stage.until_told(faults.SILENT, TOLD_SECONDS)
        else:
            await asyncio.sleep(SILENT_SECONDS)

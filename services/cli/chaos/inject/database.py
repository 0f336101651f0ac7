"""Faults within the database: sessions, locks, a full disk, a missing partition."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from time import monotonic
from typing import Final

from services.cli.chaos.faults import Fault
from services.cli.chaos.stage import AWAY, POLL_SECONDS, SQL, Stage
from shared.period import month_start
from shared.sql import Queries

_LOCKS: Final = {
    f"{service}_positions": Queries.load("services.cli.chaos", "lock.sql", table=f"{service}_positions")
    for service in ("ingest", "aggregator", "billing")
}
HELD_SECONDS: Final = 0.6
BEYOND_TIMEOUT_SECONDS: Final = 2.2
"""Longer than the lock_timeout of the harness' workers (failpoints.py)."""
READ_ONLY_SECONDS: Final = 1.5
FULL_SECONDS: Final = 15.0
FULL_AT_LEAST_SECONDS: Final = 1.0
LATE_DAYS: Final = 33
_FULL: Final = b"No space left on device"


async def terminate_one(stage: Stage, fault: Fault) -> None:
    """End one session of a worker, one that is in a transaction if there is any."""
    await stage.execute(SQL["terminate_session"], fault.number)


async def terminate_all(stage: Stage, _fault: Fault) -> None:
    """End all of them at once."""
    await stage.execute(SQL["terminate_sessions"])


async def hold_lock(stage: Stage, fault: Fault) -> None:
    """Hold a position's row, so that its reader waits."""
    await _hold(stage, fault, HELD_SECONDS)


async def exceed_lock_timeout(stage: Stage, fault: Fault) -> None:
    """Hold it for longer than a worker waits."""
    await _hold(stage, fault, BEYOND_TIMEOUT_SECONDS)


async def _hold(stage: Stage, fault: Fault, seconds: float) -> None:
    table = sorted(_LOCKS)[fault.number % len(_LOCKS)]
    with contextlib.suppress(*AWAY):  # a fault beside this one may end the session that holds it
        async with stage.pool.acquire() as connection, connection.transaction():
            await connection.fetch(_LOCKS[table]["hold"], fault.number // 8 % 4)
            await asyncio.sleep(seconds)


async def read_only(stage: Stage, _fault: Fault) -> None:
    """What a demoted server does to sessions, for a while."""
    await stage.execute(SQL["read_only"])
    await stage.execute(SQL["terminate_sessions"])
    await asyncio.sleep(READ_ONLY_SECONDS)
    await stage.execute(SQL["writable"])
    await stage.execute(SQL["terminate_sessions"])


async def fill_disk(stage: Stage, _fault: Fault) -> bool:
    """Leave no room for tables that always grow until a transaction has failed for it; False if none did in some seconds."""
    log, disk = stage.servers.postgres_log, stage.servers.small_disk
    start, begun, found = log.stat().st_size, monotonic(), 0
    if disk.real:
        disk.fill()
    else:
        await stage.execute(SQL["say_full"])
        await stage.execute(SQL["pretend_full"])
    try:
        while monotonic() - begun < FULL_SECONDS:
            await asyncio.sleep(POLL_SECONDS)
            with log.open("rb") as file:
                file.seek(start)
                found = _refused(file.read())
            if found and monotonic() - begun > FULL_AT_LEAST_SECONDS:
                break
    finally:
        if disk.real:
            disk.make_room()
        else:
            await stage.execute(SQL["make_room"])
    return found > 0


def _refused(log: bytes) -> int:
    return log.count(_FULL)


async def drop_partition(stage: Stage, _fault: Fault) -> None:
    """Drop next month's partition in front of the workers, or last month's, in which the next late event belongs."""
    now = stage.world.now
    late = month_start(now) - timedelta(hours=2)
    if now - late < timedelta(days=LATE_DAYS):
        await stage.execute(SQL["drop_last_month"])
        await stage.sender.send([stage.probes.event(late.timestamp())])
    await stage.execute(SQL["make_next_month"])
    with contextlib.suppress(*AWAY):  # another session may be making it anew
        await stage.pool.execute(SQL["drop_next_month"])

"""How each class of fault is brought about. An injection ends when its cause has: what remains is to recover."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Final

import asyncpg

from deploy.local import ports
from services.cli.chaos import failpoints, faults
from services.cli.chaos.faults import Fault
from services.cli.chaos.stage import POLL_SECONDS, Stage
from services.cli.supervisor import Supervisor, WorkerSpec
from shared.sql import Queries

SQL: Final = Queries.load("services.cli.chaos")
SESSION_SECONDS: Final = 10.0
"""After so long without a heartbeat the group gives a member's partitions away (shared/kafka.py)."""
FROZEN_SECONDS: Final = SESSION_SECONDS + 3
HELD_SECONDS: Final = 2.0
READ_ONLY_SECONDS: Final = 2.0
DOWN_SECONDS: Final = 1.0
POINT_SECONDS: Final = 20.0
"""A worker that has not come by its point until then is killed where it is: it may have nothing to do."""
_GONE: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


async def inject(stage: Stage, fault: Fault) -> bool:
    """Inject a fault; return False if it turned out to be a plain SIGKILL, because its point was never passed."""
    await asyncio.sleep(fault.delay)
    return await _HOW[fault.kind](stage, fault) is not False


async def _kill(stage: Stage, fault: Fault) -> None:
    await stage.running(fault.worker)
    with contextlib.suppress(ProcessLookupError):
        stage.workers.kill(fault.worker)


async def _kill_at_point(stage: Stage, fault: Fault) -> bool:
    failpoints.choose(stage.points, fault.worker, fault.point)
    deadline = monotonic() + POINT_SECONDS
    while not failpoints.passed(stage.points, fault.worker):
        if monotonic() > deadline:
            failpoints.withdraw(stage.points, fault.worker)
            await _kill(stage, fault)
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


async def _freeze(stage: Stage, fault: Fault) -> None:
    await stage.running(fault.worker)
    with contextlib.suppress(ProcessLookupError):
        stage.workers.kill(fault.worker, signal.SIGSTOP)
        await asyncio.sleep(FROZEN_SECONDS)
        stage.workers.kill(fault.worker, signal.SIGCONT)


async def _storm(stage: Stage, _fault: Fault) -> None:
    """Workers come and go: one leaves as soon as it has its share, so that the group deals anew twice."""
    extra = [WorkerSpec(f"services.{name}", 9, ports.choose()) for name in ("ingest", "aggregator", "billing")]
    async with Supervisor(extra, stage.environ, logs=stage.logs, tell=lambda _: None) as workers:
        await workers.wait_until_ready(60)


async def _kill_broker(stage: Stage, _fault: Fault) -> None:
    await stage.servers.kill(stage.servers.kafka)
    await asyncio.sleep(DOWN_SECONDS)
    await stage.servers.revive(stage.servers.kafka)


async def _kill_postgres(stage: Stage, _fault: Fault) -> None:
    await stage.servers.kill(stage.servers.postgres)
    await asyncio.sleep(DOWN_SECONDS)
    await stage.servers.revive(stage.servers.postgres)


async def _terminate(stage: Stage, _fault: Fault) -> None:
    await stage.execute(SQL["terminate_sessions"])


async def _hold_lock(stage: Stage, fault: Fault) -> None:
    with contextlib.suppress(*_GONE):  # a fault beside this one may end the session that holds it
        async with stage.pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["hold_ingest_position"], fault.partition)
            await asyncio.sleep(HELD_SECONDS)


async def _read_only(stage: Stage, _fault: Fault) -> None:
    await stage.execute(SQL["read_only"])
    await stage.execute(SQL["terminate_sessions"])
    await asyncio.sleep(READ_ONLY_SECONDS)
    await stage.execute(SQL["writable"])


async def _drop_partition(stage: Stage, _fault: Fault) -> None:
    await stage.execute(SQL["make_next_month"])
    await stage.execute(SQL["drop_next_month"])


_HOW: Final[Mapping[str, Callable[[Stage, Fault], Awaitable[bool | None]]]] = {
    faults.KILL: _kill,
    faults.FAILPOINT: _kill_at_point,
    faults.FREEZE: _freeze,
    faults.STORM: _storm,
    faults.BROKER: _kill_broker,
    faults.POSTGRES: _kill_postgres,
    faults.TERMINATE: _terminate,
    faults.LOCK: _hold_lock,
    faults.READ_ONLY: _read_only,
    faults.PARTITION: _drop_partition,
}

"""Every class of fault with what brings it about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from services.cli.chaos import faults
from services.cli.chaos.faults import Fault
from services.cli.chaos.inject import clock, database, invoices, operator, processes, servers
from services.cli.chaos.stage import Stage

How: TypeAlias = Callable[[Stage, Fault], Awaitable[bool | None]]

HOW: Final[Mapping[str, How]] = {
    faults.KILL: processes.kill,
    faults.KILL_AT_POINT: processes.strike_at_point,
    faults.CUT: processes.strike_at_point,
    faults.STALL: processes.strike_at_point,
    faults.PUBLISH: processes.strike_at_point,
    faults.COORDINATOR: processes.lose_coordinator,
    faults.PAUSE: processes.pause,
    faults.FREEZE: processes.freeze,
    faults.STORM: processes.storm,
    faults.SESSION: database.terminate_one,
    faults.SESSIONS: database.terminate_all,
    faults.LOCK: database.hold_lock,
    faults.LOCK_TIMEOUT: database.exceed_lock_timeout,
    faults.PARTITION: database.drop_partition,
    faults.READ_ONLY: database.read_only,
    faults.DISK_FULL: database.fill_disk,
    faults.SILENT: servers.silence_postgres,
    faults.POSTGRES: servers.kill_postgres,
    faults.POSTGRES_AWAY: servers.postgres_away,
    faults.BROKER: servers.kill_broker,
    faults.BROKER_AWAY: servers.broker_away,
    faults.CLOSING: invoices.close_twice,
    faults.CLOCK: clock.shift_clocks,
    faults.RETENTION: operator.overrun,
    faults.TOPIC: operator.recreate,
}


async def inject(stage: Stage, fault: Fault) -> bool:
    """Inject a fault; return False if it did not come about as it was meant: its point was never passed."""
    return await HOW[fault.kind](stage, fault) is not False

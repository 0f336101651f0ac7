"""What services do all the time, by timers of their own: how it stands, and once more by hand. Its runs are not recorded as jobs' are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from services.cli import operator

if TYPE_CHECKING:
    from shared.postgres import Connection, Pool

LATE: Final = timedelta(minutes=1)
"""What a service has left undone for so long is overdue."""


@dataclass(frozen=True, slots=True)
class Continuous:
    """Work of a service: `overdue` counts what waits for longer than it should, `run` does all that is due."""

    name: str
    service: str
    description: str
    overdue: Callable[[Connection, datetime], Awaitable[int]]
    run: Callable[[], Mapping[str, Any]]


async def _periods_overdue(connection: Connection, now: datetime) -> int:
    from services.aggregator.rolling import count_overdue  # noqa: PLC0415 (slow to import)

    return await count_overdue(connection, now, LATE)


def _roll_periods() -> Mapping[str, Any]:
    from services.aggregator.counters import Counters  # noqa: PLC0415
    from services.aggregator.rolling import QuotaResets  # noqa: PLC0415
    from services.aggregator.settings import Settings  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415
    from shared.outbox import Outbox  # noqa: PLC0415

    async def work(settings: Settings, pool: Pool) -> Mapping[str, Any]:
        counters = Counters(settings.quota_policy(), Outbox("aggregator_outbox"))
        # The aggregator's workers publish what becomes of it.
        return {"rolled": await QuotaResets(pool, SystemClock(), counters, lambda: None)()}

    return operator.with_service(Settings, "tallystick_aggregator", work)


async def _partitions_missing(connection: Connection, now: datetime) -> int:
    from services.ingest.partitions.ahead import count_missing  # noqa: PLC0415

    return await count_missing(connection, now, 0)


def _make_partitions() -> Mapping[str, Any]:
    from services.ingest.partitions.ahead import ensure  # noqa: PLC0415
    from services.ingest.settings import Settings  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    async def work(settings: Settings, pool: Pool) -> Mapping[str, Any]:
        return {"partitions": ", ".join(await ensure(pool, SystemClock().now(), settings.ingest_partitions_ahead))}

    return operator.with_service(Settings, "tallystick_ingest", work)


CONTINUOUS: Final = (
    Continuous(
        "roll quota periods", "aggregator", "begins new quota periods, and lifts the suspensions of those that are over",
        _periods_overdue, _roll_periods,
    ),
    Continuous("make partitions", "ingest", "makes the coming months of the log", _partitions_missing, _make_partitions),
)  # fmt: skip


def named(name: str) -> Continuous | None:
    """Return the work of that name; hyphens may stand for its spaces."""
    wanted = name.strip().replace(" ", "-")
    return next((one for one in CONTINUOUS if one.name.replace(" ", "-") == wanted), None)


async def standing(connection: Connection, now: datetime) -> list[tuple[Continuous, int]]:
    """Return all of it, with how much of each is overdue."""
    return [(one, await one.overdue(connection, now)) for one in CONTINUOUS]

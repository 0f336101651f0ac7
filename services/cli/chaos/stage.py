"""Where faults strike: the servers, the workers, the traffic, and how far everything is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

import asyncpg
from aiokafka.errors import KafkaError

from services.cli.chaos.sender import Sender
from services.cli.chaos.servers import Servers
from services.cli.chaos.traffic import Traffic
from services.cli.chaos.workers import Workers, Zygote
from services.cli.chaos.world import World
from services.cli.supervisor import ask
from shared.errors import ServiceUnavailable
from shared.sql import Queries

SQL: Final = Queries.load("services.cli.chaos")
POLL_SECONDS: Final = 0.1
RECOVERY_SECONDS: Final = 600.0
"""Longer than that is no recovery, however busy the machine is."""
AWAY: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg says of a session that was ended in the middle of an answer
    OSError,
    TimeoutError,
    KafkaError,
)
"""What a fault beside this one may answer to the harness itself."""


class Progress(NamedTuple):
    """How many records and messages each service has read since the beginning."""

    ingested: int
    aggregated: int
    rated: int


@dataclass(slots=True)
class Stage:
    """Everything that a fault can strike or look at. `points` is the directory of failpoints, `logs` that of the logs.

    `probes` draws records that a fault needs besides the traffic. `long` runs let faults last longer.
    `problems` are what faults found wrong, in words.
    """

    world: World
    servers: Servers
    zygote: Zygote
    workers: Workers
    pool: asyncpg.Pool
    sender: Sender
    traffic: Traffic
    probes: Traffic
    points: Path
    logs: Path
    long: bool
    problems: list[str] = field(default_factory=list)
    told_seconds: dict[str, list[float]] = field(default_factory=dict)
    """How long it took until every worker said that it is not ready, by class of fault."""
    closed_hours: int = 0

    @property
    def ingest_workers(self) -> list[str]:
        return [name for name in self.workers.names if name.startswith("ingest")]

    async def look(self) -> Progress | None:
        """Return how far everything is, or None while the database is away."""
        try:
            async with asyncio.timeout(10):
                return Progress(**await self.pool.fetchrow(SQL["progress"]))
        except AWAY:
            return None

    async def recovered(self) -> float:
        """Wait until every worker is ready, every service has got on since now, and lag falls; return the seconds it took.

        Raises `ServiceUnavailable` that says what does not move.
        """
        begun, before = monotonic(), None
        published = self.sender.published
        while True:
            self.sender.raise_failure()
            now = await self.look()
            before = before or now
            waiting = await self.not_ready()
            lag_falls = now and before and self.sender.published - now.ingested < published - before.ingested
            if now and before and not waiting and _moved(before, now) and (lag_falls or now.ingested >= published):
                return monotonic() - begun
            if monotonic() - begun > RECOVERY_SECONDS:
                raise ServiceUnavailable(
                    f"not recovered after {RECOVERY_SECONDS:.0f} s ({waiting or 'all are ready'}; {before} then, {now} now, "
                    f"{published} published then): look into {self.logs}"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def drained(self) -> None:
        """With the traffic paused: wait until every worker is ready and ingest has read all that was published."""
        published, deadline = self.sender.published, monotonic() + RECOVERY_SECONDS
        while True:
            now, waiting = await self.look(), await self.not_ready()
            if now and now.ingested >= published and not waiting:
                return
            if monotonic() > deadline:
                raise ServiceUnavailable(
                    f"{published} records are published, {now} are read, {waiting or 'all are ready'}: look into {self.logs}"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def not_ready(self, names: Sequence[str] | None = None) -> dict[str, str]:
        """Return what workers say that are not ready: all, or those of `names`."""
        specs = [spec for spec in self.workers.specs if names is None or spec.name in names]
        answers = await asyncio.gather(*(ask(spec.port, "/readyz") for spec in specs))
        return {spec.name: said.strip() for spec, (status, said) in zip(specs, answers, strict=True) if status != 200}

    async def until_told(self, kind: str, seconds: float) -> None:
        """Note how long it takes until no worker says any more that it is ready; a problem if that does not come in `seconds`."""
        begun = monotonic()
        while len(await self.not_ready()) < len(self.workers.specs):
            if monotonic() - begun > seconds:
                self.problems.append(f"{kind}: after {seconds:.0f} s a worker still said that it is ready")
                return
            await asyncio.sleep(POLL_SECONDS)
        self.told_seconds.setdefault(kind, []).append(monotonic() - begun)

    async def running(self, worker: str) -> None:
        """Wait until a worker's process runs: another fault may have struck it."""
        deadline = monotonic() + RECOVERY_SECONDS
        while worker not in self.workers.running:
            if monotonic() > deadline:
                raise ServiceUnavailable(f"{worker} was not started again: look into {self.logs}")
            await asyncio.sleep(POLL_SECONDS / 2)

    async def execute(self, sql: str, *given: Any) -> Any:
        """Run a statement of the harness, as often as need be; another fault may have the server down at this moment."""
        deadline = monotonic() + RECOVERY_SECONDS
        while True:
            try:
                return await self.pool.fetchval(sql, *given)
            except AWAY:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL_SECONDS)


def _moved(before: Progress, now: Progress) -> bool:
    """Whether every service has read something since."""
    return all(later > earlier for earlier, later in zip(before, now, strict=True))

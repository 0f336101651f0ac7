"""Where faults strike: the servers, the workers, the traffic, and how far everything is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncpg
from aiokafka.errors import KafkaError

from services.cli.chaos.servers import Servers
from services.cli.demo.publish import Publisher
from services.cli.demo.record import Record
from services.cli.demo.sending import Sending
from services.cli.demo.watch import Progress, Watch
from services.cli.supervisor import Supervisor, ask
from shared.errors import ServiceUnavailable

POLL_SECONDS: Final = 0.1
RECOVERY_SECONDS: Final = 90.0
"""Longer than that is no recovery."""
_AWAY: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, KafkaError)


@dataclass(slots=True)
class Traffic:
    """Publishes until it is told to end; `published` grows."""

    sending: Sending
    publisher: Publisher
    least: int
    ending: bool = False
    task: asyncio.Task[float] | None = None

    def begin(self) -> None:
        self.task = asyncio.create_task(asyncio.to_thread(self.publisher.publish, self._records()))

    async def end(self) -> None:
        """Let no record be drawn any more once `least` are out, and wait until the broker has all."""
        self.ending = True
        assert self.task is not None, "it has begun"  # noqa: S101
        await self.task

    def raise_failure(self) -> None:
        """Raise what ended the traffic too early, if something did."""
        if self.task and self.task.done():
            self.task.result()

    def _records(self) -> Iterator[Record]:
        drawn = 0
        records = self.sending.records()
        while not self.ending or drawn < self.least:  # asked before drawing: what is drawn is in the books
            record = next(records, None)
            if record is None:
                return
            drawn += 1
            yield record


@dataclass(slots=True)
class Stage:
    """Everything that a fault can strike or look at. `points` is the directory of failpoints, `logs` that of the workers' logs."""

    servers: Servers
    workers: Supervisor
    pool: asyncpg.Pool
    watch: Watch
    traffic: Traffic
    environ: dict[str, str]
    points: Path
    logs: Path

    async def look(self) -> Progress | None:
        """Return how far everything is, or None while the database is away."""
        try:
            async with asyncio.timeout(10):
                return await self.watch.look()
        except _AWAY:
            return None

    async def recovered(self) -> float:
        """Wait until every worker is ready and every service has got on since now; return the seconds it took.

        Raises `ServiceUnavailable` that says what does not move.
        """
        begun, before = monotonic(), None
        published = self.traffic.publisher.published
        while True:
            self.traffic.raise_failure()
            now = await self.look()
            before = before or now
            waiting = await self._not_ready()
            if now and before and not waiting and self._moved(before, now, published):
                return monotonic() - begun
            if monotonic() - begun > RECOVERY_SECONDS:
                raise ServiceUnavailable(
                    f"not recovered after {RECOVERY_SECONDS:.0f} s ({waiting or 'all are ready'}; {before} then, {now} now, {published} published "
                    f"then): look into {self.logs}"
                )
            await asyncio.sleep(POLL_SECONDS)

    def _moved(self, before: Progress, now: Progress, published: int) -> bool:
        """Whether ingest has read what was published by then, and the others have applied something since."""
        if self.traffic.task and self.traffic.task.done():
            return True
        return (
            now.position >= published
            and now.aggregated_messages > before.aggregated_messages
            and now.rated_messages > before.rated_messages
        )

    async def _not_ready(self) -> dict[str, str]:
        answers = await asyncio.gather(*(ask(spec.port, "/readyz") for spec in self.workers.specs))
        return {
            spec.name: said.strip()
            for spec, (status, said) in zip(self.workers.specs, answers, strict=True)
            if status != 200
        }

    async def running(self, worker: str) -> None:
        """Wait until a worker's process runs: another fault may have struck it."""
        deadline = monotonic() + RECOVERY_SECONDS
        while worker not in self.workers.running:
            if monotonic() > deadline:
                raise ServiceUnavailable(f"{worker} was not started again: look into {self.logs}")
            await asyncio.sleep(POLL_SECONDS)

    async def execute(self, sql: str, *given: Any) -> None:
        """Run a statement of the harness; another fault may have the server down at this moment."""
        deadline = monotonic() + RECOVERY_SECONDS
        while True:
            try:
                await self.pool.execute(sql, *given)
            except _AWAY:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL_SECONDS)
            else:
                return

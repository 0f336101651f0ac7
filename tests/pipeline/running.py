"""A pipeline of a test's own: what the fixture `pipeline` hands over, and how tests use it."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from deploy.local import ports
from services.billing.reconciliation import Check, reconcile
from services.cli.demo.publish import Publisher
from services.cli.demo.record import Record
from services.cli.demo.watch import Watch
from services.cli.supervisor import Supervisor, WorkerSpec, ask
from shared.contracts import USAGE_EVENTS
from shared.postgres import Pool
from shared.settings import KafkaSettings

PARTITIONS: Final = 8
TALLYSTICK: Final = "import sys; from services.cli.main import main; main()"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A seeded database and topics that nobody else uses; workers run while `running` does."""

    environ: dict[str, str]
    kafka: KafkaSettings
    pool: Pool
    logs: Path

    @asynccontextmanager
    async def running(self, *specs: WorkerSpec) -> AsyncIterator[Supervisor]:
        """Run workers that are ready. One that is killed starts again at once; all are stopped gracefully at the end."""
        async with Supervisor(specs, self.environ, logs=self.logs, tell=print, steady_seconds=0) as supervisor:
            await supervisor.wait_until_ready(60)
            yield supervisor

    async def publish(self, records: Iterable[Record], *, rate: float | None = None) -> None:
        """Publish records beside whatever else the test does."""
        publisher = Publisher(
            self.kafka.kafka_bootstrap_servers, self.kafka.kafka_topic_prefix + USAGE_EVENTS, rate=rate
        )
        try:
            await asyncio.to_thread(publisher.publish, records)
        finally:
            publisher.stop()

    async def caught_up(self) -> None:
        """Return when everything that was published is stored, summed up, rated and announced."""
        await Watch(self.pool, self.kafka).until_caught_up(lambda _: None)

    async def broken_checks(self) -> list[Check]:
        """Reconcile and return what does not hold."""
        async with self.pool.acquire() as connection:
            return [check for check in await reconcile(connection) if not check.holds]

    async def command(self, *arguments: str, exit_code: int = 0) -> str:
        """Run a `tallystick` command as a user would; return its standard output."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", TALLYSTICK, *arguments), env=self.environ, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        assert process.returncode == exit_code, said.decode()
        return said.decode()


def workers(**counts: int) -> list[WorkerSpec]:
    """Return workers by service name, on free ports."""
    return [
        WorkerSpec(f"services.{name}", number, ports.choose())
        for name, count in counts.items()
        for number in range(count)
    ]


async def until_synced(worker: WorkerSpec, partitions: int) -> None:
    """Return when an ingest worker says that it runs so many partitions."""
    wanted = re.compile(rf'^tallystick_consumer_partitions{{.*state="synced".*}} {float(partitions)}$', re.MULTILINE)
    deadline = monotonic() + 45  # a member that left is missed after its session timeout of 10 s
    while not wanted.search((await ask(worker.port, "/metrics"))[1]):
        assert monotonic() < deadline, f"{worker.name} does not run {partitions} partitions after 45 s"
        await asyncio.sleep(0.1)

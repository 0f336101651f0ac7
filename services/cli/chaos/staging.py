"""Brings a run's stage up, and takes it down in the end."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import asyncpg

from deploy.local import ports
from deploy.migrate import migrate
from deploy.seed import seed as seed_database
from services.cli.chaos import failpoints
from services.cli.chaos.inject.operator import PARTITIONS
from services.cli.chaos.people import settle_in
from services.cli.chaos.sender import Sender
from services.cli.chaos.servers import Servers
from services.cli.chaos.stage import SQL, Stage
from services.cli.chaos.traffic import Traffic
from services.cli.chaos.workers import Workers, Zygote
from services.cli.chaos.world import make_world
from services.cli.supervisor import WorkerSpec
from shared.contracts import USAGE_EVENTS
from shared.kafka import create_topics

WORKERS: Final = {"ingest": 2, "aggregator": 1, "billing": 1}
READY_SECONDS: Final = 120.0
EVENTS_A_FAULT: Final = 300
"""So many events are sent for each fault, unless a number is given."""
RECORDS_AN_EVENT: Final = 1.02
LONG_RUN: Final = 2_000
"""From so many faults on, servers stay away for minutes."""
WORKER_SETTINGS: Final = {
    "TALLYSTICK_BILLING_CLOSE_PERIODS": "false",
    "TALLYSTICK_BILLING_SETTLEMENT_SECONDS": "1",
    "TALLYSTICK_BILLING_RECONCILE_MINUTES": "0",
}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told on its command line."""

    seed: int
    faults: int
    events: int
    rate: float

    @property
    def wanted(self) -> int:
        """How many records are sent: a few more than events, since some of them are none."""
        return math.ceil((self.events or self.faults * EVENTS_A_FAULT) * RECORDS_AN_EVENT)

    def __str__(self) -> str:
        events = f" --events {self.events}" if self.events else ""
        return f"tallystick chaos --seed {self.seed} --faults {self.faults}{events} --rate {self.rate:g}"


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory for data and logs, removed unless the run fails: others may pass through it, as Postgres may run as another account."""
    place = Path(tempfile.mkdtemp(prefix="tallystick-chaos-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@asynccontextmanager
async def staged(options: Options, place: Path, say: Say) -> AsyncIterator[Stage]:
    """Bring everything up; end it in the end."""
    servers, world = Servers(place / "servers"), make_world(options.seed, datetime.now(UTC))
    points, logs = place / "failpoints", place / "workers"
    logs.mkdir()
    try:
        await servers.start(say)
        environ = _environment(servers, points)
        settings = {"application_name": "tallystick-chaos", "default_transaction_read_only": "off", "TimeZone": "UTC"}
        await migrate(servers.database_url)
        await create_topics(servers.bootstrap_servers, partitions=PARTITIONS)
        await seed_database(servers.database_url, test_data=False)
        async with asyncpg.create_pool(
            servers.database_url, min_size=1, max_size=10, server_settings=settings, command_timeout=60
        ) as pool:
            await _make_small_disk(pool, servers)
            async with pool.acquire() as connection:
                await settle_in(connection, world)
            specs = [
                WorkerSpec(f"services.{name}", n, ports.choose()) for name, many in WORKERS.items() for n in range(many)
            ]
            async with Zygote(environ, logs / "zygote.log") as zygote, Workers(zygote, specs, logs) as workers:
                await workers.wait_until_ready(READY_SECONDS)
                traffic = Traffic(world, options.seed, options.wanted)
                sender = Sender(
                    servers.bootstrap_servers, USAGE_EVENTS, traffic,
                    rate=options.rate, events=options.wanted,
                )  # fmt: skip
                probes = Traffic(world, options.seed + 1, options.wanted, prefix="p")
                yield Stage(
                    world, servers, zygote, workers, pool, sender, traffic, probes, points, logs,
                    long=options.faults >= LONG_RUN,
                )  # fmt: skip
    finally:
        await servers.stop()


def _environment(servers: Servers, points: Path) -> dict[str, str]:
    """The environment of the workers, with the token without which no failpoint works."""
    token = secrets.token_hex(16)
    points.mkdir()
    (points / failpoints.TOKEN_FILE).write_text(token, encoding="ascii")
    root = str(Path(__file__).resolve().parents[3])
    return {
        **os.environ,
        **WORKER_SETTINGS,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "DATABASE_URL": servers.database_url,
        "KAFKA_BOOTSTRAP_SERVERS": servers.bootstrap_servers,
        failpoints.DIRECTORY: str(points),
        failpoints.TOKEN: token,
    }


async def _make_small_disk(pool: asyncpg.Pool, servers: Servers) -> None:
    """Put tables that always grow on a file system that can be filled, where one can be mounted."""
    await pool.execute(SQL["tablespace"])
    servers.small_disk.mount(Path(await pool.fetchval(SQL["tablespace_directory"])))
    if servers.small_disk.real:
        await pool.execute(SQL["move_to_small_disk"])
        await pool.execute(SQL["move_rated_to_small_disk"])

"""A chaos run: servers, workers and traffic come up, faults strike in their order, and at the end the books are compared."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

import asyncpg

from deploy.local import ports
from deploy.migrate import migrate
from deploy.seed import seed as seed_database
from services.billing.reconciliation import Check, reconcile
from services.cli.chaos import failpoints
from services.cli.chaos.faults import KILL, SLOW, Fault, plan
from services.cli.chaos.inject import SQL, inject
from services.cli.chaos.result import Result
from services.cli.chaos.servers import Servers
from services.cli.chaos.stage import Stage, Traffic
from services.cli.demo.publish import Publisher
from services.cli.demo.sending import synthetic
from services.cli.demo.verdict import compare, count, stored_usage
from services.cli.demo.watch import Watch
from services.cli.demo.world import read_world, sign_up
from services.cli.supervisor import Supervisor, WorkerSpec
from shared.contracts import USAGE_EVENTS
from shared.kafka import create_topics
from shared.settings import KafkaSettings

PARTITIONS: Final = 8
WORKERS: Final = {"ingest": 2, "aggregator": 1, "billing": 1}
READY_SECONDS: Final = 90.0
EVENTS_A_FAULT: Final = 5_000
"""So much traffic is prepared for each fault: more than can be sent until it is recovered from."""
WORKER_SETTINGS: Final = {"TALLYSTICK_BILLING_CLOSE_PERIODS": "false"}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told on its command line."""

    seed: int
    faults: int
    events: int
    rate: float


async def run(options: Options, say: Say) -> Result:
    """Run the faults of a seed. Raises `TallystickError` when something does not recover: that, too, is a failure."""
    result, begun = Result(options.seed, commit_here()), monotonic()
    with _workplace() as place:
        async with _stage(options, place, say) as stage:
            stage.traffic.begin()
            await _strike(stage, options, result, say)
            await stage.traffic.end()
            say(f"{stage.traffic.publisher.published:,} records are sent; waiting until all of them are through")
            await stage.workers.wait_until_ready(READY_SECONDS)
            await stage.watch.until_caught_up(lambda _: None)
            result.sent(stage.traffic.sending.expected)
            await _judge(stage, result)
    result.seconds = monotonic() - begun
    return result


@contextmanager
def _workplace() -> Iterator[Path]:
    """A directory for data and logs, removed unless the run fails: others may pass through it, as Postgres may run as another account."""
    place = Path(tempfile.mkdtemp(prefix="tallystick-chaos-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@asynccontextmanager
async def _stage(options: Options, place: Path, say: Say) -> AsyncIterator[Stage]:
    """Bring everything up; end it in the end."""
    servers = Servers(place / "servers")
    try:
        await servers.start(say)
        await migrate(servers.database_url)
        await create_topics(servers.bootstrap_servers, partitions=PARTITIONS)
        await seed_database(servers.database_url, test_data=True)
        environ, points, logs = _environment(servers, place), place / "failpoints", place / "workers"
        specs = [
            WorkerSpec(f"services.{name}", instance, ports.choose())
            for name, wanted in WORKERS.items()
            for instance in range(wanted)
        ]
        settings = {"application_name": "tallystick-chaos", "default_transaction_read_only": "off", "TimeZone": "UTC"}
        async with (
            asyncpg.create_pool(
                servers.database_url, min_size=1, max_size=6, server_settings=settings, command_timeout=60
            ) as pool,
            Supervisor(
                specs, environ, logs=logs, tell=lambda _: None, steady_seconds=0, child="services.cli.chaos.child"
            ) as workers,
        ):
            await workers.wait_until_ready(READY_SECONDS)
            kafka = KafkaSettings(kafka_bootstrap_servers=servers.bootstrap_servers)
            events = max(options.events, options.faults * EVENTS_A_FAULT)
            world = await read_world(servers.database_url)
            traffic = Traffic(
                synthetic(world, events, options.seed, datetime.now(UTC)),
                Publisher(servers.bootstrap_servers, USAGE_EVENTS, rate=options.rate),
                options.events,
            )
            try:
                yield Stage(servers, workers, pool, Watch(pool, kafka), traffic, environ, points, logs)
            finally:
                traffic.publisher.stop()
    finally:
        await servers.stop()


def _environment(servers: Servers, place: Path) -> dict[str, str]:
    """The environment of the workers, with the token without which no failpoint works."""
    points, token = place / "failpoints", secrets.token_hex(16)
    points.mkdir()
    (points / failpoints.TOKEN_FILE).write_text(token, encoding="ascii")
    return {
        **os.environ,
        **WORKER_SETTINGS,
        "DATABASE_URL": servers.database_url,
        "KAFKA_BOOTSTRAP_SERVERS": servers.bootstrap_servers,
        failpoints.DIRECTORY: str(points),
        failpoints.TOKEN: token,
    }


async def _strike(stage: Stage, options: Options, result: Result, say: Say) -> None:
    """Inject round by round; the next one begins when everything moves again. Midway, latecomers sign up."""
    rounds = plan(options.seed, options.faults, [spec.name for spec in stage.workers.specs], PARTITIONS)
    await stage.recovered()
    for number, present in enumerate(rounds, 1):
        if number == max(1, len(rounds) // 2):
            async with stage.pool.acquire() as connection:
                await sign_up(connection, stage.traffic.sending.latecomers)
        outcomes = await asyncio.gather(*(_suffer(stage, fault) for fault in present))
        slow = any(fault.kind in SLOW for fault in present)
        for kind, seconds in outcomes:
            result.struck(kind, seconds if kind in SLOW or not slow else None)
        result.injected += [str(fault) for fault in present]
        took = max(seconds for _, seconds in outcomes)
        say(f"{result.faults.total():>6} {' + '.join(map(str, present))}: recovered in {took:.1f} s")


async def _suffer(stage: Stage, fault: Fault) -> tuple[str, float]:
    """Inject one fault; return its class as it turned out, and how long recovery took from the end of its cause."""
    came_by = await inject(stage, fault)
    return fault.kind if came_by else KILL, await stage.recovered()


async def _judge(stage: Stage, result: Result) -> None:
    """Compare the generator's books with the database, and the database with itself."""
    sending = stage.traffic.sending
    async with stage.pool.acquire() as connection:
        counted = await count(connection, sending.sources)
        rated = {row["subscription_id"]: row["requests"] for row in await connection.fetch(SQL["rated"])}
        result.compare(sending.expected, await stored_usage(connection, sending.sources), rated)
        conflicts = Check(
            "sent = counted: conflicting",
            "What came again with other content was refused as a conflict.",
            "sent",
            sending.expected.rejected["conflict"],
            "quarantined",
            await connection.fetchval(SQL["conflicts"]),
        )
        checks = await compare(connection, sending.sources, sending.expected, counted, stored_before=0)
        result.prove([*checks, conflicts, *await reconcile(connection)])


def commit_here() -> str:
    """Return the commit of this checkout, marked if files were changed since; "unknown" outside of one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)  # noqa: S607
        return done.stdout.strip()

    found = git("rev-parse", "--short=12", "HEAD")
    return (found + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")) or "unknown"


def describe(options: Options) -> Sequence[str]:
    """Return the command line that repeats a run."""
    return ["tallystick", "chaos", *(f"--{name}={value}" for name, value in asdict(options).items())]

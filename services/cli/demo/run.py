"""Everything around the story: the stack it plays on, the ground that it needs, the workers, and what stays afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from deploy.local import ports, stack
from deploy.local.directory import local_directory
from deploy.local.external import servers_named_in, without_password
from deploy.migrate import migrate
from deploy.seed import seed as seed_database
from services.cli.checks import console
from services.cli.demo.console import LINKS_VALID, console_links
from services.cli.demo.display import Display
from services.cli.demo.live import RATE, api_worker, gateways
from services.cli.demo.observe import Programs, find_programs
from services.cli.demo.observing import Observing, until_interrupted
from services.cli.demo.outcome import Outcome
from services.cli.demo.sending import Sending, recorded, synthetic
from services.cli.demo.story import Story
from services.cli.demo.trace import Trace, check_window, default_start, inspect
from services.cli.demo.world import QUERIES, read_world
from services.cli.run import API_PORT_VARIABLE
from services.cli.supervisor import Supervisor, WorkerSpec
from services.cli.topics import PARTITIONS
from services.ingest.settings import Settings
from shared.errors import ConfigurationError
from shared.kafka import create_topics
from shared.kafka_security import client_security
from shared.logs import configure_logs
from shared.postgres import Pool, connect, create_pool
from shared.settings import load

READY_SECONDS: Final = 60.0
WORKER_SETTINGS: Final = {"TALLYSTICK_BILLING_CLOSE_PERIODS": "false"}
"""The story closes last month itself, when all of its usage has come; the scheduled job might do so before."""
WORKER_LOGS: Final = "workers"
DOCUMENTS: Final = "documents"
"""Beside the demo's servers, whose directory goes with them."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a demo is told on its command line."""

    events: int
    seed: int
    trace: Path | None
    start: date | None
    rate: float | None
    workers: Mapping[str, int]
    keep: bool
    observe: bool = False
    stay: float | None = None
    """Seconds that a demo goes on when all is told, if there is something to look at; None: until it is interrupted."""
    console: bool = False


def run(options: Options, *, as_json: bool) -> bool:
    """Run a demo and return whether every check holds. Raises `TallystickError` for what a person has to mend."""
    now = datetime.now(UTC)
    trace = inspect(options.trace) if options.trace else None
    programs = find_programs(os.environ) if options.observe else None
    configure_logs(
        "error", service="demo"
    )  # the workers' logs are theirs; what we call logs to stderr, and only errors
    display = Display(console(stderr=as_json))
    display.chapter("Kafka and Postgres")
    with _servers(options.keep, display) as servers:
        os.environ.update(servers.environment() | WORKER_SETTINGS)
        settings = load(Settings)
        if trace:
            check_window(trace, options.start or default_start(now), now, settings.limits().late)
        stage = Stage(settings, servers.directory / WORKER_LOGS, now, display, programs)
        outcome = asyncio.run(stage.play(options, trace))
        display.say(
            f"sent at {outcome.published_per_second:,.0f} records/s, all through at {outcome.events_per_second:,.0f}/s"
        )
        if options.keep:
            _say_what_stays(display, servers)
    if as_json:
        print(json.dumps(asdict(outcome)))
    return outcome.reconciled


@contextmanager
def _servers(keep: bool, display: Display) -> Iterator[stack.Stack]:
    """Bring up servers with nothing on them, or those that the environment names, or those that an earlier --keep left running."""
    place = demo_directory()
    if not servers_named_in(os.environ) and stack.status(place) is None:
        _remove(place)
    with stack.running_stack(directory=place, say=display.say) as running:
        yield running.stack
        if keep:
            running.keep()


def demo_directory() -> Path:
    """Where a demo has its servers' data and its workers' logs: beside the local stack of this checkout, never the same."""
    return local_directory(os.environ).parent / "demo"


def _remove(place: Path) -> None:
    """Throw away what an earlier demo left there."""
    stack.down(directory=place, purge=True)
    shutil.rmtree(place / WORKER_LOGS, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where and when a demo plays."""

    settings: Settings
    logs: Path
    now: datetime
    display: Display
    programs: Programs | None = None
    """What it is observed with."""

    async def play(self, options: Options, trace: Trace | None) -> Outcome:
        """Prepare the servers, start the workers, and let the story be told."""
        sending = await self._prepare(options, trace)
        specs = self._workers(options)
        pool = await create_pool(self.settings.database_url, max_size=3, application_name="tallystick-demo")
        try:
            async with AsyncExitStack() as running:
                workers = Supervisor(specs, os.environ, logs=self.logs, tell=self.display.say)
                await running.enter_async_context(workers)
                await workers.wait_until_ready(READY_SECONDS)
                self.display.say(f"ready: {', '.join(spec.name for spec in specs)}; their logs are in {self.logs}")
                observing = Observing(self.programs, self.logs.parent, self.display) if self.programs else None
                if observing:
                    await observing.start(running, specs)
                documents = demo_directory().with_name(DOCUMENTS)
                story = Story(self.settings, sending, workers, pool, self.display, options.rate, documents)
                outcome = await story.tell()
                outcome.workers_restarted = workers.restarts.total()
                if observing or options.console:
                    async with (await gateways(self.settings, pool, specs[-1])).running():
                        await self._go_on(options, observing, pool, specs[-1])
                return outcome
        finally:
            await pool.close()

    def _workers(self, options: Options) -> list[WorkerSpec]:
        """Return the workers to run; with something to look at, the API as well, as the last."""
        specs = [
            WorkerSpec(f"services.{name}", instance, ports.choose())
            for name, count in options.workers.items()
            for instance in range(count)
        ]
        return [*specs, api_worker()] if self.programs or options.console else specs

    async def _go_on(self, options: Options, observing: Observing | None, pool: Pool, api: WorkerSpec) -> None:
        """Say what there is to look at, and wait."""
        self.display.chapter("It goes on")
        if options.console:
            address = f"http://{ports.HOST}:{api.variables[API_PORT_VARIABLE]}"
            for who, link in await console_links(pool, address):
                self.display.say(f"the console, as {who} (once, within {LINKS_VALID.seconds // 60} minutes):")
                self.display.console.print(f"    {link}", highlight=False, markup=False, soft_wrap=True)
        if observing:
            observing.tell()
        self.display.say(
            f"{RATE:.0f} events a second are sent, and the API is asked, until Ctrl-C"
            + (f" or for {options.stay:.0f} s" if options.stay is not None else "")
        )
        await until_interrupted(options.stay)

    async def _prepare(self, options: Options, trace: Trace | None) -> Sending:
        """Bring schema, topics and customers, and decide what is sent."""
        url, display = self.settings.database_url, self.display
        display.chapter("Schema, topics, customers, workers")
        await _refuse_foreign_usage(url)
        applied = await migrate(url)
        created = await create_topics(
            self.settings.kafka_bootstrap_servers,
            partitions=PARTITIONS,
            prefix=self.settings.kafka_topic_prefix,
            security=client_security(self.settings),
        )
        display.say(f"{len(applied)} migrations applied, {len(created)} topics created")
        await seed_database(url, test_data=True)
        world = await read_world(url)
        display.say(f"{len(world.subscribers)} subscriptions in use, {len(world.models)} models with prices")
        if trace:
            return recorded(world, trace, options.start or default_start(self.now), self.now)
        return synthetic(world, options.events, options.seed, self.now)


async def _refuse_foreign_usage(database_url: str) -> None:
    """Raise `ConfigurationError` if the database holds real usage: made-up customers and invoices do not belong beside it."""
    connection = await connect(database_url, application_name="tallystick-demo")
    try:
        if await connection.fetchval("SELECT to_regclass('usage_logs') IS NULL"):
            return
        source = await connection.fetchval(QUERIES["foreign_usage"])
    finally:
        await connection.close()
    if source is not None:
        raise ConfigurationError(
            f"{without_password(database_url)} holds usage that is not of a demo (source {source}): "
            "name an empty database in DATABASE_URL, or unset it to use one of the demo's own"
        )


def _say_what_stays(display: Display, servers: stack.Stack) -> None:
    display.chapter("Left running")
    lines = [f"export {name}={shlex.quote(address)}" for name, address in servers.environment().items()]
    lines += [
        f"psql {shlex.quote(servers.database_url)}",
        "tallystick up    # runs the workers again, with the two variables above",
    ]
    if stack.status(servers.directory):
        lines.append(
            f"TALLYSTICK_LOCAL_DIR={shlex.quote(str(servers.directory))} tallystick local down --purge    # ends it"
        )
    for line in lines:
        display.console.print(line, highlight=False, markup=False, soft_wrap=True)

"""Runs one worker process: settings, logs, signals, background work, /metrics, /livez and /readyz.

A service's `app.py` builds a `Worker`; this module runs it the same way for all of them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

import structlog
from faststream.asgi import AsgiFastStream
from faststream.kafka import KafkaBroker

from shared import certificates, tracing
from shared.consumer import ExactlyOnceConsumer
from shared.errors import TallystickError
from shared.logs import configure_logs
from shared.metrics import LOOP_DELAY
from shared.postgres import NO_ROLE, Pool, create_pool, role_to_take
from shared.probes import routes
from shared.settings import KafkaSettings, PostgresSettings, WorkerSettings, load
from shared.startup import check_kafka, check_port, check_schema

log = structlog.get_logger("worker")

HEARTBEAT_SECONDS = 1.0
HEARTBEAT_LATE_SECONDS = 15.0
STUCK_SECONDS = 300.0
LOOK_SECONDS = 5.0
"""How often each consumer looks how far it is behind, and whether it is in its group."""
LAST_WORK_SECONDS = 10.0
"""How long a worker that stops waits for what is on its way to a broker that does not answer."""


class PipelineSettings(KafkaSettings, PostgresSettings, WorkerSettings):
    """What every worker of the pipeline needs."""


@dataclass(frozen=True, slots=True)
class Periodic:
    """Background work: `action` runs every `seconds` after it last ended. An error is logged, the next run comes."""

    name: str
    seconds: float
    action: Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Worker:
    """What a composition root hands over: the broker with its subscribers, the consumers behind them, the background work."""

    name: str
    broker: KafkaBroker
    consumers: Sequence[ExactlyOnceConsumer] = ()
    topics: Sequence[str] = ()
    periodic: Sequence[Periodic] = ()
    on_start: Sequence[Callable[[], Awaitable[object]]] = ()
    """Before anything is consumed."""
    on_stop: Sequence[Callable[[], Awaitable[object]]] = ()
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _beat: float = field(default_factory=monotonic)

    async def start(self) -> None:
        """Start the heartbeat and the background work."""
        looks = [Periodic(f"look at {c.metrics.topic}", LOOK_SECONDS, c.look) for c in self.consumers]
        work = [Periodic("heartbeat", HEARTBEAT_SECONDS, self._heartbeat), *looks, *self.periodic]
        self._tasks = [asyncio.create_task(_repeat(p), name=p.name) for p in work]
        gc.collect()
        gc.freeze()  # what start-up made stays: collections then look at what a batch made, which halves decoding's cost
        gc.set_threshold(200_000, 10, 20)

    async def stop(self) -> None:
        """End background work; consumers tell Kafka where they stand."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(LAST_WORK_SECONDS):
                for consumer in self.consumers:
                    await consumer.close()
                for action in self.on_stop:
                    await action()
        except TimeoutError:
            log.warning("stopped_before_done", then="it is committed: the next worker takes it up")

    async def _heartbeat(self) -> None:
        now = monotonic()
        LOOP_DELAY.set(max(0.0, now - self._beat - HEARTBEAT_SECONDS))
        self._beat = now

    async def dead(self) -> str | None:
        """Say why a restart would help, or None. A broker or database that is away is no such reason."""
        if monotonic() - self._beat > HEARTBEAT_LATE_SECONDS:
            return f"the event loop has not run for {monotonic() - self._beat:.0f} s"
        for consumer in self.consumers:
            if consumer.lost is not None:
                return consumer.lost
            if consumer.not_ready is not None or not (lag := await consumer.lag()):
                consumer.metrics.last_progress = monotonic()  # it has nothing to do: no fault of its own
            elif (still := monotonic() - consumer.metrics.last_progress) > STUCK_SECONDS:
                return f"{consumer.metrics.topic}: {lag} records wait, nothing was committed for {still:.0f} s"
        return None


async def _repeat(work: Periodic) -> None:
    while True:
        try:
            await work.action()
        except Exception as error:
            log.warning("periodic_failed", work=work.name, error=repr(error))
        await asyncio.sleep(work.seconds)


@contextmanager
def _silence(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


SettingsT = TypeVar("SettingsT", bound=PipelineSettings)


def main(
    name: str, settings_type: type[SettingsT], build: Callable[[SettingsT, Pool], Worker], *, default_port: int
) -> None:
    """Run a worker until SIGTERM or SIGINT. Exit code 0 after a graceful stop, 2 with one line for a person's mistake."""
    try:
        settings = load(settings_type)
        configure_logs(settings.log_level, service=name, instance=settings.instance)
        _run(_serve(name, settings, build, default_port))
    except TallystickError as error:
        print(f"tallystick {name}: {error}", file=sys.stderr)  # noqa: T201 – the last word to a person
        sys.exit(2)


def _run(serve: Coroutine[Any, Any, None]) -> None:
    # uvicorn raises the signal that stopped it again once it is done: a graceful stop must still end with code 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        asyncio.run(serve)
    except KeyboardInterrupt:
        log.info("interrupted")


async def role_of(name: str, settings: PipelineSettings) -> str | None:
    """Return the database role of the service, or None with a warning where it has to work with the rights of its login."""
    role, problem = await role_to_take(settings.database_url, settings.database_role, f"tallystick_{name}")
    if role is None and settings.database_role != NO_ROLE:
        log.warning("rights_of_the_login", reason=problem, advice="see docs/how-to/secure-postgres-and-kafka.md")
    return role


async def _serve(name: str, settings: SettingsT, build: Callable[[SettingsT, Pool], Worker], default_port: int) -> None:
    pool = await create_pool(
        settings.database_url,
        max_size=settings.database_pool_max,
        application_name=f"tallystick-{name}",
        role=await role_of(name, settings),
    )
    try:
        certificates.report(settings)
        tracing.start(name, settings.instance, settings.otlp_endpoint)
        port = settings.http_port or default_port
        check_port(settings.http_host, port)
        await check_schema(pool)
        worker = build(settings, pool)
        with _silence("aiokafka"):  # it would tell of every try: one line at the end is for a person
            await check_kafka(settings, worker.topics)
        for action in worker.on_start:
            await action()
        app = AsgiFastStream(
            worker.broker,
            asgi_routes=routes(worker.dead, worker.consumers, pool),
            logger=None,
            after_startup=[worker.start],
            on_shutdown=[worker.stop],
        )
        log.info("worker_starts", pid=os.getpid(), http=f"http://{settings.http_host}:{port}")
        await app.run(
            log_level=logging.WARNING,
            run_extra_options={
                "host": settings.http_host,
                "port": str(port),
                "log_config": None,  # keep our own JSON logs
                "timeout_graceful_shutdown": int(settings.shutdown_seconds),
            },
        )
        log.info("worker_stopped")
    finally:
        tracing.stop()
        await close_pool(pool)


async def close_pool(pool: Pool) -> None:
    """Close a pool, gracefully for a while."""
    try:
        await asyncio.wait_for(pool.close(), timeout=10)
    except TimeoutError:
        pool.terminate()

"""Runs one process of the API: the API on its port; /metrics, /livez and /readyz on the one that operators and Kubernetes ask."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Generator

import structlog
import uvicorn
from starlette.types import ASGIApp

from services.api.app import build
from services.api.probes import probes_app
from services.api.settings import Settings
from services.api.state import parts_of
from shared import certificates
from shared.errors import TallystickError
from shared.logs import configure_logs
from shared.postgres import create_pool
from shared.settings import load
from shared.startup import check_port, check_schema
from shared.worker import close_pool, role_of

log = structlog.get_logger("api")

PROBES_PORT = 9104


def main() -> None:
    """Run until SIGTERM or SIGINT. Exit code 0 after a graceful stop, 2 with one line for a person's mistake."""
    try:
        settings = load(Settings)
        configure_logs(settings.log_level, service="api", instance=settings.instance)
        asyncio.run(_serve(settings))
    except TallystickError as error:
        print(f"tallystick api: {error}", file=sys.stderr)  # noqa: T201 – the last word to a person
        sys.exit(2)


async def _serve(settings: Settings) -> None:
    pool = await create_pool(
        settings.database_url,
        max_size=settings.database_pool_max,
        application_name="tallystick-api",
        role=await role_of("api", settings),
    )
    try:
        certificates.report(settings)
        probes_port = settings.http_port or PROBES_PORT
        check_port(settings.http_host, probes_port)
        check_port(
            settings.api_host, settings.api_port, what="the API", settings="TALLYSTICK_API_PORT and TALLYSTICK_API_HOST"
        )
        await check_schema(pool)
        application = build(settings, pool)
        api = _server(application, settings.api_host, settings.api_port, settings.shutdown_seconds)
        probes = _server(probes_app(api, pool), settings.http_host, probes_port, 1)
        log.info(
            "api_starts", pid=os.getpid(), api=f"http://{settings.api_host}:{settings.api_port}", probes=probes_port
        )
        await _run(api, probes, ending=parts_of(application).live.end)
        log.info("api_stopped")
    finally:
        await close_pool(pool)


class _Server(uvicorn.Server):
    """A server that leaves signals alone: there are two of them in this process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _server(app: ASGIApp, host: str, port: int, shutdown_seconds: float) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,  # keep our own JSON logs
        log_level=logging.WARNING,
        access_log=False,  # the boundary writes one, without query strings
        server_header=False,
        timeout_graceful_shutdown=int(shutdown_seconds),
    )
    return _Server(config)


async def _run(api: uvicorn.Server, probes: uvicorn.Server, ending: Callable[[], None]) -> None:
    """Serve until a signal; the API ends first, so that the probes tell of it until the end. `ending` ends what would not end itself."""

    def stop() -> None:
        api.should_exit = True
        ending()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    beside = asyncio.create_task(probes.serve())
    try:
        await api.serve()
    finally:
        probes.should_exit = True
        await beside

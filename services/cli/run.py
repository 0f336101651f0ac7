"""`tallystick up`: all workers of the pipeline on this machine, as separate processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.cli.supervisor import WorkerSpec

FIRST_PORT = 9101
READY_SECONDS = 60.0
API_PORT = 8084
API_PORT_VARIABLE = "TALLYSTICK_API_PORT"


def up(  # noqa: PLR0917 (typer calls it by name)
    ingest: Annotated[int, typer.Option(min=0, max=64, help="Ingest workers.")] = 1,
    aggregator: Annotated[int, typer.Option(min=0, max=64, help="Aggregator workers.")] = 1,
    billing: Annotated[int, typer.Option(min=0, max=64, help="Billing workers.")] = 1,
    api: Annotated[
        int, typer.Option(min=0, max=64, help="Processes of the HTTP API, from TALLYSTICK_API_PORT (8084) on.")
    ] = 1,
    port: Annotated[
        int,
        typer.Option(
            min=1024, max=65000, help="First port for /metrics, /livez and /readyz; each worker takes the next."
        ),
    ] = FIRST_PORT,
    logs: Annotated[
        Path | None,
        typer.Option(help="Directory for one log file of each worker; without it their JSON lines go to stderr."),
    ] = None,
) -> None:
    """Run all workers against the configured stack until Ctrl-C or SIGTERM.

    The servers are those that DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS name, else the running local stack. A worker that dies is restarted.
    """
    from deploy.local import connect  # noqa: PLC0415 (slow to import)

    specs = place({"ingest": ingest, "aggregator": aggregator, "billing": billing, "api": api}, port)
    asyncio.run(_run(specs, connect.environment(), logs))


def place(counts: Mapping[str, int], port: int) -> list[WorkerSpec]:
    """Return the workers that `counts` (by service) asks for, on consecutive ports. Raises `ConfigurationError` if one is taken."""
    from deploy.local.ports import is_free  # noqa: PLC0415
    from services.cli.supervisor import WorkerSpec  # noqa: PLC0415

    names = [(service, instance) for service, count in counts.items() for instance in range(count)]
    specs = [
        WorkerSpec(f"services.{service}", instance, port + index, _own_variables(service, instance))
        for index, (service, instance) in enumerate(names)
    ]
    if not specs:
        raise ConfigurationError(
            "no worker was asked for: give --ingest, --aggregator, --billing or --api a number above 0"
        )
    ports = [port for spec in specs for port in (spec.port, *map(int, spec.variables.values()))]
    if taken := [str(port) for port in ports if not is_free(port)]:
        raise ConfigurationError(
            f"port {', '.join(taken)} is in use: choose others with --port (and TALLYSTICK_API_PORT), or stop what runs there"
        )
    return specs


def _own_variables(service: str, instance: int) -> dict[str, str]:
    """Return the variables of one worker: processes of the API listen on consecutive ports, from the one that is set."""
    if service != "api":
        return {}
    first = os.environ.get(API_PORT_VARIABLE, "") or str(API_PORT)
    if not first.isdigit():
        raise ConfigurationError(f"{API_PORT_VARIABLE}: '{first}' is no port")
    return {API_PORT_VARIABLE: str(int(first) + instance)}


async def _run(specs: list[WorkerSpec], servers: Mapping[str, str], logs: Path | None) -> None:
    from services.cli.supervisor import Supervisor  # noqa: PLC0415

    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this is not None, "a coroutine runs in a task"  # noqa: S101
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, this.cancel)
    try:
        async with Supervisor(specs, {**os.environ, **servers}, logs=logs, tell=typer.echo) as workers:
            await workers.wait_until_ready(READY_SECONDS)
            for spec in specs:
                api = spec.variables.get(API_PORT_VARIABLE)
                typer.echo(
                    f"{spec.name:14} ready, {spec.url}/metrics" + (f"; API at http://127.0.0.1:{api}" if api else "")
                )
            typer.echo(f"{len(specs)} workers run; Ctrl-C stops them")
            await workers.wait_for_failure()
    except asyncio.CancelledError:  # asked to stop: the block above has ended the workers
        typer.echo("all workers have stopped")

"""`tallystick up`: all workers of the pipeline on this machine, as separate processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.cli.supervisor import WorkerSpec

FIRST_PORT = 9101
READY_SECONDS = 60.0


def up(
    ingest: Annotated[int, typer.Option(min=0, max=64, help="Ingest workers.")] = 1,
    aggregator: Annotated[int, typer.Option(min=0, max=64, help="Aggregator workers.")] = 1,
    billing: Annotated[int, typer.Option(min=0, max=64, help="Billing workers.")] = 1,
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

    specs = place({"ingest": ingest, "aggregator": aggregator, "billing": billing}, port)
    asyncio.run(_run(specs, connect.environment(), logs))


def place(counts: Mapping[str, int], port: int) -> list[WorkerSpec]:
    """Return the workers that `counts` (by service) asks for, on consecutive ports. Raises `ConfigurationError` if one is taken."""
    from deploy.local.ports import is_free  # noqa: PLC0415
    from services.cli.supervisor import WorkerSpec  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    names = [(service, instance) for service, count in counts.items() for instance in range(count)]
    specs = [
        WorkerSpec(f"services.{service}", instance, port + index) for index, (service, instance) in enumerate(names)
    ]
    if not specs:
        raise ConfigurationError("no worker was asked for: give --ingest, --aggregator or --billing a number above 0")
    if taken := [str(spec.port) for spec in specs if not is_free(spec.port)]:
        raise ConfigurationError(
            f"port {', '.join(taken)} is in use: choose others with --port, or stop what runs there"
        )
    return specs


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
                typer.echo(f"{spec.name:14} ready, {spec.url}/metrics")
            typer.echo(f"{len(specs)} workers run; Ctrl-C stops them")
            await workers.wait_for_failure()
    except asyncio.CancelledError:  # asked to stop: the block above has ended the workers
        typer.echo("all workers have stopped")

"""`tallystick replay`: publishes a recorded trace, and nothing else."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer


def replay(
    file: Annotated[
        Path, typer.Argument(help="CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens.", metavar="FILE")
    ],
    rate: Annotated[float | None, typer.Option(min=0.1, help="Events a second; full speed without it.")] = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="Day (UTC) that the trace's first day becomes; the second-to-last of last month by default.",
        ),
    ] = None,
) -> None:
    """Publish the requests of a trace as usage events of the first subscriptions in the database.

    Ids, times and subscriptions follow from the file and the start day alone: replaying it again publishes the same events, which adds nothing.
    """
    from datetime import UTC  # noqa: PLC0415

    from services.cli.demo.publish import Publisher  # noqa: PLC0415 (slow to import)
    from services.cli.demo.trace import TraceTraffic, check_window, default_start, inspect  # noqa: PLC0415
    from services.cli.demo.world import read_world  # noqa: PLC0415
    from services.cli.servers import ingest_settings  # noqa: PLC0415
    from shared.contracts import USAGE_EVENTS  # noqa: PLC0415
    from shared.kafka_security import librdkafka_security  # noqa: PLC0415

    trace, now = inspect(file), datetime.now(UTC)
    day = start.date() if start else default_start(now)
    settings = ingest_settings()
    check_window(trace, day, now, settings.limits().late)
    world = asyncio.run(read_world(settings.database_url))
    traffic = TraceTraffic(trace, day, world.subscribers, world.models)
    publisher = Publisher(
        settings.kafka_bootstrap_servers,
        settings.kafka_topic_prefix + USAGE_EVENTS,
        rate=rate,
        security=librdkafka_security(settings),
    )
    try:
        seconds = publisher.publish(traffic.records())
    except KeyboardInterrupt:
        publisher.flush()
        typer.echo(f"stopped after {publisher.published} of {trace.rows} events; replaying again adds the rest")
        raise
    first, last = trace.span(day)
    typer.echo(
        f"published {publisher.published} events of {file} in {seconds:.1f} s ({publisher.published / max(seconds, 1e-9):,.0f}/s), "
        f"as usage from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    )

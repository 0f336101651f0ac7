"""`tallystick demo`: the whole pipeline on this machine, from a broker to an invoice, with a proof at the end."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

EXIT_UNPROVED = 1
EVENTS = 200_000


def demo(
    *,
    events: Annotated[
        int, typer.Option(min=100, max=10_000_000, help="Valid events to send; broken ones and resends come on top.")
    ] = EVENTS,
    seed: Annotated[int, typer.Option(help="The same seed draws the same customers, sizes and troubles.")] = 1,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Replay this CSV (TIMESTAMP, ContextTokens, GeneratedTokens) instead."),
    ] = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="Day (UTC) that the trace's first day becomes; the second-to-last of last month by default.",
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(min=1, help="Records sent a second; full speed without it.")] = None,
    ingest: Annotated[int, typer.Option(min=1, max=16, help="Ingest workers.")] = 2,
    aggregator: Annotated[int, typer.Option(min=1, max=16, help="Aggregator workers.")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave Kafka and Postgres running, with all that came of it.")
    ] = False,
    observe: Annotated[
        bool,
        typer.Option(
            "--observe", help="Run a Prometheus (and a Grafana, if there is one) beside it, and go on when all is told."
        ),
    ] = False,
    with_console: Annotated[
        bool,
        typer.Option("--console", help="Serve the console when all is told, and print links that sign in to it."),
    ] = False,
    stay: Annotated[
        float | None,
        typer.Option(
            "--for",
            min=0,
            metavar="SECONDS",
            help="With --observe or --console: go on for so long; until Ctrl-C without it.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")
    ] = False,
) -> int:
    """Run the whole pipeline here and now, and prove that every event was counted exactly once.

    Starts a Kafka and a Postgres of its own (or uses those that DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS name), sends usage of about 300
    subscriptions, kills a worker midway, closes last month into invoices, and reconciles. Exit code 0 only if every check holds.

    --observe needs Prometheus on PATH, or named in TALLYSTICK_PROMETHEUS; Grafana likewise, if it is there.
    """
    if stay is not None and not (observe or with_console):
        raise typer.BadParameter("--for says how long to go on with --observe or --console: give one of them, too")
    from services.cli.demo.run import Options, run  # noqa: PLC0415 (slow to import)

    options = Options(
        events,
        seed,
        trace,
        start.date() if start else None,
        rate,
        {"ingest": ingest, "aggregator": aggregator, "billing": 1},
        keep,
        observe,
        stay,
        with_console,
    )
    return 0 if run(options, as_json=as_json) else EXIT_UNPROVED

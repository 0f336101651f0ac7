"""`tallystick chaos`: faults of every class strike a pipeline in use, and every event must still be counted and billed once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXIT_DIFFERS = 1


def chaos(
    *,
    seed: Annotated[int, typer.Option(help="The same seed injects the same faults in the same order.")] = 1,
    faults: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many faults to inject.")] = 200,
    events: Annotated[
        int, typer.Option(min=0, max=100_000_000, help="Valid events to send at least; 0: 300 for each fault.")
    ] = 0,
    rate: Annotated[float, typer.Option(min=50, help="Records sent a second at most.")] = 2_000.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")
    ] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report to FILE, as Markdown.")] = None,
) -> int:
    """Kill, stop, cut off and overload a pipeline of its own while traffic flows, then compare what was sent with what is stored.

    Starts its own Kafka and Postgres, whatever the environment names. Ctrl-C ends the faults early: what was sent until then is
    compared all the same. Exit code 0 only if nothing was lost, doubled or billed twice.
    """
    import asyncio  # noqa: PLC0415 (slow to import)
    import json  # noqa: PLC0415

    from services.cli.chaos.report import markdown  # noqa: PLC0415
    from services.cli.chaos.run import run  # noqa: PLC0415
    from services.cli.chaos.show import Progress  # noqa: PLC0415
    from services.cli.chaos.staging import Options  # noqa: PLC0415
    from services.cli.checks import console  # noqa: PLC0415
    from shared.logs import configure_logs  # noqa: PLC0415

    configure_logs("error", service="chaos")
    options = Options(seed, faults, events, rate)
    with Progress(console(stderr=as_json), faults=faults, records=options.wanted) as progress:
        result = asyncio.run(run(options, progress.say, progress))
    text = markdown(result)
    if report:
        report.write_text(text, encoding="utf-8")
    typer.echo(json.dumps(result.document()) if as_json else text)
    return 0 if result.passed else EXIT_DIFFERS

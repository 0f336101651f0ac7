"""`tallystick scale-out`: distributes the log over several servers."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer


def scale_out(
    *,
    coordinator: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="How the nodes reach the server that DATABASE_URL names.")
    ],
    node: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="A server that shall hold shards; may be given often.")
    ] = None,
    shards: Annotated[
        int, typer.Option(min=1, max=1024, help="Shards of each month: a few for each core of the nodes.")
    ] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Distribute the log by subscription over several servers, with Citus. Stop the workers first, and back up.

    DATABASE_URL names the coordinator, as a superuser. Every server has Citus loaded, and the coordinator may log in to all of them. Rows that
    are there are moved. Done twice, it adds the nodes that are new and changes nothing else.
    """
    from deploy import scale_out as scaling  # noqa: PLC0415 (slow to import)
    from deploy.local import connect  # noqa: PLC0415

    nodes = [scaling.Node.parse(text) for text in node or []]
    lie = asyncio.run(
        scaling.scale_out(
            connect.database_url(),
            scaling.Node.parse(coordinator),
            nodes,
            shards=shards,
            say=lambda line: typer.echo(line, err=as_json),
        )
    )
    if as_json:
        typer.echo(json.dumps(lie, default=str))
        return
    for table, places in lie.items():
        for place in places:
            typer.echo(f"{table}: {place['shards']} shards on {place['node']}, {(place['bytes'] or 0) / 1e6:,.1f} MB")

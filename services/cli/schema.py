"""`tallystick schema`: the published schemas of what crosses Kafka."""

from __future__ import annotations

import json

import typer

from shared.contracts import usage_event_schema

app = typer.Typer(no_args_is_help=True, help="Print the published schema of a message.")


@app.callback()
def schema() -> None:
    """Keep `usage-event` a command of its own: more schemas will stand beside it."""


@app.command("usage-event")
def usage_event() -> None:
    """Print the JSON Schema of a usage event, which producers in any language follow."""
    typer.echo(json.dumps(usage_event_schema(), indent=2))

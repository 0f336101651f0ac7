"""`tallystick schema`: the published schemas of what crosses Kafka."""

from __future__ import annotations

import json

import typer

from shared.asyncapi import asyncapi_document
from shared.contracts import usage_event_schema
from shared.corrections import usage_amend_schema, usage_void_schema
from shared.version import installed_version

app = typer.Typer(no_args_is_help=True, help="Print the published schema of a message.")


@app.command("usage-event")
def usage_event() -> None:
    """Print the JSON Schema of a usage event, which producers in any language follow."""
    typer.echo(json.dumps(usage_event_schema(), indent=2))


@app.command("usage-void")
def usage_void() -> None:
    """Print the JSON Schema of an event that takes a usage event back."""
    typer.echo(json.dumps(usage_void_schema(), indent=2))


@app.command("usage-amend")
def usage_amend() -> None:
    """Print the JSON Schema of an event that replaces a usage event."""
    typer.echo(json.dumps(usage_amend_schema(), indent=2))


@app.command("asyncapi")
def asyncapi() -> None:
    """Print the AsyncAPI document of all topics and messages."""
    typer.echo(json.dumps(asyncapi_document(installed_version()), indent=2))

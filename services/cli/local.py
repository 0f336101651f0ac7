"""`tallystick local`: a Kafka and a Postgres of one's own."""

from __future__ import annotations

import shlex

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Run a real Kafka and a real Postgres on this machine, without Docker and without root.",
)

NOT_RUNNING = 1


@app.command()
def up() -> None:
    """Start Kafka and Postgres, or find them running. They stay until `tallystick local down`.

    What DATABASE_URL or KAFKA_BOOTSTRAP_SERVERS name is used as it is, and nothing is started for it. Data live in .tallystick/local of this
    checkout (TALLYSTICK_LOCAL_DIR chooses another place), ports are free ones that are remembered.
    """
    from deploy.local import stack  # noqa: PLC0415 (slow to import)

    running = stack.up(say=typer.echo)
    typer.echo("")
    for name, value in running.environment().items():
        typer.echo(f"{name}={value}")
    typer.echo(
        "\nEvery tallystick command of this checkout finds them; other programs do after `eval $(tallystick local env)`."
    )


@app.command()
def down(purge: bool = typer.Option(False, "--purge", help="Also remove the data, logs and remembered ports.")) -> None:
    """Stop what `tallystick local up` started."""
    from deploy.local import stack  # noqa: PLC0415

    if not stack.down(purge=purge, say=typer.echo):
        typer.echo("the local stack was not running")


@app.command()
def status() -> None:
    """Say what runs and where. Exit code 1 if nothing does."""
    from deploy.local import stack  # noqa: PLC0415

    running = stack.status()
    if running is None:
        typer.echo("the local stack is not running; start it with `tallystick local up`")
        raise typer.Exit(NOT_RUNNING)
    if not running.servers and not running.ended:
        typer.echo("the local stack is being started")
    for server in running.servers:
        typer.echo(f"{server.name.capitalize()}: {server.description}")
        typer.echo(f"  at {server.address}\n  process {server.pid}, log {server.log}")
    for server in running.ended:
        typer.echo(f"{server.name.capitalize()}: has ended, see {server.log}; `tallystick local up` starts it again")


@app.command()
def env() -> None:
    """Print shell commands that set DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS, for `eval $(tallystick local env)`."""
    from deploy.local import connect  # noqa: PLC0415

    for name, value in connect.environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")

"""The `tallystick` command: finds the module of the command that was asked for, and turns errors into one line.

Modules of commands import at their top only what defines the command line, and the rest inside the command, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from shared.errors import TallystickError

# The command's name, and `module:attribute` of a function with typer's annotations or of a `typer.Typer` that groups several.
COMMANDS = {
    "demo": "services.cli.demo.command:demo",
    "chaos": "services.cli.chaos.command:chaos",
    "local": "services.cli.local:app",
    "migrate": "services.cli.database:migrate",
    "seed": "services.cli.database:seed",
    "backup": "services.cli.backup:app",
    "restore": "services.cli.backup:restore",
    "topics": "services.cli.topics:topics",
    "scale-out": "services.cli.scale_out:scale_out",
    "up": "services.cli.run:up",
    "replay": "services.cli.replay:replay",
    "doctor": "services.cli.doctor.command:doctor",
    "reconcile": "services.cli.reconcile:reconcile",
    "export": "services.cli.export:app",
    "invoice": "services.cli.invoices.command:app",
    "render": "services.cli.render:render",
    "explain": "services.cli.explain:explain",
    "reprice": "services.cli.reprice:reprice",
    "quarantine": "services.cli.quarantine:app",
    "held": "services.cli.held:app",
    "verify": "services.cli.rebuild:verify",
    "rebuild": "services.cli.rebuild:rebuild",
    "announce": "services.cli.announce:announce",
    "partitions": "services.cli.partitions:app",
    "payments": "services.cli.payments.command:app",
    "jobs": "services.cli.jobs:app",
    "webhooks": "services.cli.webhooks:app",
    "alerts": "services.cli.alerts:app",
    "price": "services.cli.price_import:app",  # with all of services.cli.price
    "plan": "services.cli.plan:app",
    "coupon": "services.cli.coupon:app",
    "subscription": "services.cli.subscriptions.command:app",
    "credits": "services.cli.credits:app",
    "key": "services.cli.key:app",
    "user": "services.cli.user:app",
    "provider-keys": "services.cli.provider_keys:app",
    "schema": "services.cli.schema:app",
}

EXIT_FAILED = 2
EXIT_DECLINED = 1
EXIT_INTERRUPTED = 130
# What typer raises for a wrong flag or argument: the parent of the public BadParameter, which typer does not export itself.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_CLIENTS_OF_SERVERS = ("asyncpg", "aiokafka")


class _Commands(TyperGroup):
    """Commands whose modules are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (typer's interface)
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False)
            found.command(cmd_name)(function)
        command = get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"tallystick {version('tallystick')}")
        except PackageNotFoundError:
            print("tallystick (not installed: run from a checkout)")
        raise typer.Exit


@app.callback()
def tallystick(
    _version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Tallystick turns usage events into a complete log, live quotas, and invoices that can be explained.

    Start with `tallystick demo`, or with `tallystick local up` for a Kafka and a Postgres of your own.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Expected errors become one line on stderr; a bug keeps its traceback."""
    try:
        result = app(args=list(arguments), prog_name="tallystick", standalone_mode=False)
    except _UsageError as error:
        return (
            _fail(_explain_usage(error)) if str(error) else EXIT_FAILED
        )  # a group without a command has printed its help
    except typer.Abort:
        return EXIT_DECLINED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `tallystick … | head`
        return EXIT_FAILED
    except Exception as error:  # (told apart below; what is not expected is raised again)
        message = _explain(error)
        if message is None:
            raise
        return _fail(message)
    return result if isinstance(result, int) else 0


def main() -> None:
    """The entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


def _fail(message: str) -> int:
    print(f"tallystick: {message}", file=sys.stderr)
    return EXIT_FAILED


def _explain_usage(error: Any) -> str:
    path = error.ctx.command_path if error.ctx else "tallystick"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message}; see `{path} --help`"


def _explain(error: Exception) -> str | None:
    """The one line for an error that a person can do something about; None for a bug."""
    if isinstance(error, ExceptionGroup):  # of tasks that ran side by side: the first explains most
        return _explain(error.exceptions[0])
    if isinstance(error, TallystickError):
        return str(error)
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{place}"
    if type(error).__module__.partition(".")[0] in _CLIENTS_OF_SERVERS:
        return f"a server refused: {' '.join(str(error).split()) or type(error).__name__}"
    return None

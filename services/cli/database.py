"""`tallystick migrate` and `tallystick seed`: the schema, and what it is filled with."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict

import typer

from shared.errors import ConfigurationError


def migrate(
    reset: bool = typer.Option(
        False, "--reset", help="First drop everything that is there, with all data. Asks before it does."
    ),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
) -> None:
    """Bring the schema of the database up to date.

    The database is the one that DATABASE_URL names, else the running local one. Only what has not been applied yet is applied, each file in a
    transaction of its own; two at once are safe.
    """
    from deploy import migrate as migrations  # noqa: PLC0415 (slow to import)
    from deploy.local import connect  # noqa: PLC0415

    url = connect.database_url()
    if reset and not yes:
        _ask_before_dropping(url)
    applied = asyncio.run((migrations.reset if reset else migrations.migrate)(url, say=typer.echo))
    typer.echo(f"{len(applied)} migrations applied" if applied else "the schema is up to date")


def seed(
    test_data: bool = typer.Option(
        False, "--test-data", help="Also make users, subscriptions and prices to try things with."
    ),
) -> None:
    """Fill the database with reference data, again and again with the same result."""
    from deploy.local import connect  # noqa: PLC0415
    from deploy.seed import seed as seed_database  # noqa: PLC0415

    result = asyncio.run(seed_database(connect.database_url(), test_data=test_data))
    made = [f"{count} {name.replace('_', ' ')}" for name, count in asdict(result).items() if count]
    typer.echo(
        "the reference data are there"
        + (f"; made {', '.join(made)}" if made else "; nothing to add" if test_data else "")
    )


def _ask_before_dropping(url: str) -> None:
    from deploy.local.external import without_password  # noqa: PLC0415

    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"--reset drops all data in {without_password(url)}: repeat with --yes if that is meant"
        )
    typer.confirm(f"Drop everything in {without_password(url)}, with all data?", abort=True)

"""`tallystick reconcile`: proves that every event was counted exactly once, from broker offset to invoice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from services.billing.reconciliation import Check

EXIT_BROKEN = 1
READING_ROLE = "tallystick_readonly"
"""Whose rights are enough; the login's own where it may not act as that role."""


def reconcile(
    *,
    provider_export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare a provider's usage export (CSV) with what we recorded instead."),
    ] = None,
    tolerance: Annotated[
        str, typer.Option(metavar="PERCENT", help="With an export: how far apart both sides may be.")
    ] = "0",
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="THEIRS=OURS", help="With an export: our name of a model of theirs; may be given often."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> int:
    """Prove in SQL that nothing was lost, counted twice, or billed differently from what was used.

    Prints both sides of every statement and its verdict. Exit code 0 if all hold, 1 with the first differing keys if one does not.
    With --provider-export: the same for what a provider says that we used, by model and day.
    """
    if provider_export is not None:
        from services.cli.provider_export import against_provider  # noqa: PLC0415

        return against_provider(provider_export, tolerance, model or [], as_json=as_json)
    from deploy.local import connect  # noqa: PLC0415 (slow to import)

    checks = asyncio.run(prove(connect.database_url()))
    if as_json:
        typer.echo(json.dumps(as_document(checks), default=str))
    else:
        from services.cli.checks import console, show  # noqa: PLC0415

        show(console(), checks)
    return 0 if all(check.holds for check in checks) else EXIT_BROKEN


async def prove(database_url: str) -> list[Check]:
    """Run every check. Raises `ConfigurationError` if the database has no schema of ours."""
    import asyncpg  # noqa: PLC0415

    from services.billing.reconciliation import reconcile as run_checks  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415
    from shared.postgres import connect, role_to_take  # noqa: PLC0415

    role, _ = await role_to_take(database_url, "", READING_ROLE)
    connection = await connect(database_url, application_name="tallystick-reconcile", role=role)
    try:
        return await run_checks(connection)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
        raise ConfigurationError(
            f"the schema of the database is missing or old ({error}): run 'tallystick migrate'"
        ) from None
    finally:
        await connection.close()


def as_document(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks as JSON-ready values: counts as numbers, amounts as exact text."""
    return {
        "reconciled": all(check.holds for check in checks),
        "checks": [{**asdict(check), **_sides(check), "holds": check.holds} for check in checks],
    }


def _sides(check: Check) -> dict[str, int | str]:
    return {
        side: str(value) if isinstance(value, Decimal) else value
        for side, value in (("left", check.left), ("right", check.right))
    }

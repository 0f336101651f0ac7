"""`tallystick reconcile --provider-export`: what a provider says that we used, beside what we recorded."""

from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from services.cli.operator import harmless, plural, with_database
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.billing.reconciliation.provider_exports.export import Days, Difference, Export

EXIT_DIFFERS = 1
SHOWN = 30


def against_provider(file: Path, tolerance: str, models: Sequence[str], *, as_json: bool) -> int:
    """Compare, print, and return the exit code: 1 if something differs by more than `tolerance` per cent."""
    from services.billing.reconciliation.provider_exports.export import ExportRefused, compare, read_export, rename  # noqa: PLC0415

    allowed, names = _fraction(tolerance), _names(models)
    try:
        export = read_export(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not text in UTF-8") from None
    except ExportRefused as refused:
        raise ConfigurationError(f"{file} is no usage export: {refused}") from None
    known, ours = with_database(lambda connection: _recorded(connection, export, names))
    theirs = rename(export.days, known, names)
    found = compare(theirs, ours, tolerance=allowed)
    if as_json:
        typer.echo(json.dumps(_document(export, theirs, ours, found), default=str))
    else:
        _show(export, theirs, found)
    return EXIT_DIFFERS if found else 0


async def _recorded(connection: Any, export: Export, names: dict[str, str]) -> tuple[list[str], Days]:
    from services.billing.reconciliation.provider_exports.export import rename  # noqa: PLC0415
    from services.billing.reconciliation.provider_exports.recorded import known_models, recorded_days  # noqa: PLC0415

    known = await known_models(connection)
    models = sorted({model for _, model in rename(export.days, known, names)})
    return known, await recorded_days(connection, *export.span, models, export.provider)


def _fraction(text: str) -> Decimal:
    try:
        percent = Decimal(text.removesuffix("%"))
    except InvalidOperation:
        percent = Decimal(-1)
    if not 0 <= percent <= 100:
        raise ConfigurationError(f"--tolerance is '{text}': write per cent, such as 0.5")
    return percent / 100


def _names(models: Sequence[str]) -> dict[str, str]:
    names = {}
    for text in models:
        theirs, _, ours = text.partition("=")
        if not theirs or not ours:
            raise ConfigurationError(f"--model {text}: write THEIRS=OURS, such as gpt-4o-2024-08-06=gpt-4o")
        names[theirs] = ours
    return names


def _document(export: Export, theirs: Days, ours: Days, found: Sequence[Difference]) -> dict[str, Any]:
    return {
        "provider": export.provider or None,
        "from": export.span[0].isoformat(),
        "to": export.span[1].isoformat(),
        "agrees": not found,
        "compared": len(theirs.keys() | ours.keys()),
        "differences": [{**asdict(d), "share": f"{d.share:.6f}"} for d in found],
    }


def _show(export: Export, theirs: Days, found: Sequence[Difference]) -> None:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from services.cli.checks import console, number  # noqa: PLC0415

    out = console()
    first, last = export.span
    models = len({model for _, model in theirs})
    out.print(
        f"{escape(export.provider or 'the provider')} says: {plural(models, 'model')}, {first} to {last}; compared with what we recorded",
        highlight=False,
    )
    if not found:
        out.print("[green]both agree[/]", highlight=False)
        return
    table = Table(show_edge=False, pad_edge=False)
    for column in ("day", "model", "measure"):
        table.add_column(column)
    for column in ("theirs", "ours", "ours more", "apart"):
        table.add_column(column, justify="right")
    for d in found[:SHOWN]:
        table.add_row(
            str(d.day), escape(harmless(d.model)), d.measure.replace("_", " "), number(d.theirs), number(d.ours),
            f"{Decimal(d.ours) - Decimal(d.theirs):+,}", f"{d.share:.2%}",
        )  # fmt: skip
    if len(found) > SHOWN:
        table.caption = f"the {SHOWN} furthest apart of {len(found):,}; --json has them all"
    out.print(table)
    out.print(f"[bold red]{plural(len(found), 'figure')} differ{'s' if len(found) == 1 else ''}[/]", highlight=False)

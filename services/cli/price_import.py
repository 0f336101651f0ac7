"""`tallystick price import-litellm`: prices from LiteLLM's public cost map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator
from services.cli.price import AsJson, By, app, document, summary

if TYPE_CHECKING:
    from services.billing.rating.desk.importing import Imported


@app.command("import-litellm")
def import_litellm(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="LiteLLM's model_prices_and_context_window.json.", exists=True, dir_okay=False)],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    start: Annotated[str | None, typer.Option("--from", metavar="HOUR", help="First hour (UTC); the next full hour without it.")] = None,
    provider: Annotated[list[str] | None, typer.Option("--provider", metavar="NAME", help="Only models of this provider; may be repeated.")] = None,
    markup: Annotated[str, typer.Option("--markup", metavar="PERCENT", help="What is put on the costs for sale prices.")] = "0",
    new_currency: Annotated[bool, typer.Option("--new-currency", help="Take USD also where nobody is billed in it yet.")] = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Import LiteLLM's public cost map: models that are not known yet, and the prices that differ from those in force, in USD, all or none.

    Its costs are what providers charge: they become the costs of the prices, and with the markup what is charged for usage.
    """
    from services.billing.rating.cost_map import read_cost_map  # noqa: PLC0415
    from services.billing.rating.desk.importing import import_cost_map  # noqa: PLC0415
    from services.billing.rating.price_file import PriceRefused, parse_amount, parse_hour, read_json  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    costs_of = read_json(file.read_text(encoding="utf-8-sig"), file)
    if not isinstance(costs_of, dict):
        raise PriceRefused(f"{file.name} is no map of models to their costs")
    costs = read_cost_map(costs_of, markup_percent=parse_amount("--markup", markup), providers=provider or ())
    begins, who = None if start is None else parse_hour("--from", start), operator.actor(by)

    async def bring(connection: Any) -> Imported:
        async with connection.transaction():
            await operator.act_as(connection, who)
            now = SystemClock().now()
            return await import_cost_map(
                connection, costs, now=now, valid_from=begins, dry_run=dry_run, new_currency=new_currency
            )

    _tell_import(operator.with_database(bring), dry_run=dry_run, as_json=as_json)


def _tell_import(done: Imported, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        changes = [
            {"model": one.model, "becomes": document(one.becomes), "was": one.was and document(one.was)}
            for one in done.changes
        ]
        facts = {
            "dry_run": dry_run,
            "valid_from": done.valid_from.isoformat(),
            "new_models": done.new_models,
            "changes": changes,
        }
        skipped = [{"model": one.model, "why": one.why} for one in done.skipped]
        typer.echo(json.dumps(facts | {"unchanged": done.unchanged, "skipped": skipped}))
        return
    for one in done.changes:
        instead = f"; instead of {summary(one.was)}" if one.was else ""
        typer.echo(f"{summary(one.becomes)}{instead}")
    for entry in done.skipped:
        typer.echo(operator.harmless(f"skipped {entry.model}: {entry.why}"))
    would = "; nothing is changed" if dry_run else ""
    typer.echo(
        f"{operator.plural(len(done.changes), 'price')} from {done.valid_from:%Y-%m-%d %H:%M} UTC on, {done.unchanged:,} unchanged, "
        f"{len(done.skipped):,} skipped, {operator.plural(len(done.new_models), 'new model')}{would}"
    )

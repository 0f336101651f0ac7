"""`tallystick price`: what usage costs, and from when to when."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.billing.rating.desk.new_prices import SetPrice
    from services.billing.rating.price_file import NewPrice
    from services.billing.rating.rating import Price

app = typer.Typer(
    help="Prices of models, tools and features: set, list, show and end them. Corrections of the past: `tallystick reprice`.",
    no_args_is_help=True,
)

Subject = Annotated[str | None, typer.Option(metavar="NAME")]
Amount = Annotated[str | None, typer.Option(metavar="AMOUNT")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("set")
def set_(
    *,
    file: Annotated[Path | None, typer.Option(help="A JSON or CSV file with several prices, in place of the options that follow.")] = None,
    model: Subject = None,
    tool: Subject = None,
    feature: Subject = None,
    currency: Annotated[str | None, typer.Option(metavar="CODE")] = None,
    input_: Annotated[str | None, typer.Option("--input", metavar="AMOUNT", help="Per 1,000 input tokens.")] = None,
    output: Annotated[str | None, typer.Option(metavar="AMOUNT", help="Per 1,000 output tokens.")] = None,
    cached_input: Annotated[str | None, typer.Option(metavar="AMOUNT", help="Per 1,000 cached input tokens; else as --input.")] = None,
    per_request: Annotated[str | None, typer.Option(metavar="AMOUNT", help="Per request.")] = None,
    unit: Annotated[str | None, typer.Option(metavar="UNIT", help="second (of reported latency) or returned_token (of a tool).")] = None,
    per_unit: Annotated[str | None, typer.Option(metavar="AMOUNT", help="Per unit.")] = None,
    cost_input: Annotated[str | None, typer.Option(metavar="AMOUNT", help="What the provider charges us per 1,000 input tokens.")] = None,
    cost_output: Amount = None,
    cost_cached_input: Amount = None,
    cost_per_request: Amount = None,
    cost_per_unit: Amount = None,
    bill_errors: Annotated[bool, typer.Option("--bill-errors", help="Failed requests cost as much as others.")] = False,
    start: Annotated[str | None, typer.Option("--from", metavar="HOUR", help="First hour (UTC); the next full hour without it.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="HOUR", help="The first hour at which it is not in force any more.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="End the version that is in force without end when the new one begins.")] = False,
    new_currency: Annotated[bool, typer.Option("--new-currency", help="Take a currency that nobody is billed in yet.")] = False,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept with the price.")] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Set one price, or all of a file: all or none. What it would overlap is refused, and so is what cannot be meant."""
    from services.billing.rating.desk.new_prices import set_prices  # noqa: PLC0415 (slow to import)
    from services.billing.rating.price_file import PriceRefused, new_price, parse_hour, read_price_file  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    given = {
        "model": model, "tool": tool, "feature": feature, "currency": currency, "input_per_1k": input_, "output_per_1k": output,
        "cached_input_per_1k": cached_input, "per_request": per_request, "unit": unit, "per_unit": per_unit,
        "cost_input_per_1k": cost_input, "cost_output_per_1k": cost_output, "cost_cached_input_per_1k": cost_cached_input,
        "cost_per_request": cost_per_request, "cost_per_unit": cost_per_unit, "bills_errors": bill_errors or None,
        "valid_to": end,
    }  # fmt: skip
    if file is not None and any(value is not None for value in given.values()):
        raise PriceRefused(
            "--file and options of one price exclude each other: --from, --replace, --note and --by go with both"
        )
    read: Sequence[NewPrice] = [new_price(given)] if file is None else read_price_file(file)
    wanted = [dataclasses.replace(one, note=one.note or note) for one in read]
    begins = None if start is None else parse_hour("--from", start)
    who = operator.actor(by)

    async def set_all(connection: Any) -> list[SetPrice]:
        async with connection.transaction():
            await operator.act_as(connection, who)
            return await set_prices(
                connection,
                wanted,
                now=SystemClock().now(),
                valid_from=begins,
                replace=replace,
                new_currency=new_currency,
            )

    done = operator.with_database(set_all)
    if as_json:
        typer.echo(json.dumps([document(one.price) | {"replaced": one.replaced and str(one.replaced)} for one in done]))
        return
    for one in done:
        ended = f"; version {one.replaced} ends then" if one.replaced else ""
        typer.echo(f"{one.price.id}  {summary(one.price)}{ended}")


@app.command("list")
def list_(
    *,
    model: Subject = None,
    tool: Subject = None,
    feature: Subject = None,
    currency: Annotated[str | None, typer.Option(metavar="CODE")] = None,
    every: Annotated[bool, typer.Option("--all", help="Past and future versions as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the prices in force now, of everything or of one model, tool or feature."""
    from services.billing.rating.rating import Factors, PriceBook  # noqa: PLC0415
    from services.billing.rating.store import read_prices  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    named = [(kind, name) for kind, name in (("model", model), ("tool", tool), ("feature", feature)) if name]
    if len(named) > 1:
        raise ConfigurationError("a price is of a model, a tool or a feature: name one of them")
    kind, subject = named[0] if named else (None, None)
    prices = operator.with_database(lambda connection: read_prices(connection, kind, subject, currency))
    if not every:
        now, book = SystemClock().now(), PriceBook.of(prices, Factors({}, byok=_zero()))
        prices = [p for p in prices if book.find(p.kind, p.subject, p.currency, now) == p]
    if as_json:
        typer.echo(json.dumps([document(price) for price in prices]))
        return
    for price in prices:
        typer.echo(f"{price.id}  {summary(price)}")
    if not prices:
        typer.echo("no price is in force; --all lists past and future ones" if not every else "there are no prices")


@app.command()
def show(
    price: Annotated[str, typer.Argument(metavar="ID", help="Id of a price, as `list` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Show one price: every part of it, what it costs us, and the margin."""
    from services.billing.rating.price_file import PriceRefused  # noqa: PLC0415
    from services.billing.rating.store import read_prices  # noqa: PLC0415

    (wanted,) = operator.parse_ids([price])[:1]
    found = [p for p in operator.with_database(read_prices) if p.id == wanted]
    if not found:
        raise PriceRefused(f"there is no price {wanted}: 'tallystick price list --all' shows all")
    shown = document(found[0])
    if as_json:
        typer.echo(json.dumps(shown))
        return
    for name, value in shown.items():
        if value not in (None, "0", False):
            typer.echo(f"{name.replace('_', ' '):24} {value}")


@app.command()
def end(
    price: Annotated[str, typer.Argument(metavar="ID", help="Id of a price, as `list` prints it.")],
    *,
    at: Annotated[str, typer.Option(metavar="HOUR", help="The first hour (UTC) at which it is not in force any more.")],
    by: By = None,
) -> None:
    """Let a price end at an hour to come. Usage after that waits for another price: it is never billed at zero."""
    from services.billing.rating.desk.new_prices import end_price  # noqa: PLC0415
    from services.billing.rating.price_file import parse_hour  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    (wanted,), when, who = operator.parse_ids([price])[:1], parse_hour("--at", at), operator.actor(by)

    async def end_it(connection: Any) -> None:
        async with connection.transaction():
            await operator.act_as(connection, who)
            await end_price(connection, wanted, when, now=SystemClock().now())

    operator.with_database(end_it)
    typer.echo(f"price {wanted} ends {when:%Y-%m-%d %H:%M} UTC")


def _zero() -> Any:
    from decimal import Decimal  # noqa: PLC0415

    return Decimal(0)


def _parts(price: Price) -> dict[str, Any]:
    """Return what it charges, as people write it: tokens by the thousand."""
    parts = {
        "input_per_1k": price.input_per_1k, "output_per_1k": price.output_per_1k,
        "cached_input_per_1k": price.cached_input_per_1k, "per_request": price.per_request, "per_unit": price.per_unit,
    }  # fmt: skip
    from services.billing.amounts import amount_text  # noqa: PLC0415

    return {name: amount_text(amount) for name, amount in parts.items()}


def document(price: Price) -> dict[str, Any]:
    """Return a price as JSON-ready values."""
    from services.billing.amounts import amount_text  # noqa: PLC0415

    cost, per_1k = price.cost or {}, {"input", "output", "cached_input"}
    costs = {
        f"cost_{name}{'_per_1k' if name in per_1k else ''}": amount_text(each * 1000 if name in per_1k else each)
        for name, each in cost.items()
    }
    return {
        "id": str(price.id),
        price.kind: price.subject,
        "currency": price.currency,
        "valid_from": price.valid_from.isoformat(),
        "valid_to": price.valid_to and price.valid_to.isoformat(),
        "revision": price.revision,
        **_parts(price),
        "unit": price.unit,
        "bills_errors": price.bills_errors,
        **costs,
    }


def summary(price: Price) -> str:
    """Return a price in one line."""
    until = f"{price.valid_to:%Y-%m-%d %H:%M}" if price.valid_to else "…"
    names = {
        "input_per_1k": "input",
        "output_per_1k": "output",
        "cached_input_per_1k": "cached input",
        "per_request": "request",
    }
    parts = [
        f"{names.get(name, price.unit or 'unit')} {amount}{'/1k' if name.endswith('1k') else ''}"
        for name, amount in _parts(price).items()
        if amount != "0"
    ]
    corrected = f", revision {price.revision}" if price.revision else ""
    return (
        f"{price.kind} {operator.harmless(price.subject)}  {price.currency}  {', '.join(parts) or 'free'}  "
        f"[{price.valid_from:%Y-%m-%d %H:%M}, {until}) UTC{corrected}"
    )

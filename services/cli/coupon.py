"""`tallystick coupon`: discounts that subscriptions redeem."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from services.cli import operator

app = typer.Typer(help="Coupons: make them, see how often they were redeemed, end them.", no_args_is_help=True)

By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")]


@app.command()
def create(
    code: Annotated[str, typer.Argument(metavar="CODE", help="Capital letters, digits, _ and -.")],
    *,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What invoices call it.")],
    percent: Annotated[str | None, typer.Option(metavar="NUMBER", help="Per cent off fees, usage and overage.")] = None,
    amount: Annotated[str | None, typer.Option(metavar="AMOUNT", help="Off the fee of each billing interval.")] = None,
    currency: Annotated[str | None, typer.Option(metavar="CODE", help="Of --amount.")] = None,
    fee_only: Annotated[bool, typer.Option("--fee-only", help="Per cent off the flat fee only.")] = False,
    plan: Annotated[list[str] | None, typer.Option(metavar="PLAN", help="Only for this plan; can be repeated.")] = None,
    periods: Annotated[int | None, typer.Option(min=1, help="For how many billing intervals; for ever without it.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Until when it can be redeemed.")] = None,
    max_redemptions: Annotated[int | None, typer.Option(min=1, help="How often it can be redeemed.")] = None,
    by: By = None,
) -> None:  # fmt: skip
    """Make a coupon. What it gives is fixed from then on."""
    from services.billing.plans.meters import read_amount  # noqa: PLC0415 (slow to import)
    from services.billing.subscriptions.desk.coupons import NewCoupon, create_coupon  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    new = NewCoupon(
        code,
        name,
        percent=None if percent is None else read_amount("--percent", percent),
        amount_off=None if amount is None else read_amount("--amount", amount),
        currency=currency,
        fee_only=fee_only,
        plan_ids=tuple(plan or ()),
        periods=periods,
        valid_to=None if until is None else operator.parse_instant(until),
        max_redemptions=max_redemptions,
    )
    who = operator.actor(by)

    async def make(connection: Any) -> None:
        async with connection.transaction():
            await operator.act_as(connection, who)
            await create_coupon(connection, new, now=SystemClock().now())

    operator.with_database(make)
    typer.echo(f"coupon {code} can be redeemed: tallystick subscription redeem SUBSCRIPTION {code}")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List all coupons and how often they were redeemed."""
    from services.billing.amounts import amount_text  # noqa: PLC0415
    from services.billing.subscriptions.desk.coupons import list_coupons  # noqa: PLC0415

    coupons = operator.with_database(list_coupons)
    if as_json:
        typer.echo(json.dumps(coupons, default=str))
        return
    for coupon in coupons:
        off = (
            f"{amount_text(coupon['percent'])} %"
            if coupon["percent"]
            else f"{amount_text(coupon['amount_off'])} {coupon['currency']}"
        )
        for_ = f", {operator.plural(coupon['periods'], 'interval')}" if coupon["periods"] else ""
        most = f" of {coupon['max_redemptions']:,}" if coupon["max_redemptions"] else ""
        until = f", until {coupon['valid_to']:%Y-%m-%d %H:%M} UTC" if coupon["valid_to"] else ""
        typer.echo(
            f"{coupon['code']:16} {off} off {coupon['applies_to']}{for_}; redeemed {coupon['redemptions']:,}{most}{until}"
        )
    if not coupons:
        typer.echo("there are no coupons")


@app.command()
def end(
    code: Annotated[str, typer.Argument(metavar="CODE")],
    *,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="From when on; now without it.")] = None,
    by: By = None,
) -> None:
    """Let nobody redeem a coupon any more. Who has redeemed it keeps it."""
    from services.billing.subscriptions.desk.coupons import end_coupon  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    when, who = operator.parse_instant(at) if at else SystemClock().now(), operator.actor(by)

    async def end_it(connection: Any) -> None:
        async with connection.transaction():
            await operator.act_as(connection, who)
            await end_coupon(connection, code, when)

    operator.with_database(end_it)
    typer.echo(f"coupon {code} cannot be redeemed after {when:%Y-%m-%d %H:%M} UTC")

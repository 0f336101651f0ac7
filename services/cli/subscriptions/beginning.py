"""`tallystick subscription create | list | show`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from services.cli import operator
from services.cli.subscriptions.shared import AsJson, By, Id, Why, app, in_transaction, print_one


@app.command()
def create(
    *,
    user: Annotated[str, typer.Option(metavar="USER", help="Id or e-mail address.")],
    plan: Annotated[str | None, typer.Option(metavar="PLAN", help="The plan; or a model.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="The one model it is for, in place of a plan.")] = None,
    prepaid: Annotated[bool, typer.Option("--prepaid", help="Usage debits credits; without it, it is invoiced.")] = False,
    currency: Annotated[str | None, typer.Option(metavar="CODE", help="Of a subscription to a model.")] = None,
    fee: Annotated[str | None, typer.Option(metavar="AMOUNT", help="A fee of its own, in place of the plan's.")] = None,
    quota_requests: Annotated[int | None, typer.Option(min=0, help="Of a subscription to a model, per month.")] = None,
    quota_tokens: Annotated[int | None, typer.Option(min=0, help="Of a subscription to a model, per month.")] = None,
    no_trial: Annotated[bool, typer.Option("--no-trial", help="Begin without the trial of the plan.")] = False,
    pending: Annotated[bool, typer.Option("--pending", help="Let it wait until it is activated with `reactivate`.")] = False,
    coupon: Annotated[str | None, typer.Option(metavar="CODE", help="Redeem a coupon.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="When it expires; never without it.")] = None,
    id_: Annotated[str | None, typer.Option("--id", metavar="UUID", help="The id by which gateways report for it already; else a new one.")] = None,
    by: By = None,
    why: Why = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the id and nothing else.")] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Begin a subscription to a plan or to a model."""
    from decimal import Decimal  # noqa: PLC0415

    from services.billing.plans.meters import read_amount  # noqa: PLC0415 (slow to import)
    from services.billing.subscriptions.desk.beginning import Wish, begin_subscription  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    wish = Wish(
        user=user,
        plan_id=plan,
        model_id=model,
        billing_mode="prepaid" if prepaid else "postpaid",
        currency=currency,
        amount=Decimal(0) if fee is None else read_amount("--fee", fee),
        quota_requests=quota_requests,
        quota_tokens=quota_tokens,
        with_trial=not no_trial,
        pending=pending,
        coupon=coupon,
        expires_at=None if expires is None else operator.parse_instant(expires),
        id=None if id_ is None else operator.parse_ids([id_])[0],
    )
    who = operator.actor(by)
    begun = in_transaction(lambda c: begin_subscription(c, wish, now=SystemClock().now(), actor=who, why=why))
    if quiet:
        typer.echo(begun.id)
    else:
        print_one(begun, as_json=as_json)


@app.command("list")
def list_(
    *,
    user: Annotated[str | None, typer.Option(metavar="USER", help="Id or e-mail address.")] = None,
    to: Annotated[str | None, typer.Option(metavar="PLAN|MODEL", help="What it is to.")] = None,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="Such as active or suspended.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most subscriptions to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List subscriptions, the latest first."""
    from services.billing.subscriptions.desk import reading  # noqa: PLC0415

    async def read(connection: Any) -> list[dict[str, Any]]:
        named = str(await operator.user_id(connection, user)) if user else None
        return await reading.find(connection, named, to, status, limit)

    found = operator.with_database(read)
    if as_json:
        typer.echo(json.dumps(found, default=str))
        return
    for one in found:
        why = f" ({', '.join(one['suspended_reasons'])})" if one["suspended_reasons"] else ""
        end = (
            f", {'ends' if one['cancel_at_period_end'] else 'period until'} {one['current_period_end']:%Y-%m-%d}"
            if one["current_period_end"]
            else ""
        )
        typer.echo(
            operator.harmless(
                f"{one['id']}  {one['email']}  {one['what']}  {one['status']}{why}  {one['billing_mode']} {one['currency']}{end}"
            )
        )
    total = found[0]["total"] if found else 0
    typer.echo(
        f"{operator.plural(total, 'subscription')}{f'; the latest {len(found):,} are listed' if total > len(found) else ''}"
    )


@app.command()
def show(
    subscription: Id,
    history: Annotated[int, typer.Option(min=0, help="How many entries of the audit trail to show.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show a subscription, what is planned for it, and what was done with it."""
    from services.billing.subscriptions import store  # noqa: PLC0415
    from services.billing.subscriptions.desk import reading  # noqa: PLC0415

    (wanted,) = operator.parse_ids([subscription])[:1]

    async def read(connection: Any) -> Any:
        found = await store.lock(connection, wanted)
        return (
            found,
            await reading.open_changes(connection, wanted),
            await reading.coupons_of(connection, wanted),
            await reading.history(connection, wanted, history),
        )

    found, planned, coupons, done = in_transaction(read)
    if as_json:
        more = {"planned": planned, "coupons": coupons, "history": done}
        typer.echo(json.dumps(store.document(found) | more, default=str))
        return
    print_one(found, as_json=False)
    for one in planned:
        to = f" to {one['to_plan_id']}" if one["to_plan_id"] else ""
        typer.echo(
            f"planned              {one['kind']}{to} at {one['effective_at']:%Y-%m-%d %H:%M:%S} UTC, asked for by {one['requested_by']}"
        )
    for one in coupons:
        typer.echo(f"coupon               {one['code']}, redeemed {one['redeemed_at']:%Y-%m-%d %H:%M} UTC")
    for one in done:
        why = (one["details"] or {}).get("why", "")
        typer.echo(
            operator.harmless(
                f"{one['created_at']:%Y-%m-%d %H:%M:%S} UTC  {one['action']} by {one['actor']}{f': {why}' if why else ''}"
            )
        )

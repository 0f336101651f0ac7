"""`tallystick subscription`: begin, change and end subscriptions, and see why one is as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from services.billing.subscriptions.changes import Kind
    from services.billing.subscriptions.desk.changing import When
    from services.billing.subscriptions.life import Subscription

app = typer.Typer(
    help="Subscriptions: begin, change, pause, suspend and end them. Each change is in the audit trail; one that is not possible is refused.",
    no_args_is_help=True,
)

Id = Annotated[str, typer.Argument(metavar="SUBSCRIPTION", help="Id of the subscription.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for the audit trail.")]
At = Annotated[str | None, typer.Option(metavar="TIME", help="When, in the future; now without it.")]
AtPeriodEnd = Annotated[bool, typer.Option("--at-period-end", help="When the billing period ends.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    by: By = None,
    why: Why = "",
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
    )
    who = operator.actor(by)
    begun = _in_transaction(lambda c: begin_subscription(c, wish, now=SystemClock().now(), actor=who, why=why))
    _print(begun, as_json=as_json)


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

    found = operator.with_database(lambda connection: reading.find(connection, user, to, status, limit))
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

    found, planned, coupons, done = _in_transaction(read)
    if as_json:
        more = {"planned": planned, "coupons": coupons, "history": done}
        typer.echo(json.dumps(store.document(found) | more, default=str))
        return
    _print(found, as_json=False)
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


@app.command("change-plan")
def change_plan(
    subscription: Id,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="The plan to change to.")],
    *,
    at_period_end: AtPeriodEnd = False,
    at: At = None,
    by: By = None,
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Change to another plan: at once, with the rest of the paid fee credited and the new one charged by the second, or later."""
    _change(subscription, "plan", at, at_period_end=at_period_end, by=by, why=why, as_json=as_json, to_plan=plan)


@app.command()
def pause(
    subscription: Id, *, at_period_end: AtPeriodEnd = False, at: At = None, by: By = None, why: Why = "", as_json: AsJson = False
) -> None:  # fmt: skip
    """Pause a subscription: gateways refuse its requests, and what begins meanwhile costs no fee."""
    _change(subscription, "pause", at, at_period_end=at_period_end, by=by, why=why, as_json=as_json)


@app.command()
def resume(subscription: Id, *, at: At = None, by: By = None, why: Why = "", as_json: AsJson = False) -> None:
    """Go on with a paused subscription."""
    _change(subscription, "resume", at, at_period_end=False, by=by, why=why, as_json=as_json)


@app.command()
def cancel(
    subscription: Id, *, at_period_end: AtPeriodEnd = False, at: At = None, by: By = None, why: Why = "", as_json: AsJson = False
) -> None:  # fmt: skip
    """End a subscription for good: at once, at a time, or when its billing period ends."""
    _change(subscription, "cancel", at, at_period_end=at_period_end, by=by, why=why, as_json=as_json)


@app.command()
def withdraw(
    subscription: Id,
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help="plan, cancel, pause or resume; all without it.")] = None,
    *,
    by: By = None,
    why: Why = "",
) -> None:  # fmt: skip
    """Take back changes that are planned and not due yet."""
    from services.billing.subscriptions.desk import changing  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    kinds: dict[str | None, Kind | None] = {
        None: None,
        "plan": "plan",
        "cancel": "cancel",
        "pause": "pause",
        "resume": "resume",
    }
    if kind not in kinds:
        raise ConfigurationError(f"'{kind}' is no kind of change: plan, cancel, pause and resume are")
    (wanted,), who = operator.parse_ids([subscription])[:1], operator.actor(by)
    taken = _in_transaction(
        lambda c: changing.withdraw(c, wanted, kinds[kind], now=SystemClock().now(), actor=who, why=why)
    )
    typer.echo(f"{operator.plural(taken, 'planned change')} taken back")


@app.command()
def suspend(subscription: Id, *, why: Why, by: By = None, as_json: AsJson = False) -> None:
    """Suspend a subscription until it is reactivated. Quotas, credits and payments suspend by themselves."""
    from services.billing.subscriptions.desk import changing  # noqa: PLC0415

    (wanted,), who, reasoned = operator.parse_ids([subscription])[:1], operator.actor(by), operator.parse_why(why)
    _print(_in_transaction(lambda c: changing.suspend(c, wanted, "admin", actor=who, why=reasoned)), as_json=as_json)


@app.command()
def reactivate(
    subscription: Id,
    *,
    reason: Annotated[str, typer.Option(metavar="REASON", help="The reason to take away: admin, payment_overdue or credits_exhausted.")] = "admin",
    by: By = None,
    why: Why = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Take a reason of a suspension away, begin what is pending, or renew what has expired. Active once no reason is left."""
    from services.billing.subscriptions.desk import changing  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    (wanted,), who = operator.parse_ids([subscription])[:1], operator.actor(by)
    done = _in_transaction(
        lambda c: changing.reactivate(c, wanted, reason, now=SystemClock().now(), actor=who, why=why)
    )
    _print(done, as_json=as_json)


@app.command()
def redeem(
    subscription: Id, coupon: Annotated[str, typer.Argument(metavar="CODE", help="The coupon.")], *, by: By = None
) -> None:
    """Redeem a coupon: it counts from the first billing interval that begins from now on."""
    from services.billing.subscriptions.desk.coupons import redeem as redeem_coupon  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    (wanted,), who = operator.parse_ids([subscription])[:1], operator.actor(by)
    _in_transaction(lambda c: redeem_coupon(c, wanted, coupon, now=SystemClock().now(), actor=who), who)
    typer.echo(f"subscription {wanted} has redeemed coupon {coupon}")


def _change(
    subscription: str,
    kind: Kind,
    at: str | None,
    *,
    at_period_end: bool,
    by: str | None,
    why: str,
    as_json: bool,
    to_plan: str | None = None,
) -> None:
    from services.billing.subscriptions.desk import changing  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if at is not None and at_period_end:
        raise ConfigurationError("--at and --at-period-end exclude each other: choose one")
    when: When | datetime = "period_end" if at_period_end else "now" if at is None else operator.parse_instant(at)
    (wanted,), who = operator.parse_ids([subscription])[:1], operator.actor(by)
    found = _in_transaction(
        lambda c: changing.change(
            c, wanted, kind, when=when, now=SystemClock().now(), actor=who, why=why, to_plan=to_plan
        )
    )
    if when != "now" and not as_json:
        typer.echo(f"noted: 'tallystick subscription show {wanted}' shows what is planned, 'withdraw' takes it back")
    _print(found, as_json=as_json)


def _in_transaction(work: Callable[[Any], Awaitable[Any]], who: str | None = None) -> Any:
    async def run(connection: Any) -> Any:
        async with connection.transaction():
            if who is not None:
                await operator.act_as(connection, who)
            return await work(connection)

    return operator.with_database(run)


def _print(subscription: Subscription, *, as_json: bool) -> None:
    from services.billing.subscriptions.store import document  # noqa: PLC0415

    found = document(subscription)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, value in found.items():
        if value is not False and name not in ("anchor", "billing_anchor"):
            shown = ", ".join(value) if isinstance(value, tuple) else value
            typer.echo(f"{name.replace('_', ' '):20} {operator.harmless(str(shown))}")

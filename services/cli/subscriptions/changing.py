"""`tallystick subscription change-plan | pause | resume | cancel | withdraw | suspend | reactivate | redeem`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import operator
from services.cli.subscriptions.shared import AsJson, At, AtPeriodEnd, By, Id, Why, app, in_transaction, print_one

if TYPE_CHECKING:
    from datetime import datetime

    from services.billing.subscriptions.changes import Kind
    from services.billing.subscriptions.desk.changing import When


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
    taken = in_transaction(
        lambda c: changing.withdraw(c, wanted, kinds[kind], now=SystemClock().now(), actor=who, why=why)
    )
    typer.echo(f"{operator.plural(taken, 'planned change')} taken back")


@app.command()
def suspend(subscription: Id, *, why: Why, by: By = None, as_json: AsJson = False) -> None:
    """Suspend a subscription until it is reactivated. Quotas, credits and payments suspend by themselves."""
    from services.billing.subscriptions.desk import changing  # noqa: PLC0415

    (wanted,), who, reasoned = operator.parse_ids([subscription])[:1], operator.actor(by), operator.parse_why(why)
    print_one(in_transaction(lambda c: changing.suspend(c, wanted, "admin", actor=who, why=reasoned)), as_json=as_json)


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
    done = in_transaction(lambda c: changing.reactivate(c, wanted, reason, now=SystemClock().now(), actor=who, why=why))
    print_one(done, as_json=as_json)


@app.command()
def redeem(
    subscription: Id, coupon: Annotated[str, typer.Argument(metavar="CODE", help="The coupon.")], *, by: By = None
) -> None:
    """Redeem a coupon: it counts from the first billing interval that begins from now on."""
    from services.billing.subscriptions.desk.coupons import redeem as redeem_coupon  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    (wanted,), who = operator.parse_ids([subscription])[:1], operator.actor(by)
    in_transaction(lambda c: redeem_coupon(c, wanted, coupon, now=SystemClock().now(), actor=who), who)
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
    found = in_transaction(
        lambda c: changing.change(
            c, wanted, kind, when=when, now=SystemClock().now(), actor=who, why=why, to_plan=to_plan
        )
    )
    if when != "now" and not as_json:
        typer.echo(f"noted: 'tallystick subscription show {wanted}' shows what is planned, 'withdraw' takes it back")
    print_one(found, as_json=as_json)

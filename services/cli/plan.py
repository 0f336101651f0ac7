"""`tallystick plan`: what can be subscribed to, and what it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator

if TYPE_CHECKING:
    from services.billing.plans.desk.publishing import Published
    from services.billing.plans.terms import PlanTerms

app = typer.Typer(help="Plans: list and show them, make one or a new version of it.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the plans with what they ask for now."""
    from services.billing.plans.store import read_plans  # noqa: PLC0415 (slow to import)
    from shared.clock import SystemClock  # noqa: PLC0415

    now = SystemClock().now()
    terms = [versions.at(now) for versions in operator.with_database(read_plans).values()]
    if as_json:
        typer.echo(json.dumps([_document(one) for one in terms]))
        return
    for one in terms:
        typer.echo(f"{operator.harmless(one.plan_id or ''):16} {_summary(one)}")


@app.command()
def show(plan: Annotated[str, typer.Argument(metavar="PLAN")], as_json: AsJson = False) -> None:
    """Show every version of a plan: past, present and planned."""
    from services.billing.plans.meters import TermsRefused  # noqa: PLC0415
    from services.billing.plans.store import ALWAYS, read_plans  # noqa: PLC0415

    found = operator.with_database(read_plans).get(plan)
    if found is None:
        raise TermsRefused(f"there is no plan {plan}: 'tallystick plan list' shows all")
    if as_json:
        typer.echo(json.dumps([_document(version) for version in found.terms]))
        return
    for version in found.terms:
        since = "always" if version.valid_from == ALWAYS else f"{version.valid_from:%Y-%m-%d %H:%M} UTC"
        typer.echo(f"from {since}: {_summary(version)}")
        for meter in version.meters:
            typer.echo(f"  {meter.name}: {meter.included:,} {meter.measure} included, beyond that by {meter.mode}")


@app.command("set")
def set_(
    *,
    file: Annotated[Path, typer.Option(help="A JSON file that says what the plan asks for: docs/how-to/plans-and-subscriptions.md.")],
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help="When the version begins; at once without it.")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")] = None,
) -> None:  # fmt: skip
    """Make a plan, or a new version of one. Subscriptions go by it from their next billing interval on; what was charged stands."""
    from services.billing.plans.desk.publishing import publish, read_plan_file  # noqa: PLC0415

    plan, who = read_plan_file(file), operator.actor(by)
    begins = None if start is None else operator.parse_instant(start)

    async def make(connection: Any) -> Published:
        async with connection.transaction():
            await operator.act_as(connection, who)
            return await publish(connection, plan, valid_from=begins)

    done = operator.with_database(make)
    if done.is_new:
        typer.echo(f"plan {done.plan_id} is there")
    else:
        typer.echo(f"plan {done.plan_id} has a new version from {done.valid_from:%Y-%m-%d %H:%M} UTC on")


def _summary(terms: PlanTerms) -> str:
    from services.billing.amounts import amount_text  # noqa: PLC0415

    every = "month" if terms.months == 1 else "year" if terms.months == 12 else f"{terms.months} months"
    parts = [
        f"{amount_text(terms.amount)} {terms.currency} a {every}"
        if terms.months in (1, 12)
        else f"{amount_text(terms.amount)} {terms.currency} for {every}"
    ]
    parts.append("in arrears" if terms.in_arrears else "in advance")
    parts.append("calendar periods" if terms.calendar else "periods from its beginning")
    parts.append("usage included" if terms.includes_usage else "usage by price")
    if terms.trial_days:
        parts.append(f"{terms.trial_days} days of trial")
    if terms.minimum is not None:
        parts.append(f"at least {amount_text(terms.minimum)}")
    if terms.meters:
        parts.append(f"metered: {', '.join(meter.name for meter in terms.meters)}")
    limits = ", ".join(f"{name} {limit:,}" for name, limit in terms.limits.items() if limit is not None)
    return ", ".join(parts) + (f"; {'limits' if terms.hard_limits else 'soft limits'}: {limits}" if limits else "")


def _document(terms: PlanTerms) -> dict[str, Any]:
    from services.billing.amounts import amount_text  # noqa: PLC0415
    from services.billing.plans.store import ALWAYS  # noqa: PLC0415

    return {
        "plan": terms.plan_id,
        "name": terms.name,
        "version": str(terms.id),
        "valid_from": None if terms.valid_from == ALWAYS else terms.valid_from.isoformat(),
        "amount": amount_text(terms.amount),
        "currency": terms.currency,
        "months": terms.months,
        "billing_periods": "calendar" if terms.calendar else "anchored",
        "fee_timing": "arrears" if terms.in_arrears else "advance",
        "trial_days": terms.trial_days,
        "usage": "included" if terms.includes_usage else "priced",
        "meters": [
            {"key": m.key, "measure": m.measure, "included": amount_text(m.included), "mode": m.mode}
            for m in terms.meters
        ],
        "minimum": None if terms.minimum is None else amount_text(terms.minimum),
        "limits": dict(terms.limits),
        "hard_limits": terms.hard_limits,
    }

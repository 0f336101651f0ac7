"""`tallystick credits package | rate | tier`: on what terms credits are sold, charged and renewed."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from services.cli import operator
from services.cli.credits.shared import AsJson, By, User, amount, change, number, print_json, table
from shared.errors import ConfigurationError

package = typer.Typer(help="Packages of credits that are for sale.", no_args_is_help=True)
rate = typer.Typer(help="What a unit of a currency is worth in credits.", no_args_is_help=True)
tier = typer.Typer(help="Tiers of accounts, and the allowance that comes with each.", no_args_is_help=True)


@package.command("list")
def list_packages(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are not on sale any more.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the packages."""
    from services.billing.credits.purchases import packages  # noqa: PLC0415 (slow to import)

    found = operator.with_database(lambda connection: packages(connection, everything=everything))
    if as_json:
        print_json([one._asdict() for one in found])
        return
    rows = [
        [p.name, number(p.credits), f"{number(p.price)} {p.currency}", f"{p.valid_days} days" if p.valid_days else "for ever", p.min_tier or "all"]
        for p in found
    ]  # fmt: skip
    table(rows, ["name", "credits", "price", "valid", "for tier"])


@package.command("set")
def set_package(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the package, as customers read it.")],
    *,
    credits_: Annotated[str | None, typer.Option("--credits", metavar="CREDITS", help="Credits that it has.")] = None,
    price: Annotated[str | None, typer.Option("--price", metavar="AMOUNT", help="What it costs.")] = None,
    currency: Annotated[
        str | None, typer.Option("--currency", metavar="CODE", help="In which currency; fixed later.")
    ] = None,
    valid_days: Annotated[
        int | None, typer.Option("--valid-days", min=0, max=36_500, help="Days after which its credits end; 0: never.")
    ] = None,
    tier: Annotated[
        str | None, typer.Option("--tier", metavar="TIER", help="Only for accounts of this tier or above; '': for all.")
    ] = None,
    description: Annotated[
        str | None, typer.Option("--description", metavar="TEXT", help="What customers read.")
    ] = None,
    place: Annotated[int | None, typer.Option("--place", min=-1000, max=1000, help="Its place in lists.")] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Offer a package, or change one: what is left out stays. It is on sale from now on; what was bought before stays as it was bought."""
    from services.billing.credits.desk.packages import Terms, set_package  # noqa: PLC0415

    terms = Terms(
        amount(credits_) if credits_ is not None else None, amount(price) if price is not None else None, currency, description,
        valid_days, tier, place,
    )  # fmt: skip
    done = change(by, "", lambda connection: set_package(connection, name, terms))
    _tell_package(done, "is on sale", as_json=as_json)


@package.command("retire")
def retire_package(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the package; its id does as well.")],
    *,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Take a package off sale, also for automatic top-ups. Credits that it sold stay. `set` offers it again."""
    from services.billing.credits.desk.packages import retire_package  # noqa: PLC0415

    done = change(by, "", lambda connection: retire_package(connection, name))
    _tell_package(done, "is not on sale any more", as_json=as_json)


def _tell_package(done: Any, words: str, *, as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    what = f"{number(done['credits'])} credits for {number(done['price'])} {done['currency']}"
    typer.echo(operator.harmless(f"{done['name']} ({what}) {words}"))


@rate.command("list")
def list_rates(*, as_json: AsJson = False) -> None:
    """List the rates: what one unit of a currency is worth, from which hour."""
    from services.billing.credits import desk  # noqa: PLC0415

    found = operator.with_database(desk.rates)
    if as_json:
        print_json(found)
        return
    rows = [
        [r["currency"], number(r["credits_per_unit"]), f"{r['valid_from']:%Y-%m-%d %H:%M}", r["created_by"]]
        for r in found
    ]
    table(rows, ["currency", "credits", "from (UTC)", "set by"])


@rate.command("set")
def set_rate(
    currency: Annotated[str, typer.Argument(metavar="CODE", help="The currency, e.g. EUR.")],
    credits_: Annotated[str, typer.Argument(metavar="CREDITS", help="Credits that one unit is worth.")],
    *,
    start: Annotated[
        str | None, typer.Option("--from", metavar="HOUR", help="First hour (UTC); the next full hour without it.")
    ] = None,
    by: By = None,
) -> None:
    """Set a rate from an hour on. Usage keeps the rate of its own hour, also when it arrives late or is voided."""
    from services.billing.credits import desk  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415

    now = SystemClock().now()
    begins = (
        operator.parse_instant(start) if start else now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    )
    wanted = amount(credits_)
    change(by, "", lambda connection: desk.set_rate(connection, currency, wanted, begins))
    typer.echo(f"1 {currency} is worth {number(wanted)} credits from {begins:%Y-%m-%d %H:%M} UTC on")


@tier.command("list")
def list_tiers(*, as_json: AsJson = False) -> None:
    """List the tiers with what they include each month, and how long what is unused lasts."""
    from services.billing.credits import desk  # noqa: PLC0415

    found = operator.with_database(desk.tiers)
    if as_json:
        print_json(found)
        return
    rows = [[t["tier"], number(t["monthly_allowance"]), _lasts(t["rollover_months"])] for t in found]
    table(rows, ["tier", "allowance", "unused credits"])


@tier.command("change")
def change_tier(
    name: Annotated[str, typer.Argument(metavar="TIER")],
    *,
    allowance: Annotated[str, typer.Option(metavar="CREDITS", help="Credits that each month includes.")],
    rollover: Annotated[
        str, typer.Option(metavar="MONTHS", help="How many months longer what is unused lasts, or 'ever'.")
    ] = "0",
    by: By = None,
) -> None:
    """Change what a tier includes. Accounts keep what they have until their tier is set again."""
    from services.billing.credits import desk  # noqa: PLC0415

    if rollover != "ever" and not rollover.isdecimal():
        raise ConfigurationError(f"--rollover {rollover}: say a number of months, or 'ever'")
    months, wanted = None if rollover == "ever" else int(rollover), amount(allowance)
    if wanted < 0:
        raise ConfigurationError("an allowance cannot be negative")
    change(by, "", lambda connection: desk.change_tier(connection, name, wanted, months))
    typer.echo(f"{name}: {number(wanted)} credits a month; unused: {_lasts(months)}")


@tier.command("set")
def set_tier(
    user: User,
    name: Annotated[str, typer.Argument(metavar="TIER")],
    *,
    renew: Annotated[bool, typer.Option(help="Whether the allowance is granted each cycle by itself.")] = True,
    by: By = None,
) -> None:
    """Give a user a tier, with its allowance from this cycle on."""
    from services.billing.credits import desk  # noqa: PLC0415

    async def set_it(connection: Any) -> str:
        found = await desk.find_user(connection, user)
        allowance = await desk.set_tier(connection, found, name, renews=renew)
        return f"{found.email}: {name}, {number(allowance)} credits each cycle" + (
            "" if renew else ", not renewed by itself"
        )

    typer.echo(operator.harmless(change(by, "", set_it)))


def _lasts(months: int | None) -> str:
    if months is None:
        return "kept for ever"
    return f"kept {operator.plural(months, 'month')} longer" if months else "end with their month"

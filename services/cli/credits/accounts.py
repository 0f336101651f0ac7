"""`tallystick credits`: one user's credits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator
from services.cli.credits.shared import AsJson, By, Key, User, Why, amount, change, number, plain, print_json, table
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from services.billing.credits.desk import Posted

app = typer.Typer(
    help="Prepaid credits and money for invoices: see, give, correct; packages, rates and tiers.",
    no_args_is_help=True,
)


@app.command()
def balance(user: User, *, as_json: AsJson = False) -> None:
    """Show what a user has: prepaid credits, what is owed, the allowance, and money for invoices."""
    from services.billing.credits import desk  # noqa: PLC0415 (slow to import)
    from shared.clock import SystemClock  # noqa: PLC0415

    async def read(connection: Any) -> dict[str, Any]:
        return await desk.account(connection, await desk.find_user(connection, user), SystemClock().now())

    found = operator.with_database(read)
    if as_json:
        print_json(found)
        return
    typer.echo(f"{operator.harmless(found['email'])}: {number(found['balance'])} credits, tier {found['tier']}")
    if found["expired"]:
        typer.echo(f"  of which {number(found['expired'])} have expired, and go with the next posting")
    if found["owed"]:
        typer.echo(f"  {number(found['owed'])} owed: the next credits pay it first")
    if found["next_expiry"]:
        typer.echo(f"  some expire on {found['next_expiry']:%Y-%m-%d %H:%M} UTC")
    if found["monthly_allowance"]:
        renewed = "renewed by itself" if found["auto_renew"] else "not renewed by itself"
        typer.echo(
            f"  {number(found['monthly_allowance'])} each cycle, {renewed}; {number(found['used_this_cycle'])} used"
        )
    if found["topup_below"] is not None and found["topup_package"]:
        typer.echo(f"  buys {found['topup_package']} below {number(found['topup_below'])}")
    for currency, money in found["money"].items():
        typer.echo(f"  {number(money)} {currency} for invoices")


@app.command()
def history(
    user: User,
    *,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most entries to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the ledger, the latest entry first, and which grants paid each."""
    from services.billing.credits import desk  # noqa: PLC0415

    async def read(connection: Any) -> list[dict[str, Any]]:
        return await desk.history(connection, await desk.find_user(connection, user), limit)

    entries = operator.with_database(read)
    if as_json:
        print_json(entries)
        return
    rows = [
        [
            str(e["sequence"]), f"{e['created_at']:%Y-%m-%d %H:%M}", e["type"], number(e["amount"]), number(e["balance_after"]),
            number(e["owed_after"]), ", ".join(f"{g['amount']} {g['kind']}" for g in e["grants"]), e["description"] or "",
        ]
        for e in entries
    ]  # fmt: skip
    table(rows, ["#", "when (UTC)", "type", "amount", "balance", "owed", "grants", "description"])


@app.command()
def grants(
    user: User,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are used up.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the grants of prepaid credits, in the order in which they are used."""
    from services.billing.credits import desk  # noqa: PLC0415

    async def read(connection: Any) -> list[dict[str, Any]]:
        return await desk.grants(connection, await desk.find_user(connection, user), everything=everything)

    found = operator.with_database(read)
    if as_json:
        print_json(found)
        return
    rows = [
        [
            g["kind"], number(g["amount"]), number(g["remaining"]), number(g["used"]), number(g["withdrawn"]), str(g["priority"]),
            f"{g['expires_at']:%Y-%m-%d %H:%M}" if g["expires_at"] else "never", g["name"] or "",
        ]
        for g in found
    ]  # fmt: skip
    table(rows, ["kind", "granted", "left", "used", "withdrawn", "priority", "expires (UTC)", "name"])


@app.command()
def grant(
    user: User,
    credits_: Annotated[str, typer.Argument(metavar="AMOUNT", help="Credits, or money with --currency.")],
    *,
    why: Why,
    kind: Annotated[
        str, typer.Option(help="bonus, promotional, refund, allowance or adjustment; of money also compensation.")
    ] = "promotional",
    priority: Annotated[int | None, typer.Option(help="The lower is used first; by kind without it.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="When it ends; never without it.")] = None,
    currency: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="Give money of this currency for the next invoices instead of credits."),
    ] = None,
    key: Key = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Give prepaid credits, or with --currency money that the next invoices use up."""
    from services.billing.credits import desk  # noqa: PLC0415
    from services.billing.credits.grants import DEFAULT_PRIORITY, give  # noqa: PLC0415
    from shared.ids import uuid7  # noqa: PLC0415

    wanted, reason = amount(credits_), operator.parse_why(why)
    ends = operator.parse_instant(expires) if expires else None
    if currency and key:
        raise ConfigurationError("--key is for prepaid credits: money has no ledger in which it could be found again")

    async def give_money(connection: Any) -> dict[str, Any]:
        found = await desk.find_user(connection, user)
        grant_id = await give(
            connection, found.id, wanted, currency or "", kind=kind, reason=reason, expires_at=ends,
            priority=DEFAULT_PRIORITY if priority is None else priority,
        )  # fmt: skip
        await desk.note_money_grant(connection, found, grant_id, amount=wanted, currency=currency or "", why=reason)
        return {"grant": grant_id, "amount": wanted, "currency": currency}

    async def give_credits(connection: Any) -> Posted:
        found = await desk.find_user(connection, user)
        return await desk.grant(
            connection,
            found,
            wanted,
            kind=kind,
            why=reason,
            key=key or f"by hand {uuid7()}",
            priority=priority,
            expires_at=ends,
        )

    if currency is None:
        _tell(change(by, reason, give_credits), as_json=as_json)
        return
    given = change(by, reason, give_money)
    if as_json:
        print_json(given)
    else:
        typer.echo(f"gave {number(wanted)} {currency} for the next invoices (grant {given['grant']})")


@app.command()
def adjust(
    user: User,
    *,
    why: Why,
    add: Annotated[str | None, typer.Option("--add", metavar="CREDITS", help="Add so many.")] = None,
    take: Annotated[str | None, typer.Option("--take", metavar="CREDITS", help="Take so many back.")] = None,
    key: Key = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Correct a balance, upwards or downwards, never below zero."""
    from services.billing.credits import desk  # noqa: PLC0415
    from shared.ids import uuid7  # noqa: PLC0415

    given, reason = amount(add or take or "0"), operator.parse_why(why)
    if (add is None) == (take is None) or given <= 0:
        raise ConfigurationError("say --add CREDITS or --take CREDITS, above zero")
    wanted = given if take is None else -given

    async def post(connection: Any) -> Posted:
        found = await desk.find_user(connection, user)
        return await desk.adjust(connection, found, wanted, why=reason, key=key or f"by hand {uuid7()}")

    _tell(change(by, reason, post), as_json=as_json)


@app.command()
def refund(
    user: User,
    credits_: Annotated[str, typer.Argument(metavar="AMOUNT", help="Credits that were used and are given back.")],
    *,
    why: Why,
    key: Key = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Give back credits that were used, out of goodwill. Events that were wrong are voided instead, money is refunded by payments."""
    from services.billing.credits import desk  # noqa: PLC0415
    from shared.ids import uuid7  # noqa: PLC0415

    wanted, reason = amount(credits_), operator.parse_why(why)

    async def post(connection: Any) -> Posted:
        found = await desk.find_user(connection, user)
        return await desk.grant(connection, found, wanted, kind="refund", why=reason, key=key or f"by hand {uuid7()}")

    _tell(change(by, reason, post), as_json=as_json)


@app.command()
def topup(
    user: User,
    *,
    below: Annotated[str | None, typer.Option(metavar="CREDITS", help="Buy when the balance is below this.")] = None,
    package: Annotated[str | None, typer.Option(metavar="NAME", help="The package to buy, by name or id.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most purchases in one billing cycle.")] = 10,
    off: Annotated[bool, typer.Option("--off", help="Buy nothing by itself any more.")] = False,
    by: By = None,
) -> None:
    """Let a package be bought whenever the balance falls below a threshold, through the user's payment method."""
    from services.billing.credits import desk  # noqa: PLC0415
    from services.billing.credits.purchases import offer  # noqa: PLC0415

    if off == (below is not None or package is not None) or (below is None) != (package is None):
        raise ConfigurationError("say --below CREDITS --package NAME, or --off")

    async def set_it(connection: Any) -> str:
        found = await desk.find_user(connection, user)
        wanted = await offer(connection, found.id, package) if package else None
        threshold = amount(below) if below is not None else None
        await desk.set_topup(connection, found, threshold, wanted.id if wanted else None, limit)
        return (
            f"{found.email}: buys {wanted.name} below {below} credits"
            if wanted
            else f"{found.email}: buys nothing by itself"
        )

    typer.echo(operator.harmless(change(by, "", set_it)))


@app.command()
def alert(
    user: User,
    *,
    below: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="Tell when the balance falls below this; never without it.")
    ] = None,
    by: By = None,
) -> None:
    """Set the balance below which a user is told that it is low."""
    from services.billing.credits import desk  # noqa: PLC0415

    async def set_it(connection: Any) -> str:
        found = await desk.find_user(connection, user)
        await desk.set_alert(connection, found, amount(below) if below is not None else None)
        return f"{found.email}: is told below {below} credits" if below is not None else f"{found.email}: is not told"

    typer.echo(operator.harmless(change(by, "", set_it)))


def _tell(posted: Posted, *, as_json: bool) -> None:
    facts = {"transaction": posted.transaction_id, "balance": posted.balance}
    if as_json:
        print_json(facts)
    else:
        typer.echo(f"{plain(facts['balance'])} credits now (ledger entry {facts['transaction']})")

"""`tallystick invoice credit-note | void | dispute`: corrections of what was issued. Who corrects, and why, is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from services.cli import operator
from services.cli.invoices import printing
from services.cli.invoices.listing import AsJson

Number = Annotated[str, typer.Argument(metavar="NUMBER", help="Of the invoice; an id does as well.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why; customers read it on the credit note.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def credit_note(
    number: Number,
    *,
    line: Annotated[
        list[str] | None,
        typer.Option(
            "--line",
            metavar="POSITION[=AMOUNT]",
            help="What to take back, net: a line, or a part of it. Repeat; without it: the rest of all.",
        ),
    ] = None,
    why: Why,
    goodwill: Annotated[
        bool,
        typer.Option(
            "--goodwill",
            help="Give it beside what is given back when usage is corrected; else it is set off against that.",
        ),
    ] = False,
    by: By = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="TEXT", help="A name of yours for this correction: a repeated call does nothing."
        ),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take back part of an issued invoice, or the rest of it, by a credit note. Never more than was invoiced less what was given back."""
    from services.billing.invoices import corrections  # noqa: PLC0415 (slow to import)

    reason, who = operator.parse_why(why), operator.actor(by)
    lines = dict(_part(text) for text in line) if line else None
    what = f"lines {', '.join(line)}" if line else "all that is left"
    operator.ask(f"Take back {what} of {number}?", yes=yes)

    async def work(connection: Any) -> Any:
        return await corrections.credit_note(
            connection, number, lines, reason=reason, at=_now(), goodwill=goodwill, actor=who, idempotency_key=key
        )

    _print(act_as(who, reason, work), as_json)


def void(
    number: Number,
    *,
    why: Why,
    rebill: Annotated[
        bool,
        typer.Option("--rebill", help="Make its usage and charges billable again: close the period anew after it."),
    ] = False,
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Cancel an issued invoice by a credit note over the rest of it. Without --rebill its usage is given away."""
    from services.billing.invoices import corrections  # noqa: PLC0415

    reason, who = operator.parse_why(why), operator.actor(by)
    operator.ask(
        f"Void {number}{' and bill its usage again' if rebill else ': its usage is then never billed'}?", yes=yes
    )

    async def work(connection: Any) -> Any:
        return await corrections.void_invoice(connection, number, reason=reason, at=_now(), rebill=rebill, actor=who)

    _print(act_as(who, reason, work), as_json)


def dispute(
    number: Number,
    *,
    why: Annotated[str | None, typer.Option("--why", metavar="TEXT", help="What the customer disputes.")] = None,
    settled: Annotated[bool, typer.Option("--settled", help="End the dispute.")] = False,
    by: By = None,
) -> None:
    """Note that a customer disputes an invoice, or that this is settled. Its usage stays in the database meanwhile."""
    from services.billing.invoices import corrections  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if settled == (why is not None):
        raise ConfigurationError("say --why it is disputed, or that it is --settled")
    reason, who = operator.parse_why(why or "settled"), operator.actor(by)

    async def work(connection: Any) -> None:
        if settled:
            await corrections.settle_dispute(connection, number)
        else:
            await corrections.dispute(connection, number, reason=reason, at=_now())

    act_as(who, reason, work)
    typer.echo(f"{number} is {'not disputed any more' if settled else 'disputed'}")


def _part(text: str) -> tuple[int, Decimal | None]:
    from shared.errors import ConfigurationError  # noqa: PLC0415

    position, _, amount = text.partition("=")
    try:
        return int(position), Decimal(amount) if amount else None
    except (ValueError, InvalidOperation):
        raise ConfigurationError(
            f"--line {text} is not a position, or a position and an amount, such as 2=10.50"
        ) from None


def _now() -> Any:
    from shared.clock import SystemClock  # noqa: PLC0415

    return SystemClock().now()


def act_as(who: str, why: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """Do something in one transaction, in the name of `who`."""

    async def run(connection: Any) -> Any:
        async with connection.transaction():
            await operator.act_as(connection, who, why)
            return await work(connection)

    return operator.with_database(run)


def _print(note: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(printing.to_json(note))
    else:
        printing.print_document(note)

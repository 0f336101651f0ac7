"""What the commands of subscriptions share: their group, options, the transaction, and how one is printed."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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


def in_transaction(work: Callable[[Any], Awaitable[Any]], who: str | None = None) -> Any:
    """Run `work` with a connection in a transaction; `who` acts, where the work does not say so itself."""

    async def run(connection: Any) -> Any:
        async with connection.transaction():
            if who is not None:
                await operator.act_as(connection, who)
            return await work(connection)

    return operator.with_database(run)


def print_one(subscription: Subscription, *, as_json: bool) -> None:
    """Print a subscription: as one JSON object, or what is given of it line by line."""
    from services.billing.subscriptions.store import document  # noqa: PLC0415

    found = document(subscription)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, value in found.items():
        plans_fee = name == "amount" and Decimal(str(value)) == 0  # there is no fee of its own
        if value is not False and not plans_fee and name not in ("anchor", "billing_anchor"):
            shown = ", ".join(value) if isinstance(value, tuple) else value
            typer.echo(f"{name.replace('_', ' '):20} {operator.harmless(str(shown))}")

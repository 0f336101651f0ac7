"""What the commands of credits share: options, amounts, printing."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar

import typer

from services.cli import operator
from shared.errors import ConfigurationError

T = TypeVar("T")

User = Annotated[str, typer.Argument(metavar="USER", help="Id, e-mail address or user name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for the audit trail and the customer's history.")]
Key = Annotated[
    str | None,
    typer.Option("--key", metavar="TEXT", help="The same command with the same key does nothing the second time."),
]


def amount(text: str) -> Decimal:
    """Return a number of credits or of money. Raises `ConfigurationError`."""
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise ConfigurationError(f"'{text}' is not an amount: write it like 12.50") from None
    if not found.is_finite():
        raise ConfigurationError(f"'{text}' is not an amount: write it like 12.50")
    return found


def change(by: str | None, why: str, work: Callable[[Any], Awaitable[T]]) -> T:
    """Run `work` with a connection in one transaction, of which the audit trail says who made it and why."""
    who = operator.actor(by)

    async def run(connection: Any) -> T:
        async with connection.transaction():
            await operator.act_as(connection, who, why)
            return await work(connection)

    return operator.with_database(run)


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: amounts as exact text."""
    from services.billing.amounts import amount_text  # noqa: PLC0415 (slow to import)

    if isinstance(value, Decimal):
        return amount_text(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int) else str(value)


def print_json(value: Any) -> None:
    """Print JSON."""
    typer.echo(json.dumps(plain(value), indent=2))


def number(value: Decimal) -> str:
    """Spell an amount for a person."""
    return str(plain(value))


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> None:
    """Print columns below each other, as wide as they need to be."""
    lines = [list(head), *(list(map(operator.harmless, row)) for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

"""`tallystick payments`: what the commands share."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from services.cli import operator
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from services.billing.payments.providers import Providers
    from shared.clock import Clock
    from shared.postgres import Pool

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")]


def with_payments(work: Callable[[Pool, Providers, Clock], Awaitable[T]]) -> T:
    """Run `work` with billing's rights, the providers of this installation, and the clock."""
    from services.billing.payments.providers import Providers  # noqa: PLC0415 (slow to import)
    from shared.clock import SystemClock  # noqa: PLC0415

    return operator.with_billing(lambda settings, pool: work(pool, Providers(settings), SystemClock()))


def parse_amount(text: str) -> Decimal:
    """Return an amount. Raises `ConfigurationError` that says how one looks."""
    try:
        return Decimal(text.strip())
    except InvalidOperation:
        raise ConfigurationError(f"'{text}' is not an amount: write it like 1234.56") from None


def parse_currency(text: str) -> str:
    """Return a currency. Raises `ConfigurationError` that says how one looks."""
    currency = text.strip().upper()
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        raise ConfigurationError(f"'{text}' is not a currency: write it like EUR")
    return currency


def parse_id(text: str) -> UUID:
    """Return one id."""
    (found,) = operator.parse_ids([text])[:1] or (None,)
    if found is None:
        raise ConfigurationError("an id is expected")
    return found


def tell_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON document: amounts as exact text, ids and times as text."""
    typer.echo(json.dumps(document, default=_plain))


def _plain(thing: Any) -> Any:
    if isinstance(thing, Decimal):
        return f"{thing:f}"
    if hasattr(thing, "isoformat"):
        return thing.isoformat()
    return asdict(thing) if hasattr(thing, "__dataclass_fields__") else str(thing)


def money(amount: Decimal, currency: str) -> str:
    """Spell an amount for a person, with the digits of its currency."""
    from shared.money import round_money  # noqa: PLC0415

    return f"{round_money(amount, currency):,f} {currency}"

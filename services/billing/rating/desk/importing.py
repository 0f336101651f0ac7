"""Imports a cost map: models that are not known yet, and the prices that differ from those in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from services.billing.rating.cost_map import CURRENCY, CostMap, Offer, Skipped
from services.billing.rating.desk.new_prices import SQL, price_of_new, set_prices
from services.billing.rating.rating import Factors, Price, PriceBook
from services.billing.rating.store import read_prices
from shared.ids import uuid7
from shared.period import HOUR, hour_start
from shared.postgres import Connection


@dataclass(frozen=True, slots=True)
class Change:
    """A price that is set: `was` is the one in force until then, None where there was none."""

    model: str
    becomes: Price
    was: Price | None


@dataclass(slots=True)
class Imported:
    """What an import came to, or would come to."""

    valid_from: datetime
    new_models: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    unchanged: int = 0
    skipped: Sequence[Skipped] = ()


_FREE: Final = Factors({}, byok=Decimal(0))


async def import_cost_map(
    connection: Connection,
    costs: CostMap,
    *,
    now: datetime,
    valid_from: datetime | None = None,
    dry_run: bool = False,
    new_currency: bool = False,
) -> Imported:
    """Make what a map has and the database has not, in the caller's transaction; with `dry_run` only say what that is.

    Prices are in force from `valid_from`, else from the next full hour; a version that is in force without end ends then. Models that are
    known keep what is known of them. Raises `PriceRefused` as `set_prices` does, and nothing is changed.
    """
    begins = valid_from or hour_start(now) + HOUR
    known = {row["id"] for row in await connection.fetch(SQL["known_models"])}
    book = PriceBook.of([p for p in await read_prices(connection, "model") if p.currency == CURRENCY], _FREE)
    result = Imported(begins, skipped=costs.skipped)
    wanted = []
    for offer in costs.offers:
        becomes = price_of_new(offer.price, price_id=uuid7(), valid_from=begins, valid_to=None)
        was = book.find("model", offer.model, CURRENCY, begins)
        if offer.model not in known:
            result.new_models.append(offer.model)
        if was is not None and _same(was, becomes):
            result.unchanged += 1
        else:
            result.changes.append(Change(offer.model, becomes, was))
            wanted.append(offer)
    if not dry_run:
        await _add_models(connection, [offer for offer in costs.offers if offer.model not in known])
        await set_prices(
            connection, [offer.price for offer in wanted], now=now, valid_from=begins, replace=True, new_currency=new_currency
        )  # fmt: skip
    return result


def _same(one: Price, other: Price) -> bool:
    """Whether two prices charge and cost the same."""
    return (
        replace(one, id=other.id, valid_from=other.valid_from, valid_to=other.valid_to, revision=other.revision)
        == other
    )


async def _add_models(connection: Connection, offers: Sequence[Offer]) -> None:
    for offer in offers:
        await connection.execute(
            SQL["add_model"], offer.model, offer.provider, list(offer.capabilities), offer.context_length,
            offer.price.input_per_1k, offer.price.output_per_1k,
        )  # fmt: skip

"""What an estimate of tokens costs in credits, where a gateway names a model in place of credits."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from services.api.reservations import store
from services.billing.rating.rating import Price, PriceBook
from services.billing.rating.store import read_price_book
from shared.clock import Clock
from shared.money import exact
from shared.postgres import Pool

PRICES_FOR: Final = timedelta(seconds=10)
"""How long prices are not read again: an estimate may be as old."""


def worth(price: Price, credits_per_unit: Decimal, requests: int, tokens: int) -> Decimal:
    """Return what requests and tokens cost in credits at most (pure): every token at the dearest of the model's prices."""
    with exact():
        dearest = max(price.unit_price(component) for component in ("input", "cached_input", "output"))
        return (price.per_request * requests + dearest * tokens) * credits_per_unit


@dataclass(slots=True)
class Estimates:
    """Estimates by the prices that are in force, balanced power level, as read from the database some seconds ago."""

    pool: Pool
    clock: Clock
    _read_at: datetime | None = None
    _book: PriceBook | None = None
    _rates: dict[str, Decimal] = field(default_factory=dict)

    async def credits(self, model: str, currency: str, requests: int, tokens: int) -> Decimal:
        """Return what an estimate costs; nothing where the model or the currency has no price yet: its usage is not debited before it has."""
        now = self.clock.now()
        if self._book is None or self._read_at is None or now - self._read_at >= PRICES_FOR:
            async with self.pool.acquire() as connection:
                self._book = await read_price_book(connection, Decimal(1))
                self._rates = await store.credit_rates(connection, now)
            self._read_at = now
        rate, price = self._rates.get(currency), self._book.find("model", model, currency, now)
        return Decimal(0) if rate is None or price is None else worth(price, rate, requests, tokens)

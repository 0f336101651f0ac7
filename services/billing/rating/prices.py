"""The price book in memory, read again when it is old or when it lacks a price."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from time import monotonic
from uuid import UUID

from services.billing.rating import store
from services.billing.rating.rating import PriceBook, RatedRow, rate_all
from services.billing.rating.usage import Payer, Quantities, UsageKey
from shared.postgres import Connection


class Prices:
    """Rates by the prices of the database. They are read at most `seconds` ago, and anew before usage is held for want of one."""

    def __init__(self, byok_factor: Decimal, *, seconds: float) -> None:
        self._byok_factor = byok_factor
        self._seconds = seconds
        self._book: PriceBook | None = None
        self._read_at = 0.0

    async def rate(
        self, connection: Connection, usage: Mapping[UsageKey, Quantities], payers: Mapping[UUID, Payer]
    ) -> list[RatedRow]:
        """Rate merged usage. What has no price even in the database comes back unrated."""
        book, fresh = await self._current(connection)
        rows = rate_all(usage, payers, book)
        if not fresh and any(row.rated is None for row in rows):
            rows = rate_all(usage, payers, await self.read(connection))
        return rows

    async def _current(self, connection: Connection) -> tuple[PriceBook, bool]:
        if self._book is None or monotonic() - self._read_at > self._seconds:
            return await self.read(connection), True
        return self._book, False

    async def read(self, connection: Connection) -> PriceBook:
        """Read the prices now."""
        self._book, self._read_at = await store.read_price_book(connection, self._byok_factor), monotonic()
        return self._book

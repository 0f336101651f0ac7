"""The price book in memory, read again when the database's has another version."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from uuid import UUID

from services.billing.rating import store
from services.billing.rating.rating import PriceBook, RatedRow, rate_all
from services.billing.rating.usage import Payer, Quantities, UsageKey
from shared.postgres import Connection


class Prices:
    """Rates by the prices of the database, which cannot change before the transaction that rates by them has ended."""

    def __init__(self, byok_factor: Decimal) -> None:
        self._byok_factor = byok_factor
        self._book: PriceBook | None = None
        self._version = 0

    async def rate(
        self, connection: Connection, usage: Mapping[UsageKey, Quantities], payers: Mapping[UUID, Payer]
    ) -> list[RatedRow]:
        """Rate merged usage. What has no price comes back unrated. Call it in the transaction that stores the result."""
        return rate_all(usage, payers, await self.read(connection))

    async def read(self, connection: Connection) -> PriceBook:
        """Return the prices that are in force until the transaction ends."""
        version = await store.price_book_version(connection)
        if self._book is None or version != self._version:
            self._book, self._version = await store.read_price_book(connection, self._byok_factor), version
        return self._book

"""Held usage: what had no price when it was recorded is rated once a price exists."""

from __future__ import annotations

from services.billing.rating import store
from services.billing.rating.prices import Prices
from services.billing.rating.rating import rate
from shared.postgres import Pool, transaction

ROWS_AT_ONCE = 1_000
"""Rows of held usage that are rated in one transaction."""


async def rate_held(pool: Pool, prices: Prices) -> int:
    """Rate all held usage that has a price by now; return how many events that was."""
    events = 0
    while True:
        async with transaction(pool) as connection:
            waiting = await store.lock_ratable(connection, ROWS_AT_ONCE)
            book = await prices.read(connection)
            rated = [(held, r) for held in waiting if (r := rate(held.key, held.used, held.currency, book))]
            await store.rate_held(connection, rated)
        events += sum(held.used.requests for held, _ in rated)
        if len(waiting) < ROWS_AT_ONCE or not rated:
            return events

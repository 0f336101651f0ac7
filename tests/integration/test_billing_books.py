"""Whatever happens in whatever order – usage, repeats, late prices, settlements, top-ups, closings – the books are true."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.billing.provenance import explain_debit, explain_line
from services.billing.rating.held import rate_held
from services.ingest.rows import UsageRow
from shared.contracts import UsageRecorded
from shared.postgres import Pool
from tests.integration.billing_facts import (
    NOON,
    NOVEMBER,
    OCTOBER,
    Customer,
    Desk,
    make_customer,
    make_price,
    usage,
)

MODELS = ("gpt-4o", "late", "changing")


class World:
    """Customers of every kind, and what may happen to them."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk, self.rng = desk, random.Random(seed)
        self.customers: list[Customer] = []
        self.messages: list[UsageRecorded] = []

    async def begin(self) -> None:
        pool = self.desk.pool
        await make_price(pool)
        await make_price(pool, model="changing", valid_to=NOON, per_1k=("0.3", "0.1", "0.7"))
        await make_price(
            pool, model="changing", valid_from=NOON, per_1k=("0.0000031", "0", "0.013"), per_request="0.0007"
        )
        for mode in ("prepaid", "postpaid") * 3:
            self.customers.append(await make_customer(pool, billing_mode=mode))

    def event(self) -> UsageRow:
        rng = self.rng
        request_tokens = rng.randrange(5_000)
        return usage(
            rng.choice(self.customers).subscription_id,
            at=NOON + timedelta(hours=rng.randrange(-200, 500), minutes=rng.randrange(60)),
            model=rng.choice(MODELS),
            request_tokens=request_tokens,
            cached_tokens=rng.randrange(request_tokens + 1),
            response_tokens=rng.randrange(2_000),
            status_code=rng.choice((200, 200, 200, 429, 500)),
            power_level=rng.choice(("eco", "balanced", "precision")),
            byok=rng.random() < 0.1,
        )

    async def use(self) -> None:
        self.messages.append(await self.desk.use(*(self.event() for _ in range(self.rng.randrange(1, 12)))))

    async def repeat(self) -> None:
        if self.messages:
            await self.desk.deliver(self.rng.choice(self.messages))

    async def top_up(self) -> None:
        amount = Decimal(self.rng.randrange(1, 400)) / 100
        await self.desk.pool.execute("SELECT add_user_credits($1, $2)", self.rng.choice(self.customers).user_id, amount)

    async def settle(self) -> None:
        await asyncio.gather(self.desk.settling.settle_all(), Desk(self.desk.pool).settling.settle_all())

    async def price(self) -> None:
        if not await self.desk.value("SELECT count(*) FROM model_prices WHERE model_id = 'late'"):
            await make_price(self.desk.pool, model="late", per_1k=("0.01", "0.001", "0.02"))
        await rate_held(self.desk.pool, self.desk.prices)

    async def close(self) -> None:
        period = self.rng.choice((OCTOBER, NOVEMBER))
        await asyncio.gather(self.desk.close(period), self.desk.close(period))


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_books_are_true_whatever_happens(database_pool: Pool, seed: int) -> None:
    desk = Desk(database_pool)
    desk.clock.at = datetime(2026, 12, 3, tzinfo=UTC)
    world = World(desk, seed)
    await world.begin()
    happenings: list[Callable[[], Awaitable[None]]] = [
        *[world.use] * 6, world.repeat, world.top_up, *[world.settle] * 2, world.price, world.close,
    ]  # fmt: skip
    for _ in range(40):
        await world.rng.choice(happenings)()
    assert await desk.differing() == []

    async with desk.pool.acquire() as connection:
        lines = await connection.fetch("SELECT id FROM invoice_lines")
        settlements = await connection.fetch("SELECT id FROM credit_settlements")
        assert len(lines) > 5
        assert len(settlements) > 2
        for row in lines:
            assert (await explain_line(connection, row["id"], events_shown=0)).problems == []
        for row in settlements:
            assert (await explain_debit(connection, row["id"], events_shown=0)).problems == []

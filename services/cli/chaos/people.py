"""Writes a world into a database: its prices, and its customers when they sign up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from services.cli.chaos.stage import SQL
from services.cli.chaos.world import CURRENCY, ITEMS, POWER_LEVELS, Item, Rate, Subscription, World
from shared.postgres import Connection

_LONG_BEFORE: Final = timedelta(days=60)


async def settle_in(connection: Connection, world: World) -> None:
    """Write the price list, the factors, and everybody who is known from the beginning."""
    async with connection.transaction():
        for level, factor in POWER_LEVELS:
            await connection.execute(SQL["power_level"], level, factor)
        for item in ITEMS:
            await _price(connection, world, item)
        await sign_up(connection, world, world.of("known"))


async def _price(connection: Connection, world: World, item: Item) -> None:
    if not item.tool:
        await connection.execute(SQL["model"], item.name)
    begin = world.start - _LONG_BEFORE
    versions: list[tuple[Rate, object, object]] = [(item.rate, begin, world.change if item.later else None)]
    if item.later:
        versions.append((item.later, world.change, None))
    names = (None, item.name) if item.tool else (item.name, None)
    for rate, start, end in versions:
        prices = (rate.input, rate.cached, rate.output, rate.request)
        await connection.execute(SQL["price"], *names, CURRENCY, start, end, *prices)


async def sign_up(connection: Connection, world: World, newcomers: Sequence[Subscription]) -> None:
    """Let customers become known, with the credits that they have paid for."""
    document = [
        {
            "user_id": str(s.customer.id),
            "name": s.customer.name,
            "credits": None,
            "subscription_id": str(s.id),
            "model": ITEMS[s.item].name,
            "mode": "postpaid" if s.customer.credits is None else "prepaid",
            "currency": CURRENCY,
            "quota": s.quota,
            "key_hash": s.key_hash,
            "period_start": world.change.isoformat(),
        }
        for s in newcomers
    ]
    await connection.execute(SQL["sign_up"], json.dumps(document))
    for s in newcomers:
        if s.customer.credits is not None:
            await connection.execute(SQL["grant_credits"], s.customer.id, s.customer.credits)

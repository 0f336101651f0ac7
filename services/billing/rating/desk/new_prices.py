"""Sets and ends prices: what a person asks for is taken whole, or refused with the reason and nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, cast
from uuid import UUID

import asyncpg

from services.billing.rating.price_file import NewPrice, NoSuchPrice, PriceRefused
from services.billing.rating.rating import ONE_TOKEN_OF_1K, Component, Price, Unit
from services.billing.rating.store import read_prices
from shared.ids import uuid7
from shared.money import exact
from shared.period import HOUR, hour_start
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.rating.desk")


@dataclass(frozen=True, slots=True)
class SetPrice:
    """A price that was set, and the one that it replaces from its beginning on."""

    price: Price
    replaced: UUID | None = None


def price_of_new(
    new: NewPrice,
    *,
    price_id: UUID,
    valid_from: datetime,
    valid_to: datetime | None,
    revision: int = 0,
) -> Price:
    """Return a price that is asked for as one that can rate. Cached input costs what other input does where nothing else is said."""
    costs: dict[Component, Decimal | None] = {
        "requests": new.cost_per_request,
        "input": _token(new.cost_input_per_1k),
        "cached_input": _token(new.cost_input_per_1k if new.cost_cached_input_per_1k is None else new.cost_cached_input_per_1k),
        "output": _token(new.cost_output_per_1k),
        "units": new.cost_per_unit,
    }  # fmt: skip
    return Price(
        id=price_id,
        kind=new.kind,
        subject=new.subject,
        currency=new.currency,
        valid_from=valid_from,
        valid_to=valid_to,
        input_per_1k=new.input_per_1k,
        output_per_1k=new.output_per_1k,
        cached_input_per_1k=new.input_per_1k if new.cached_input_per_1k is None else new.cached_input_per_1k,
        per_request=new.per_request,
        bills_errors=new.bills_errors,
        cost={component: each for component, each in costs.items() if each is not None} or None,
        revision=revision,
        unit=cast("Unit | None", new.unit),
        per_unit=new.per_unit,
    )


def _token(per_1k: Decimal | None) -> Decimal | None:
    with exact():
        return None if per_1k is None else per_1k * ONE_TOKEN_OF_1K


async def insert_price(connection: Connection, price: Price, *, note: str | None = None) -> None:
    """Store a price version of any revision. Raises `PriceRefused` for a model that nobody knows."""
    cost = price.cost or {}
    with exact():
        per_1k = [None if (each := cost.get(part)) is None else each * 1000 for part in _TOKENS]
    try:
        await connection.execute(
            SQL["insert_price"], price.id, *(price.subject if price.kind == kind else None for kind in ("model", "tool", "feature")),
            price.valid_from, price.valid_to, price.currency, price.input_per_1k, price.output_per_1k, price.cached_input_per_1k,
            price.per_request, price.unit, price.per_unit, price.bills_errors, *per_1k, cost.get("requests"), cost.get("units"), note,
            price.revision,
        )  # fmt: skip
    except asyncpg.ForeignKeyViolationError:
        raise PriceRefused(
            f"there is no model {price.subject}: add it to models first, or check how it is spelled"
        ) from None


_TOKENS: tuple[Component, ...] = ("input", "output", "cached_input")


def _beginning(new: NewPrice, otherwise: datetime) -> datetime:
    begins = new.valid_from or otherwise
    if new.valid_to is not None and new.valid_to <= begins:
        raise PriceRefused(
            f"the price of {new.kind} {new.subject} would end {new.valid_to:%Y-%m-%d %H:%M}, before it begins {begins:%Y-%m-%d %H:%M}"
        )
    return begins


async def set_prices(
    connection: Connection,
    wanted: Sequence[NewPrice],
    *,
    now: datetime,
    valid_from: datetime | None = None,
    replace: bool = False,
    new_currency: bool = False,
) -> list[SetPrice]:
    """Set prices, all or none; one without a beginning is in force from `valid_from`, else from the next full hour.

    Raises `PriceRefused` for a price that overlaps another version of its subject and currency (`replace` ends an open one instead,
    where it begins in the future), an unknown model, and a currency that nobody is billed in (unless `new_currency`). A price of the past
    is taken where there was none: usage that waits for it is rated then.
    """
    known = {row["currency"] for row in await connection.fetch(SQL["currencies"])}
    done = []
    for new in wanted:
        if new.currency not in known and not new_currency:
            raise PriceRefused(
                f"nobody is billed in {new.currency} ({', '.join(sorted(known)) or 'there are no subscriptions yet'}): no usage would "
                "ever be rated by such a price. Repeat with --new-currency if that is meant"
            )
        price = price_of_new(
            new,
            price_id=uuid7(),
            valid_from=_beginning(new, valid_from or hour_start(now) + HOUR),
            valid_to=new.valid_to,
        )
        replaced = await _make_room(connection, price, now=now, replace=replace)
        await insert_price(connection, price, note=new.note)
        await connection.execute(SQL["audit_set"], price.id, str(new))
        done.append(SetPrice(price, replaced))
    return done


async def _make_room(connection: Connection, price: Price, *, now: datetime, replace: bool) -> UUID | None:
    versions = await read_prices(connection, price.kind, price.subject, price.currency)
    overlapping = [
        p
        for p in versions
        if (price.valid_to is None or p.valid_from < price.valid_to) and (p.valid_to is None or price.valid_from < p.valid_to)
    ]  # fmt: skip
    if not overlapping:
        return None
    other = overlapping[0]
    span = f"[{other.valid_from:%Y-%m-%d %H:%M}, {f'{other.valid_to:%Y-%m-%d %H:%M}' if other.valid_to else '…'}) UTC"
    if price.valid_from <= now:
        raise PriceRefused(
            f"{price.kind} {price.subject} had a price in {price.currency} then (version {other.id}, {span}): what it rated stands. "
            "Set a price for the future, or correct the past with 'tallystick reprice'"
        )
    if not replace or len(overlapping) > 1 or other.valid_to is not None or other.valid_from >= price.valid_from:
        raise PriceRefused(
            f"{price.kind} {price.subject} has a price in {price.currency} at that time (version {other.id}, {span}): end it first with "
            f"'tallystick price end {other.id} --at …'" + ("" if replace else ", or repeat with --replace")
        )
    await end_price(connection, other.id, price.valid_from, now=now)
    return other.id


async def end_price(connection: Connection, price_id: UUID, at: datetime, *, now: datetime) -> None:
    """Let a price end at a full hour in the future. Raises `PriceRefused` for an unknown or ended price, and for the past."""
    price = await connection.fetchrow(SQL["lock_price"], price_id)
    if price is None:
        raise NoSuchPrice(f"there is no price {price_id}: 'tallystick price list --all' shows all")
    if at <= now:
        raise PriceRefused(
            f"{at.isoformat()} is past: usage since then was rated by price {price_id}. End it at a full hour to come; "
            "what it rated wrongly is corrected with 'tallystick reprice'"
        )
    if at <= price["valid_from"]:
        raise PriceRefused(f"price {price_id} begins {price['valid_from'].isoformat()}: it cannot end before that")
    if price["valid_to"] is not None and price["valid_to"] <= now:
        raise PriceRefused(f"price {price_id} ended {price['valid_to'].isoformat()} already")
    following = await connection.fetchval(SQL["overlapping_longer"], price_id, at)
    if following is not None:
        raise PriceRefused(f"price {price_id} cannot last that long: price {following} begins before {at.isoformat()}")
    await connection.execute(SQL["end_price"], price_id, at)
    await connection.execute(SQL["audit_end"], price_id, at, price["valid_to"])

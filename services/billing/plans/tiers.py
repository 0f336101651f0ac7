"""Tiers (pure): what a quantity costs that is charged in steps.

The three models as Stripe's documentation of "Tiered pricing" and Lago's of "Charge models" define them:

- graduated: each tier's price is for the units that fall into it ("the first 10 cost 5 each, the next ones 4").
- volume: the tier that the whole quantity falls into prices all of it.
- package: units are sold in packages of a size, and one that has been begun is paid whole.

A tier reaches up to and including `up_to`; the last one is open. `flat` is paid once as soon as its tier is entered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from shared.money import exact

ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Tier:
    """One step: up to and including `up_to` (None: without end), what a unit in it costs, and what entering it costs."""

    up_to: Decimal | None
    unit_price: Decimal
    flat: Decimal = ZERO


def graduated(quantity: Decimal, tiers: Sequence[Tier]) -> Decimal:
    """Return the exact price of a quantity, each unit by the tier it falls into. Nothing costs nothing."""
    total, below = ZERO, ZERO
    with exact():
        for tier in tiers:
            if quantity <= below:
                break
            reached = quantity if tier.up_to is None else min(quantity, tier.up_to)
            total += (reached - below) * tier.unit_price + tier.flat
            below = reached if tier.up_to is None else tier.up_to
    return total


def volume(quantity: Decimal, tiers: Sequence[Tier]) -> Decimal:
    """Return the exact price of a quantity, all of it by the one tier that it reaches. Nothing costs nothing."""
    if quantity <= 0:
        return ZERO
    tier = next(tier for tier in tiers if tier.up_to is None or quantity <= tier.up_to)
    with exact():
        return quantity * tier.unit_price + tier.flat


def packages(quantity: Decimal, size: Decimal) -> Decimal:
    """Return how many packages of `size` units a quantity needs: whole ones. A negative quantity needs none."""
    if quantity <= 0:
        return ZERO
    with exact():
        whole = quantity // size
        return whole if whole * size == quantity else whole + 1


def package(quantity: Decimal, size: Decimal, price: Decimal) -> Decimal:
    """Return the exact price of a quantity that is sold in packages."""
    with exact():
        return packages(quantity, size) * price

"""Burn-down (pure): which grants pay how much of an amount."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from shared.money import exact, minor_unit


class AppliedGrant(NamedTuple):
    """How much of a grant pays, and what the grant is called."""

    grant_id: UUID
    amount: Decimal
    name: str


def burn_down(grants: Sequence[AppliedGrant], amount: Decimal, currency: str) -> list[AppliedGrant]:
    """Return what each of `grants`, in the order in which they are used, pays of `amount`, in whole minor units of the currency.

    `grants` say what is left of each. A fraction of a minor unit at the end of a grant stays with it: an invoice could not show it.
    """
    unit, used = minor_unit(currency), []
    with exact():
        for grant in grants:
            taken = min(grant.amount, amount) // unit * unit
            if taken > 0:
                used.append(grant._replace(amount=taken))
                amount -= taken
    return used

"""Charges of plans that belong together (pure): a charge, what late usage changes of it, and what a change of plan credits of it.

What is given back of a charge, by credit notes and by the plan itself, is judged over all of its family: no usage stands behind a charge
that would say which part of it was given back already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

from services.billing.invoices.credited_once import Standing
from shared.money import exact

_CREDIT: Final = ":credit"
ZERO: Final = Decimal(0)


class Charged(NamedTuple):
    """A charge that was billed or is about to be: on which invoice, under which key, for `[start, end)`, exact and signed.

    `noted` is what credit notes took back of its line.
    """

    invoice_id: UUID
    key: str
    subscription_id: UUID
    start: datetime
    end: datetime
    amount: Decimal
    noted: Decimal = ZERO

    @property
    def kind(self) -> str:
        """What its key says before it says whose it is: fee, overage.tokens, discount:SUMMER:fee, …"""
        return self.key.partition(f":{self.subscription_id}")[0]


@dataclass(slots=True)
class Family:
    """The charges of a family in the order in which they were made. `reduced`: how much less than was asked for its notes gave; `set_off`: by
    how much later invoices took off again what the plan gave back. Both signed as the charges are."""

    charges: list[Charged] = field(default_factory=list)
    reduced: Decimal = ZERO
    set_off: Decimal = ZERO

    @property
    def sign(self) -> int:
        """1 where the customer is charged; -1 where something is taken off."""
        return -1 if self.charges[0].key.startswith(("discount", "included")) else 1

    @property
    def is_flat(self) -> bool:
        """Whether it is a fee, or off one, and is credited for what is left of its time; others follow the usage of their time."""
        return self.charges[0].kind.rpartition(":")[2] in ("fee", "proration")

    def standing(self) -> Standing:
        """Return how far it has been given back, in amounts of its own sign.

        Credits of a fee and notes over it are about different things, and both are given, within the fee. Other charges follow usage, and notes
        over them are taken to be about what is corrected of that.
        """
        sign = self.sign
        charged = [c for c in self.charges if sign * c.amount > 0]
        given = [c for c in self.charges if sign * c.amount < 0]
        with exact():
            noted = sign * sum([c.noted for c in charged], ZERO)
            taken = -sign * sum([c.amount - c.noted for c in given], ZERO)
            most = sign * sum([c.amount for c in charged], ZERO) if self.is_flat else None
        return Standing(noted, sign * self.reduced, taken, sign * self.set_off, most)

    def elsewhere(self, invoice_id: UUID) -> Decimal:
        """Return what other invoices than this gave back of its charges, signed as they are."""
        sign = self.sign
        with exact():
            others = sum([c.amount - c.noted for c in self.charges if c.invoice_id != invoice_id], ZERO)
            return sign * max(-sign * (others + self.set_off), ZERO)


def families(charges: Iterable[Charged]) -> dict[str, Family]:
    """Gather charges into families, by the key of the first of each."""
    ordered = list(charges)
    found: dict[str, Family] = {}
    for charge in ordered:
        found.setdefault(family_of(charge, ordered), Family()).charges.append(charge)
    return found


def family_of(charge: Charged, among: Sequence[Charged]) -> str:
    """Return the name of a charge's family: its key without a number; of a credit that of the fee whose time it ends, if it is `among` these."""
    key = charge.key.partition("#")[0]
    if not key.endswith(_CREDIT):
        return key
    kinds = {charge.kind, charge.kind.removesuffix("proration") + "fee"}
    paid = [
        other for other in among
        if other.subscription_id == charge.subscription_id and other.end == charge.end and other.start < charge.start
        and other.kind in kinds and not other.key.endswith(_CREDIT)
    ]  # fmt: skip
    return max(paid, key=lambda other: other.start).key if paid else key


def gives_back(key: str) -> bool:
    """Tell whether a charge may give back something of an earlier one."""
    return "#" in key or key.endswith(_CREDIT)

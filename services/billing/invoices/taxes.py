"""Tax of invoices (pure): what treatment a customer has, and the tax by rate, computed on the sum of the rounded lines of each rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from services.billing.invoices.document import TaxAmount, TaxCategory
from shared.money import exact, round_money

Treatment = Literal["standard", "reverse_charge", "exempt"]


@dataclass(frozen=True, slots=True)
class Tax:
    """How an amount is taxed; `reason` says why it is not, where it is not."""

    category: TaxCategory
    rate: Decimal
    reason: str | None = None


NO_TAX = Tax("O", Decimal(0))


def tax_of(treatment: Treatment, rate: Decimal, reason: str | None, *, registered: bool) -> Tax:
    """Return how a customer of this treatment is taxed by a seller that is `registered` for tax or not."""
    match treatment:
        case "reverse_charge":
            return Tax("AE", Decimal(0), "Reverse charge")
        case "exempt":
            return Tax("E", Decimal(0), reason)
    if rate:
        return Tax("S", rate)
    return Tax("Z", Decimal(0)) if registered else NO_TAX


def tax_amounts(
    amounts: Iterable[tuple[Tax, Decimal]], currency: str, *, before: Sequence[TaxAmount] = ()
) -> tuple[TaxAmount, ...]:
    """Return the tax of net amounts by category and rate, rounded once for each rate, the highest rate first.

    `before` is what was taxed of the same thing earlier: then the tax is the rounded tax of both together less the earlier one, so that
    parts never come to more than the whole, and all of them to exactly it.
    """
    taxable: dict[Tax, Decimal] = {}
    earlier = {(t.category, t.rate): t for t in before}
    with exact():
        for tax, amount in amounts:
            taxable[tax] = taxable.get(tax, Decimal(0)) + amount
        return tuple(
            TaxAmount(t.category, t.rate, net, _tax(t, net, earlier.get((t.category, t.rate)), currency), t.reason)
            for t, net in sorted(taxable.items(), key=lambda item: (-item[0].rate, item[0].category))
        )


def _tax(tax: Tax, net: Decimal, earlier: TaxAmount | None, currency: str) -> Decimal:
    if earlier is None:
        return round_money(net * tax.rate, currency)
    return round_money((earlier.taxable + net) * tax.rate, currency) - earlier.tax

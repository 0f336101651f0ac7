"""Money: exact Decimals, rounded once, by one function (pure).

Amounts are `decimal.Decimal`; floats never come near. Every calculation runs in `EXACT`, whose precision no amount of
ours can exhaust and which raises `decimal.Inexact` where a result would have to be rounded in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from decimal import (
    ROUND_FLOOR,
    ROUND_HALF_UP,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
    localcontext,
)

EXACT = Context(prec=100, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])
_ROUNDING = Context(prec=100, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])

_CURRENCIES = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
MINOR_UNITS = {currency: digits for digits, currencies in _CURRENCIES.items() for currency in currencies.split()}
"""Digits after the point for the currencies that do not have two (ISO 4217)."""


def exact() -> AbstractContextManager[Context]:
    """Return a `with` block in which Decimal arithmetic is exact or raises `decimal.Inexact`."""
    return localcontext(EXACT)


def minor_unit(currency: str) -> Decimal:
    """Return the smallest amount of a currency, e.g. `Decimal("0.01")` for EUR."""
    return Decimal(1).scaleb(-MINOR_UNITS.get(currency, 2))


def round_money(amount: Decimal, currency: str) -> Decimal:
    """Return `amount` in whole minor units of `currency`, halves away from zero. THE rounding function: no other exists."""
    return amount.quantize(minor_unit(currency), context=_ROUNDING)


def allocate(exact_amounts: Sequence[Decimal], currency: str) -> list[Decimal]:
    """Round a list of exact amounts so that the results sum to the rounded sum (largest remainder).

    Each result differs from its exact amount by less than one minor unit. Ties go to the earlier amount.
    """
    unit = minor_unit(currency)
    with exact():
        total = round_money(sum(exact_amounts, Decimal(0)), currency)
        floors = [amount.quantize(unit, rounding=ROUND_FLOOR, context=_ROUNDING) for amount in exact_amounts]
        missing_units = int((total - sum(floors, Decimal(0))) / unit)
        by_remainder = sorted(range(len(floors)), key=lambda i: (floors[i] - exact_amounts[i], i))
        for i in by_remainder[:missing_units]:
            floors[i] += unit
    return floors

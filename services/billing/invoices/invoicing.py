"""Invoicing (pure): what lines become an invoice. Rounded here, once, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, get_args
from uuid import UUID

import msgspec

from services.billing.invoices.document import TaxAmount
from services.billing.invoices.lines import Line, LineKind, carried_over
from services.billing.invoices.taxes import NO_TAX, Tax, tax_amounts
from services.billing.rating.rating import COMPONENTS
from shared.money import allocate, exact

_KIND_ORDER: Final[dict[str, int]] = {kind: place for place, kind in enumerate(get_args(LineKind))}
_COMPONENT_ORDER: Final[dict[str | None, int]] = {None: -1, **{c: place for place, c in enumerate(COMPONENTS)}}
_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice ready to be issued: its lines in order, the rounded amount of each, and its sums."""

    id: UUID
    user_id: UUID
    currency: str
    lines: Sequence[Line]
    amounts: Sequence[Decimal]
    line_tax: Tax
    taxes: tuple[TaxAmount, ...]
    exact_subtotal: Decimal
    subtotal: Decimal
    tax: Decimal
    total: Decimal

    @property
    def items(self) -> str:
        """The lines as the JSON of `invoices.items`; amounts are JSON numbers with all their digits."""
        return _encode(
            [
                {
                    "id": line.id,
                    "description": line.description,
                    "quantity": line.quantity,
                    "unitPrice": line.unit_price,
                    "amount": amount,
                    "type": line.kind,
                    "metadata": {"subscription": line.subscription_id, "component": line.component, **line.dimensions},
                }
                for line, amount in zip(self.lines, self.amounts, strict=True)
            ]
        ).decode()

    @property
    def taxes_json(self) -> str:
        """The taxes as the JSON of `invoices.taxes`."""
        return taxes_json(self.taxes)


def taxes_json(taxes: Sequence[TaxAmount]) -> str:
    """Return taxes as the JSON that invoices and credit notes keep."""
    return _encode(list(taxes)).decode()


def exact_sum(lines: Iterable[Line]) -> Decimal:
    """Return what lines come to before rounding."""
    with exact():
        return sum([line.exact_amount for line in lines], Decimal(0))


def balanced(lines: Sequence[Line]) -> list[Line]:
    """Return the lines of an invoice that is not negative: what it would be below nothing is carried over to the next one.

    To be asked before grants are taken off: they pay the rounded sum, which may be a fraction of a minor unit more than the exact one.
    """
    below = exact_sum(lines)
    return [*lines, carried_over(-below)] if below < 0 else list(lines)


def make_invoice(
    invoice_id: UUID, user_id: UUID, currency: str, lines: Iterable[Line], *, tax: Tax = NO_TAX
) -> Invoice:
    """Order the lines and round them: by largest remainder, so that they sum to the rounded sum of their exact amounts."""
    ordered = sorted(lines, key=_order)
    amounts = allocate([line.exact_amount for line in ordered], currency)
    with exact():
        subtotal = sum(amounts, Decimal(0))
        taxes = tax_amounts([(tax, subtotal)], currency)
        tax_sum = sum([part.tax for part in taxes], Decimal(0))
        return Invoice(
            id=invoice_id,
            user_id=user_id,
            currency=currency,
            lines=ordered,
            amounts=amounts,
            line_tax=tax,
            taxes=taxes,
            exact_subtotal=exact_sum(ordered),
            subtotal=subtotal,
            tax=tax_sum,
            total=subtotal + tax_sum,
        )


def _order(line: Line) -> tuple[Any, ...]:
    return (
        _KIND_ORDER[line.kind], line.subscription_id.int if line.subscription_id else 0,
        line.period_start.timestamp() if line.period_start else 0, "credit_note" in line.dimensions, line.description.partition(":")[0],
        line.dimensions.get("power_level", ""), line.dimensions.get("byok", False), line.price_id.int if line.price_id else 0,
        _COMPONENT_ORDER[line.component], line.id.int,
    )  # fmt: skip

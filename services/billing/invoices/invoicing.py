"""Invoicing (pure): what lines become an invoice. Rounded here, once, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from services.billing.invoices.lines import Line
from services.billing.rating.rating import COMPONENTS
from shared.money import allocate, exact, round_money

_KIND_ORDER: Final = ("fee", "usage", "adjustment")
_encode_items = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice ready to be issued: its lines in order, the rounded amount of each, and its sums."""

    id: UUID
    user_id: UUID
    currency: str
    lines: Sequence[Line]
    amounts: Sequence[Decimal]
    exact_subtotal: Decimal
    subtotal: Decimal
    tax: Decimal
    total: Decimal

    @property
    def items(self) -> str:
        """The lines as the JSON of `invoices.items`; amounts are JSON numbers with all their digits."""
        return _encode_items(
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


def make_invoice(
    invoice_id: UUID, user_id: UUID, currency: str, lines: Iterable[Line], *, tax_rate: Decimal
) -> Invoice:
    """Order the lines and round them: by largest remainder, so that they sum to the rounded sum of their exact amounts."""
    ordered = sorted(lines, key=_order)
    amounts = allocate([line.exact_amount for line in ordered], currency)
    with exact():
        subtotal = sum(amounts, Decimal(0))
        tax = round_money(subtotal * tax_rate, currency)
        return Invoice(
            id=invoice_id,
            user_id=user_id,
            currency=currency,
            lines=ordered,
            amounts=amounts,
            exact_subtotal=sum((line.exact_amount for line in ordered), Decimal(0)),
            subtotal=subtotal,
            tax=tax,
            total=subtotal + tax,
        )


def _order(line: Line) -> tuple[Any, ...]:
    component = COMPONENTS.index(line.component) if line.component else -1
    price = line.price_id.int if line.price_id else 0
    return (
        _KIND_ORDER.index(line.kind), line.subscription_id.int, line.period_start, line.description.split(":")[0],
        line.dimensions.get("power_level", ""), line.dimensions.get("byok", False), price, component, line.id.int,
    )  # fmt: skip

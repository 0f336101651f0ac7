"""A charge (pure): what a plan makes a subscription pay, before it is a line of an invoice."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

ChargeKind = Literal["fee", "proration", "overage", "discount", "minimum"]


@dataclass(frozen=True, slots=True)
class Charge:
    """What is charged (or, negative, credited) for `[period_start, period_end)`.

    `key` names the charge for ever: what has been billed under it is never billed again. `amount` is exact; where `unit_price` is not
    None it is `quantity` times that. `metadata` says how it came about, in JSON-ready values.
    """

    subscription_id: UUID
    kind: ChargeKind
    key: str
    description: str
    quantity: Decimal
    unit: str
    unit_price: Decimal | None
    amount: Decimal
    period_start: datetime
    period_end: datetime
    metadata: dict[str, Any] = field(default_factory=dict)

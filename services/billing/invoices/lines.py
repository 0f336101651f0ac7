"""Invoice lines (pure): what rated usage and fees become, with the provenance of each.

A group is rated usage that one price charges alike; it becomes one line for each component that costs something. The
exact amounts of its lines sum to what was rated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from services.billing.rating.rating import COMPONENTS, ONE_TOKEN_OF_1K, Component
from shared.errors import BrokenInvariant
from shared.ids import uuid7
from shared.money import exact
from shared.period import Period

LineKind = Literal["usage", "adjustment", "fee"]

NAMES: Final[dict[Component, str]] = {
    "requests": "requests",
    "input": "input tokens",
    "cached_input": "cached input tokens",
    "output": "output tokens",
}


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """Rated usage of one subscription that one price and factor charge alike, within `[period_start, period_end)`.

    `billed_*` are the quantities that the price charges for, `price_*` its prices before the factor; `amount` is the
    exact sum of what was rated, `event_count` counts all events behind it, billed or not.
    """

    invoice_id: UUID
    line_id: UUID
    subscription_id: UUID
    price_id: UUID
    model_id: str
    tool_name: str
    feature_type: str
    power_level: str
    byok: bool
    multiplier: Decimal
    period_start: datetime
    period_end: datetime
    event_count: int
    billed_requests: int
    billed_input: int
    billed_cached_input: int
    billed_output: int
    price_per_request: Decimal
    input_price_per_1k: Decimal
    cached_input_price_per_1k: Decimal
    output_price_per_1k: Decimal
    amount: Decimal
    first_event_at: datetime | None
    last_event_at: datetime | None
    checksum: str

    def billed(self, component: Component) -> tuple[int, Decimal]:
        """Return the quantity that is charged for and the price of one unit of it, factor applied. Call it in `exact()`."""
        match component:
            case "requests":
                return self.billed_requests, self.price_per_request * self.multiplier
            case "input":
                return self.billed_input, self.input_price_per_1k * ONE_TOKEN_OF_1K * self.multiplier
            case "cached_input":
                return self.billed_cached_input, self.cached_input_price_per_1k * ONE_TOKEN_OF_1K * self.multiplier
            case "output":
                return self.billed_output, self.output_price_per_1k * ONE_TOKEN_OF_1K * self.multiplier

    @property
    def subject(self) -> str:
        """What was used."""
        return self.model_id or self.tool_name or self.feature_type


@dataclass(frozen=True, slots=True)
class Fee:
    """A flat fee that falls due: `amount` in whole minor units for `[period_start, period_end)`."""

    subscription_id: UUID
    name: str
    amount: Decimal
    period_start: datetime
    period_end: datetime


@dataclass(frozen=True, slots=True)
class Line:
    """A line before rounding. `exact_amount` is `quantity` times `unit_price`; usage lines carry their provenance."""

    id: UUID
    kind: LineKind
    description: str
    subscription_id: UUID
    quantity: int
    unit: str
    unit_price: Decimal
    exact_amount: Decimal
    period_start: datetime
    period_end: datetime
    component: Component | None = None
    price_id: UUID | None = None
    usage_line_id: UUID | None = None
    event_count: int = 0
    first_event_at: datetime | None = None
    last_event_at: datetime | None = None
    checksum: str | None = None
    dimensions: dict[str, Any] = field(default_factory=dict)


def usage_lines(group: UsageGroup, period: Period) -> list[Line]:
    """Return the lines of a group, the first of which is the one that its rated usage points to.

    Usage from before the period is late: its lines are adjustments. Usage that costs nothing has one line that says so.
    Raises `BrokenInvariant` if the lines would not sum to what was rated.
    """
    with exact():
        components = [(c, *group.billed(c)) for c in COMPONENTS]
        charged = [(c, quantity, price) for c, quantity, price in components if quantity * price != 0]
        if sum((quantity * price for _, quantity, price in charged), Decimal(0)) != group.amount:
            raise BrokenInvariant(
                f"rated usage of subscription {group.subscription_id} by price {group.price_id} is {group.amount}, but its "
                f"quantities give {[(c, q, str(p)) for c, q, p in charged]}: find out which is wrong before it is invoiced"
            )
        charged = charged or [("requests", group.event_count, Decimal(0))]
        return [_usage_line(group, period, charge, first=index == 0) for index, charge in enumerate(charged)]


def _usage_line(group: UsageGroup, period: Period, charge: tuple[Component, int, Decimal], *, first: bool) -> Line:
    component, quantity, unit_price = charge
    late = group.period_start < period.start
    qualities = [group.power_level, "own provider key"] if group.byok else [group.power_level]
    when = f" in {group.period_start:%B %Y}" if late else ""
    return Line(
        id=group.line_id if first else uuid7(),
        kind="adjustment" if late else "usage",
        description=f"{group.subject}: {NAMES[component]}{when} ({', '.join(qualities)})",
        subscription_id=group.subscription_id,
        quantity=quantity,
        unit="request" if component == "requests" else "token",
        unit_price=unit_price,
        exact_amount=quantity * unit_price,
        period_start=group.period_start,
        period_end=group.period_end,
        component=component,
        price_id=group.price_id,
        usage_line_id=group.line_id,
        event_count=group.event_count,
        first_event_at=group.first_event_at,
        last_event_at=group.last_event_at,
        checksum=group.checksum,
        dimensions={
            "model_id": group.model_id, "tool_name": group.tool_name, "feature_type": group.feature_type,
            "power_level": group.power_level, "byok": group.byok, "multiplier": str(group.multiplier),
        },
    )  # fmt: skip


def fee_line(fee: Fee) -> Line:
    """Return the line of a flat fee."""
    return Line(
        id=uuid7(),
        kind="fee",
        description=f"{fee.name}, from {fee.period_start:%-d %B %Y}",
        subscription_id=fee.subscription_id,
        quantity=1,
        unit="fee",
        unit_price=fee.amount,
        exact_amount=fee.amount,
        period_start=fee.period_start,
        period_end=fee.period_end,
    )

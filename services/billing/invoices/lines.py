"""Invoice lines (pure): what rated usage, charges and credits become, with the provenance of each.

A group is rated usage that one price charges alike; it becomes one line for each component that costs something. The
exact amounts of its lines sum to what was rated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from services.billing.plans.charge import Charge
from services.billing.rating.rating import ONE_TOKEN_OF_1K, Component
from shared.errors import BrokenInvariant
from shared.ids import uuid7
from shared.money import exact
from shared.period import Period

LineKind = Literal[
    "fee", "proration", "usage", "overage", "minimum", "discount", "adjustment", "package", "carried", "credit"
]

NAMES: Final[dict[str, str]] = {
    "requests": "requests",
    "input": "input tokens",
    "cached_input": "cached input tokens",
    "output": "output tokens",
}
UNITS: Final[dict[str | None, tuple[str, str]]] = {
    "second": ("seconds", "second"),
    "returned_token": ("returned tokens", "token"),
    None: ("units", "unit"),
}
"""What `price_per_unit` is for: its name on a line, and the unit."""


class UsageGroup(msgspec.Struct, frozen=True, gc=False):
    """Rated usage of one subscription that one price and factor charge alike, within `[period_start, period_end)`.

    `billed_*` are the quantities that the price charges for, `price_*` its prices before the factor; `amount` is the
    exact sum of what was rated, `event_count` counts all events behind it, billed or not. All are signed: a correction takes back.
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
    billed_units: Decimal
    price_per_request: Decimal
    input_price_per_1k: Decimal
    cached_input_price_per_1k: Decimal
    output_price_per_1k: Decimal
    price_per_unit: Decimal
    unit: str | None
    amount: Decimal
    first_event_at: datetime | None
    last_event_at: datetime | None
    checksum: str

    def charged(self) -> Iterator[tuple[Component, int | Decimal, Decimal]]:
        """Yield what costs something: its quantity, and the price of one unit of it, factor applied. Call it in `exact()`."""
        if self.billed_requests and (price := self.price_per_request * self.multiplier):
            yield "requests", self.billed_requests, price
        of_1k = ONE_TOKEN_OF_1K * self.multiplier
        if self.billed_input and (price := self.input_price_per_1k * of_1k):
            yield "input", self.billed_input, price
        if self.billed_cached_input and (price := self.cached_input_price_per_1k * of_1k):
            yield "cached_input", self.billed_cached_input, price
        if self.billed_output and (price := self.output_price_per_1k * of_1k):
            yield "output", self.billed_output, price
        if self.billed_units and (price := self.price_per_unit * self.multiplier):
            yield "units", self.billed_units, price

    @property
    def subject(self) -> str:
        """What was used."""
        return self.model_id or self.tool_name or self.feature_type

    def is_late(self, period: Period) -> bool:
        """Whether it is usage from before the period."""
        return self.period_start < period.start


@dataclass(frozen=True, slots=True)
class Fee:
    """A flat fee that falls due: `amount` in whole minor units for `[period_start, period_end)`."""

    subscription_id: UUID
    name: str
    amount: Decimal
    period_start: datetime
    period_end: datetime


class Line(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A line before rounding. `exact_amount` is `quantity` times `unit_price`; usage lines carry their provenance."""

    id: UUID
    kind: LineKind
    description: str
    quantity: int | Decimal
    unit: str
    unit_price: Decimal | None
    exact_amount: Decimal
    subscription_id: UUID | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    component: Component | None = None
    price_id: UUID | None = None
    charge_key: str | None = None
    usage_line_id: UUID | None = None
    event_count: int = 0
    first_event_at: datetime | None = None
    last_event_at: datetime | None = None
    checksum: str | None = None
    dimensions: dict[str, Any] = {}


def usage_lines(group: UsageGroup, period: Period) -> list[Line]:
    """Return the lines of a group, the first of which is the one that its rated usage points to.

    Usage from before the period is late: its lines are adjustments. Usage that costs nothing has one line that says so.
    Raises `BrokenInvariant` if the lines would not sum to what was rated.
    """
    with exact():
        charged = [(c, quantity, price, quantity * price) for c, quantity, price in group.charged()]
        if sum([amount for *_, amount in charged], Decimal(0)) != group.amount:
            raise BrokenInvariant(
                f"rated usage of subscription {group.subscription_id} by price {group.price_id} is {group.amount}, but its "
                f"quantities give {[(c, q, str(p)) for c, q, p, _ in charged]}: find out which is wrong before it is invoiced"
            )
    charged = charged or [("requests", group.event_count, Decimal(0), Decimal(0))]
    dimensions = {
        "model_id": group.model_id, "tool_name": group.tool_name, "feature_type": group.feature_type,
        "power_level": group.power_level, "byok": group.byok, "multiplier": str(group.multiplier),
    }  # fmt: skip
    return [
        _usage_line(group, charge, dimensions, late=group.is_late(period), first=index == 0)
        for index, charge in enumerate(charged)
    ]


def _usage_line(
    group: UsageGroup,
    charge: tuple[Component, int | Decimal, Decimal, Decimal],
    dimensions: dict[str, Any],
    *,
    late: bool,
    first: bool,
) -> Line:
    component, quantity, unit_price, amount = charge
    when = f" in {group.period_start:%B %Y}" if late else ""
    qualities = f"{group.power_level}, own provider key" if group.byok else group.power_level
    name, unit = NAMES.get(component), "request" if component == "requests" else "token"
    if name is None:
        name, unit = UNITS[group.unit]
    return Line(
        id=group.line_id if first else uuid7(),
        kind="adjustment" if late else "usage",
        description=f"{group.subject}: {name}{when} ({qualities})",
        subscription_id=group.subscription_id,
        quantity=quantity,
        unit=unit,
        unit_price=unit_price,
        exact_amount=amount,
        period_start=group.period_start,
        period_end=group.period_end,
        component=component,
        price_id=group.price_id,
        usage_line_id=group.line_id,
        event_count=group.event_count,
        first_event_at=group.first_event_at,
        last_event_at=group.last_event_at,
        checksum=group.checksum,
        dimensions=dimensions,
    )


def charge_line(charge: Charge) -> Line:
    """Return the line of a plan's charge. Its key makes sure that it is charged once for ever."""
    return Line(
        id=uuid7(),
        kind=charge.kind,
        description=charge.description,
        subscription_id=charge.subscription_id,
        quantity=charge.quantity,
        unit=charge.unit,
        unit_price=charge.unit_price,
        exact_amount=charge.amount,
        period_start=charge.period_start,
        period_end=charge.period_end,
        charge_key=charge.key,
        dimensions=dict(charge.metadata),
    )


def carried_over(amount: Decimal) -> Line:
    """Return the line by which an invoice that would be negative by `amount` comes to nothing: the next one takes it off."""
    return _one("carried", "Credit carried over to the next invoice", amount)


def carried_in(line_id: UUID, number: str, amount: Decimal) -> Line:
    """Return the line that takes off what an earlier invoice carried over, on its line `line_id`. Once: it is the key."""
    return _one("carried", f"Credit carried over from {number}", -amount, charge_key=f"carried:{line_id}")


def set_off_line(note: Mapping[str, Any], amount: Decimal) -> Line:
    """Return the line that takes off what corrected usage gives back and a credit note gave before; `note` is as `noted_lines` reads it."""
    facts = {**json.loads(note["dimensions"]), "component": note["component"], "credit_note": note["number"]}
    return Line(
        id=uuid7(), kind="adjustment", description=f"Given back already by {note['number']}: {note['description']}", quantity=1,
        unit="correction", unit_price=amount, exact_amount=amount, subscription_id=note["subscription_id"],
        period_start=note["period_start"], period_end=note["period_end"], dimensions=facts,
    )  # fmt: skip


def grant_line(name: str, amount: Decimal, grant_id: UUID) -> Line:
    """Return the line that takes off what a grant pays."""
    return _one("credit", f"Credit: {name}", -amount, dimensions={"grant": str(grant_id)})


def _one(kind: LineKind, description: str, amount: Decimal, **fields: Any) -> Line:
    return Line(
        id=uuid7(), kind=kind, description=description, quantity=1, unit="credit", unit_price=amount, exact_amount=amount, **fields
    )  # fmt: skip

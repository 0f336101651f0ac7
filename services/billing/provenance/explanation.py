"""What an explanation says, and the rating of events anew that it rests on (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from services.billing.rating.rating import COMPONENTS, Component, Price, component_amounts
from services.billing.rating.usage import Quantities
from shared.money import exact

QUANTITIES: Final = [field.name for field in fields(Quantities)]


@dataclass(frozen=True, slots=True)
class PriceUsed:
    """A price version and factor, and what it came to for the events behind a line or a debit."""

    price: Price
    multiplier: Decimal
    events: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is behind a line or a debit. `recomputed` is rated anew from the events and must be `stated`, to the last digit.

    `problems` says loudly what does not agree. `events` are the first ones in order of time, `event_count` counts all; one that a
    reversal takes back counts against it. `origins` are ranges of broker offsets.
    """

    kind: str
    id: UUID
    title: str
    currency: str
    stated: Decimal
    recomputed: Decimal
    event_count: int
    first_event_at: datetime | None
    last_event_at: datetime | None
    formula: str
    prices: Sequence[PriceUsed]
    origins: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    problems: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether the events give exactly what was billed."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Events rated anew: what they come to by component, and by price and factor."""

    events: int
    first_event_at: datetime | None
    last_event_at: datetime | None
    components: Mapping[Component, Decimal]
    prices: Sequence[PriceUsed]

    @property
    def amount(self) -> Decimal:
        """The sum over the components."""
        with exact():
            return sum(self.components.values(), Decimal(0))


def recompute(sums: Iterable[Mapping[str, Any]], prices: Mapping[UUID, Price]) -> Recomputed:
    """Rate sums of events. Each has `price_id`, `multiplier`, `status_class` and the fields of `Quantities`."""
    components: dict[Component, Decimal] = dict.fromkeys(COMPONENTS, Decimal(0))
    by_price: dict[tuple[UUID, Decimal], tuple[int, Decimal]] = {}
    events, whole = 0, Quantities()
    for row in sums:
        used = Quantities(**{name: row[name] for name in QUANTITIES})
        price, multiplier = prices[row["price_id"]], row["multiplier"]
        amounts = component_amounts(used, row["status_class"], price, multiplier)
        with exact():
            for component, amount in amounts.items():
                components[component] += amount
            count, sum_ = by_price.get((price.id, multiplier), (0, Decimal(0)))
            by_price[price.id, multiplier] = count + used.requests, sum_ + sum(amounts.values(), Decimal(0))
        events += used.requests
        whole.widen(used)
    used_prices = [PriceUsed(prices[id_], m, count, sum_) for (id_, m), (count, sum_) in by_price.items()]
    used_prices.sort(key=lambda p: (p.price.subject, p.price.valid_from, p.price.revision, p.multiplier))
    return Recomputed(events, whole.first_event_at, whole.last_event_at, components, used_prices)

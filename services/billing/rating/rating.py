"""Rating (pure): how a quantity of usage becomes an exact amount of money. Nothing is rounded here.

A price is looked up by what was used and by the hour of the event, so that rating gives the same whenever and in
whatever batches usage arrives. An amount is linear in the quantities: rating a sum gives the sum of the ratings.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, NamedTuple
from uuid import UUID

from shared.contracts import UsageDelta
from shared.money import exact

Component = Literal["requests", "input", "cached_input", "output"]
COMPONENTS: Final[tuple[Component, ...]] = ("requests", "input", "cached_input", "output")
"""What a price charges for, in the order in which an invoice lists it."""

Unrated = Literal["no_price", "unknown_power_level"]
"""Why usage is held unrated: it waits for reference data and is never billed at zero."""

ONE_TOKEN_OF_1K: Final = Decimal("0.001")
OK_CLASS: Final = 2


@dataclass(frozen=True, slots=True)
class Price:
    """One version of the price of a model, tool or feature, in force in `[valid_from, valid_to)`, which lie on hours.

    Prices are per 1,000 tokens and per request, in `currency`. Cached input tokens cost `cached_input_per_1k`.
    """

    id: UUID
    kind: str
    subject: str
    currency: str
    valid_from: datetime
    valid_to: datetime | None
    input_per_1k: Decimal = Decimal(0)
    output_per_1k: Decimal = Decimal(0)
    cached_input_per_1k: Decimal = Decimal(0)
    per_request: Decimal = Decimal(0)
    bills_errors: bool = False

    def unit_price(self, component: Component) -> Decimal:
        """Return the price of one request or one token, before factors."""
        match component:
            case "requests":
                return self.per_request
            case "input":
                return self.input_per_1k * ONE_TOKEN_OF_1K
            case "cached_input":
                return self.cached_input_per_1k * ONE_TOKEN_OF_1K
            case "output":
                return self.output_per_1k * ONE_TOKEN_OF_1K


class UsageKey(NamedTuple):
    """What distinguishes usage that may be rated differently. Text that was not given is ''; `hour` is UTC."""

    subscription_id: UUID
    hour: datetime
    model_id: str
    tool_name: str
    feature_type: str
    power_level: str
    byok: bool
    status_class: int


@dataclass(slots=True)
class Quantities:
    """How much was used: sums over `requests` events between `first_event_at` and `last_event_at`."""

    requests: int = 0
    errors: int = 0
    request_tokens: int = 0
    response_tokens: int = 0
    cached_tokens: int = 0
    first_event_at: datetime | None = None
    last_event_at: datetime | None = None

    def add(self, delta: UsageDelta) -> None:
        """Add one delta."""
        self.requests += delta.requests
        self.errors += delta.errors
        self.request_tokens += delta.request_tokens
        self.response_tokens += delta.response_tokens
        self.cached_tokens += delta.cached_tokens
        self.first_event_at = _earlier(self.first_event_at, delta.first_event_at)
        self.last_event_at = _later(self.last_event_at, delta.last_event_at)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min(one, other) if one and other else one or other


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max(one, other) if one and other else one or other


def merge(deltas: Iterable[UsageDelta]) -> dict[UsageKey, Quantities]:
    """Sum deltas by what rating distinguishes: api keys and providers do not matter to a price. Sorted by key."""
    merged: dict[UsageKey, Quantities] = {}
    for delta in deltas:
        key = UsageKey(
            delta.subscription_id, delta.hour, delta.model_id, delta.tool_name, delta.feature_type,
            delta.power_level, delta.byok, delta.status_class,
        )  # fmt: skip
        found = merged.get(key)
        if found is None:
            found = merged[key] = Quantities()
        found.add(delta)
    return dict(sorted(merged.items()))


def billed_quantity(component: Component, used: Quantities, status_class: int, price: Price) -> int:
    """Return how many requests or tokens the price charges for. Failed requests cost nothing unless the price says so."""
    if status_class != OK_CLASS and not price.bills_errors:
        return 0
    match component:
        case "requests":
            return used.requests
        case "input":
            return used.request_tokens - used.cached_tokens
        case "cached_input":
            return used.cached_tokens
        case "output":
            return used.response_tokens


class Rated(NamedTuple):
    """The result of rating: the exact `amount` in `price.currency`, which is linear in the quantities, and what made it."""

    price: Price
    multiplier: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Factors:
    """What prices are multiplied by: the power level's factor and, for usage on the tenant's own provider key, `byok`."""

    power_levels: Mapping[str, Decimal]
    byok: Decimal

    def multiplier(self, key: UsageKey) -> Decimal | None:
        """Return the factor for a key, or None if nobody defined its power level."""
        level = self.power_levels.get(key.power_level)
        if level is None:
            return None
        return level * self.byok if key.byok else level


@dataclass(slots=True)
class PriceBook:
    """The price versions that are known, and the factors: answers what applied at an hour."""

    factors: Factors
    _versions: dict[tuple[str, str, str], list[Price]] = field(default_factory=dict)

    @classmethod
    def of(cls, prices: Iterable[Price], factors: Factors) -> PriceBook:
        """Build a book. Versions of one subject and currency must not overlap; the database sees to that."""
        book = cls(factors)
        for price in sorted(prices, key=lambda p: p.valid_from):
            book._versions.setdefault((price.kind, price.subject, price.currency), []).append(price)
        return book

    def find(self, kind: str, subject: str, currency: str, at: datetime) -> Price | None:
        """Return the version in force at `at`, or None."""
        versions = self._versions.get((kind, subject, currency), ())
        index = bisect_right(versions, at, key=lambda p: p.valid_from) - 1
        if index < 0:
            return None
        price = versions[index]
        return price if price.valid_to is None or at < price.valid_to else None

    def price_of(self, key: UsageKey, currency: str) -> Price | None:
        """Return what applies to a key: its model's price; for a call of a tool the tool's, else its feature's.

        A model without a price never falls back to another price: that would bill it wrongly in silence.
        """
        if key.model_id:
            return self.find("model", key.model_id, currency, key.hour)
        return self.find("tool", key.tool_name, currency, key.hour) or self.find(
            "feature", key.feature_type, currency, key.hour
        )


def rate(key: UsageKey, used: Quantities, currency: str, book: PriceBook) -> Rated | Unrated:
    """Rate usage of one key in the customer's currency; say why if it cannot be rated yet."""
    price = book.price_of(key, currency)
    if price is None:
        return "no_price"
    multiplier = book.factors.multiplier(key)
    if multiplier is None:
        return "unknown_power_level"
    return Rated(price, multiplier, amount(key, used, price, multiplier))


def amount(key: UsageKey, used: Quantities, price: Price, multiplier: Decimal) -> Decimal:
    """Return the exact price of a key's usage: quantity times unit price times factor, summed over the components."""
    with exact():
        base = sum(
            (price.unit_price(c) * billed_quantity(c, used, key.status_class, price) for c in COMPONENTS), Decimal(0)
        )
        return base * multiplier

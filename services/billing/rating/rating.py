"""Rating (pure): how a quantity of usage becomes an exact amount of money. Nothing is rounded here.

A price is looked up by what was used and by the hour of the event, so that rating gives the same whenever and in
whatever batches usage arrives. An amount is linear in the quantities: rating a sum gives the sum of the ratings.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, NamedTuple
from uuid import UUID

from services.billing.rating.usage import Payer, Quantities, UsageKey
from shared.money import exact

Component = Literal["requests", "input", "cached_input", "output", "units"]
COMPONENTS: Final[tuple[Component, ...]] = ("requests", "input", "cached_input", "output", "units")
Unit = Literal["second", "returned_token"]
"""What a price charges for, in the order in which an invoice lists it."""

ONE_TOKEN_OF_1K: Final = Decimal("0.001")
ONE_MS: Final = Decimal("0.001")
"""Of a second."""
OK_CLASS: Final = 2


@dataclass(frozen=True, slots=True)
class Price:
    """One version of the price of a model, tool or feature, in force in `[valid_from, valid_to)`, which lie on hours.

    Prices are per 1,000 tokens, per request and per `unit`, in `currency`: a second of the latency that gateways report, or a token that a
    tool returned. Cached input tokens cost `cached_input_per_1k`. `cost` is what the provider charges us, by component and for one request,
    token or unit, where that is known.
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
    cost: Mapping[Component, Decimal] | None = None
    revision: int = 0
    unit: Unit | None = None
    per_unit: Decimal = Decimal(0)

    def covers(self, at: datetime) -> bool:
        """Return whether `at` lies in its validity."""
        return self.valid_from <= at and (self.valid_to is None or at < self.valid_to)

    def unit_price(self, component: Component) -> Decimal:
        """Return the price of one request, token or unit, before factors."""
        match component:
            case "requests":
                return self.per_request
            case "input":
                return self.input_per_1k * ONE_TOKEN_OF_1K
            case "cached_input":
                return self.cached_input_per_1k * ONE_TOKEN_OF_1K
            case "output":
                return self.output_per_1k * ONE_TOKEN_OF_1K
            case "units":
                return self.per_unit


def billed_quantity(component: Component, used: Quantities, status_class: int, price: Price) -> int | Decimal:
    """Return how many requests, tokens or units the price charges for, exactly. Failed requests cost nothing unless the price says so."""
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
        case "units":
            return used.latency_ms * ONE_MS if price.unit == "second" else used.tokens_returned


class Rated(NamedTuple):
    """The result of rating: the exact `amount` in `price.currency`, which is linear in the quantities, and what made it."""

    price: Price
    multiplier: Decimal
    amount: Decimal
    cost: Decimal | None


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
    _revisions: dict[tuple[str, str, str], list[list[Price]]] = field(default_factory=dict)

    @classmethod
    def of(cls, prices: Iterable[Price], factors: Factors) -> PriceBook:
        """Build a book. Versions of one subject, currency and revision must not overlap; the database sees to that."""
        book = cls(factors)
        for price in sorted(prices, key=lambda p: (-p.revision, p.valid_from)):
            revisions = book._revisions.setdefault((price.kind, price.subject, price.currency), [])
            if not revisions or revisions[-1][0].revision != price.revision:
                revisions.append([])
            revisions[-1].append(price)
        return book

    @property
    def prices(self) -> list[Price]:
        """All versions."""
        return [price for revisions in self._revisions.values() for versions in revisions for price in versions]

    def find(self, kind: str, subject: str, currency: str, at: datetime) -> Price | None:
        """Return the version in force at `at`: of those that cover it the one of the highest revision; None if there is none."""
        for versions in self._revisions.get((kind, subject, currency), ()):
            index = bisect_right(versions, at, key=lambda p: p.valid_from) - 1
            if index >= 0 and versions[index].covers(at):
                return versions[index]
        return None

    def price_of(self, key: UsageKey, currency: str) -> Price | None:
        """Return what applies to a key: its model's price; for a call of a tool the tool's, else its feature's.

        A model without a price never falls back to another price: that would bill it wrongly in silence.
        """
        if key.model_id:
            return self.find("model", key.model_id, currency, key.hour)
        return self.find("tool", key.tool_name, currency, key.hour) or self.find(
            "feature", key.feature_type, currency, key.hour
        )


class RatedRow(NamedTuple):
    """Who used how much of what, and what it is worth; None for usage that is held unrated."""

    key: UsageKey
    used: Quantities
    payer: Payer
    rated: Rated | None


@dataclass(frozen=True, slots=True)
class Tariff:
    """A price as it applies to usage of one kind: what one of each component costs the customer, and costs us, where that is anything.

    Use it in `exact()`. What it makes of usage is what `rate` makes of it, at a quarter of the cost: tests hold them together.
    """

    price: Price
    multiplier: Decimal
    status_class: int
    amounts: Sequence[tuple[Component, Decimal]]
    costs: Sequence[tuple[Component, Decimal]] | None

    def rate(self, used: Quantities) -> Rated:
        """Return what usage is worth: quantity times unit price times factor, summed over the components."""
        return Rated(
            self.price,
            self.multiplier,
            self._sum(self.amounts, used),
            None if self.costs is None else self._sum(self.costs, used),
        )

    def _sum(self, each: Sequence[tuple[Component, Decimal]], used: Quantities) -> Decimal:
        total = Decimal(0)
        for component, unit in each:
            total += unit * billed_quantity(component, used, self.status_class, self.price)
        return total


def tariff_of(key: UsageKey, currency: str, book: PriceBook) -> Tariff | None:
    """Return what applies to usage of a key, in `exact()`. None: no price, or no such power level.

    On the tenant's own provider key the provider charges us nothing; where its prices are not known, `costs` is None.
    """
    price, multiplier = book.price_of(key, currency), book.factors.multiplier(key)
    if price is None or multiplier is None:
        return None
    amounts = [(component, price.unit_price(component) * multiplier) for component in COMPONENTS]
    costs = price.cost
    return Tariff(
        price,
        multiplier,
        key.status_class,
        [(component, unit) for component, unit in amounts if unit],
        None if costs is None else [] if key.byok else list(costs.items()),
    )


def rate_all(usage: Mapping[UsageKey, Quantities], payers: Mapping[UUID, Payer], book: PriceBook) -> list[RatedRow]:
    """Rate merged usage, each key in its payer's currency, in the order of the keys.

    Keys that differ in the subscription alone share their price and what its components cost after factors: looked up once.
    """
    tariffs: dict[tuple[object, ...], Tariff | None] = {}
    rows: list[RatedRow] = []
    with exact():
        for key, used in usage.items():
            payer = payers[key.subscription_id]
            shared = (payer.currency, *key[1:])
            if shared not in tariffs:
                tariffs[shared] = tariff_of(key, payer.currency, book)
            tariff = tariffs[shared]
            rows.append(RatedRow(key, used, payer, None if tariff is None else tariff.rate(used)))
    return rows


def held(rows: Sequence[RatedRow]) -> int:
    """Return how many events of `rows` could not be rated."""
    return sum(row.used.requests for row in rows if row.rated is None)


def rate(key: UsageKey, used: Quantities, currency: str, book: PriceBook) -> Rated | None:
    """Rate usage of one key in the customer's currency. None: no price, or no such power level. Never zero for want of one."""
    price, multiplier = book.price_of(key, currency), book.factors.multiplier(key)
    if price is None or multiplier is None:
        return None
    return Rated(price, multiplier, amount(key, used, price, multiplier), cost(key, used, price))


def amount(key: UsageKey, used: Quantities, price: Price, multiplier: Decimal) -> Decimal:
    """Return the exact price of a key's usage: quantity times unit price times factor, summed over the components."""
    with exact():
        return sum(component_amounts(used, key.status_class, price, multiplier).values(), Decimal(0))


def component_amounts(
    used: Quantities, status_class: int, price: Price, multiplier: Decimal
) -> dict[Component, Decimal]:
    """Return the exact price of usage of one status class by component: quantity times unit price times factor."""
    with exact():
        return {
            component: price.unit_price(component) * billed_quantity(component, used, status_class, price) * multiplier
            for component in COMPONENTS
        }


def cost(key: UsageKey, used: Quantities, price: Price) -> Decimal | None:
    """Return what the provider charges us for a key's usage: nothing on the tenant's own key; None where it is not known."""
    if price.cost is None:
        return None
    if key.byok:
        return Decimal(0)
    with exact():
        return sum(
            (each * billed_quantity(c, used, key.status_class, price) for c, each in price.cost.items()), Decimal(0)
        )

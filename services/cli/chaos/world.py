"""Who uses what at which price in a run (pure): the harness' own customers, models and prices, so that it can tell what is owed.

Ids follow from the seed. Prices and factors are written into the database from here, never read from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Final, Literal
from uuid import UUID, uuid5

from shared.period import day_start

NAMESPACE: Final = UUID("9a3c1f52-7d0e-5b7c-8d5a-2f1e6c4b9a10")
DAYS: Final = 12
"""Event times lie on today and on the days before it."""
CURRENCY: Final = "USD"
CREDITS_PER_UNIT: Final = 10

POWER_LEVELS: Final = (("balanced", Decimal(1)), ("eco", Decimal("0.8")), ("precision", Decimal("1.5")))
POSTPAID: Final = 26
PREPAID: Final = 10
POOR: Final = 3
"""Of the prepaid customers, those whose credits do not last."""
LATECOMERS: Final = 3
STRANGERS: Final = 4
QUOTA: Final = 400
"""Requests that some subscriptions may make: fewer than they do."""

Standing = Literal["known", "latecomer", "stranger"]
_LATE: Final[Standing] = "latecomer"
_NEVER: Final[Standing] = "stranger"


@dataclass(frozen=True, slots=True)
class Rate:
    """Prices per 1,000 tokens, and per request."""

    input: Decimal = Decimal(0)
    cached: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    request: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Item:
    """A model or a tool, what it costs, and what it costs from `CHANGE_DAY` on."""

    name: str
    rate: Rate
    later: Rate | None = None
    tool: bool = False


def _rate(input_: str, cached: str, output: str, request: str = "0") -> Rate:
    return Rate(Decimal(input_), Decimal(cached), Decimal(output), Decimal(request))


CHANGE_DAY: Final = 2
"""The day, counted from the first one, at whose beginning prices change and quota periods begin."""
ITEMS: Final = (
    Item("chaos-large", _rate("0.003", "0.0003", "0.015"), _rate("0.0027", "0.0003", "0.0137")),
    Item("chaos-small", _rate("0.00015", "0.000075", "0.0006", "0.0001")),
    Item("chaos-odd", _rate("0.00033333", "0.000111111", "0.00077777")),
    Item("chaos-lookup", _rate("0", "0", "0", "0.0005"), tool=True),
)


@dataclass(frozen=True, slots=True)
class Customer:
    """A user who pays: prepaid with `credits`, or by invoice (None)."""

    id: UUID
    name: str
    credits: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription with its habits: the item and power level of most of its events, whether on its own provider key."""

    number: int
    id: UUID
    customer: Customer
    item: int
    power: int
    byok: bool
    key_hash: str | None
    quota: int | None
    standing: Standing


@dataclass(frozen=True, slots=True)
class World:
    """Everybody, and the days of the run: the first one begins at `start`, the last one holds `now`."""

    seed: int
    now: datetime
    start: datetime
    subscriptions: Sequence[Subscription]

    @property
    def change(self) -> datetime:
        """When prices change and quota periods begin."""
        return self.start + timedelta(days=CHANGE_DAY)

    @property
    def run(self) -> str:
        """The name in the sources of this run's events."""
        return f"/chaos/{self.seed}"

    def of(self, *standings: Standing) -> list[Subscription]:
        """Return the subscriptions that are known, not yet, or never."""
        return [s for s in self.subscriptions if s.standing in standings]


def make_world(seed: int, now: datetime) -> World:
    """Return the customers of a seed, as of `now`."""
    paying = [_customer(seed, n, None) for n in range(POSTPAID)]
    paying += [_customer(seed, POSTPAID + n, Decimal(2) if n < POOR else Decimal(10_000_000)) for n in range(PREPAID)]
    subscriptions = [_subscription(seed, n, customer, "known") for n, customer in enumerate(paying)]
    newcomers = [_LATE] * LATECOMERS + [_NEVER] * STRANGERS
    for number, standing in enumerate(newcomers, len(subscriptions)):
        subscriptions.append(_subscription(seed, number, _customer(seed, number, None), standing))
    return World(seed, now, day_start(now) - timedelta(days=DAYS), subscriptions)


def _customer(seed: int, number: int, prepaid: Decimal | None) -> Customer:
    return Customer(uuid5(NAMESPACE, f"{seed}/customer/{number}"), f"chaos-{seed}-{number}", prepaid)


def _subscription(seed: int, number: int, customer: Customer, standing: Standing) -> Subscription:
    id_ = uuid5(NAMESPACE, f"{seed}/subscription/{number}")
    keyed = standing == "known" and number % 4 == 0
    return Subscription(
        number, id_, customer, item=number % 3, power=(number // 3) % 3, byok=number % 9 == 5,
        key_hash=sha256(id_.bytes).hexdigest() if keyed else None,
        quota=QUOTA if standing == "known" and number % 7 == 3 else None, standing=standing,
    )  # fmt: skip

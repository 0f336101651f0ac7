"""Meters (pure): what of an interval's usage is counted, and what it costs beyond what a plan includes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, cast

from services.billing.plans.tiers import ZERO, Tier, graduated, package, packages, volume
from shared.errors import ConfigurationError

Measure = Literal["requests", "tokens", "input_tokens", "output_tokens", "returned_tokens", "seconds"]
MEASURES: Final[Mapping[Measure, str]] = {
    "requests": "request",
    "tokens": "token",
    "input_tokens": "input token",
    "output_tokens": "output token",
    "returned_tokens": "returned token",
    "seconds": "second",
}
"""What a meter can count, with the name of one of it."""
MODES: Final = ("graduated", "volume", "package")
_METER_FIELDS: Final = {
    "key", "name", "measure", "included", "mode", "tiers", "package_size", "package_price", "models", "tools", "features",
}  # fmt: skip
_ONE_MS: Final = Decimal("0.001")


class TermsRefused(ConfigurationError):
    """A plan cannot be what is written of it; the message says where and why."""


@dataclass(frozen=True, slots=True)
class UsageSum:
    """What one interval has of one model, tool and feature: successful requests, their tokens and milliseconds; `amount` is what all was rated at."""

    model_id: str
    tool_name: str
    feature_type: str
    requests: int
    request_tokens: int
    response_tokens: int
    returned_tokens: int
    latency_ms: int
    amount: Decimal
    events: int


@dataclass(frozen=True, slots=True)
class Meter:
    """Counts one measure of an interval's usage, of all of it or of some models, tools or features, and prices what exceeds `included`."""

    key: str
    name: str
    measure: Measure
    included: Decimal
    mode: str
    tiers: tuple[Tier, ...] = ()
    package_size: Decimal = Decimal(1)
    package_price: Decimal = ZERO
    models: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()

    def counts(self, usage: UsageSum) -> bool:
        """Tell whether usage is of what this meter is for; one that names nothing is for all."""
        if not (self.models or self.tools or self.features):
            return True
        return usage.model_id in self.models or usage.tool_name in self.tools or usage.feature_type in self.features

    def quantity(self, sums: Iterable[UsageSum]) -> Decimal:
        """Return how much it counts."""
        return sum((self._measured(usage) for usage in sums if self.counts(usage)), ZERO)

    def _measured(self, usage: UsageSum) -> Decimal:
        match self.measure:
            case "requests":
                return Decimal(usage.requests)
            case "tokens":
                return Decimal(usage.request_tokens + usage.response_tokens)
            case "input_tokens":
                return Decimal(usage.request_tokens)
            case "output_tokens":
                return Decimal(usage.response_tokens)
            case "returned_tokens":
                return Decimal(usage.returned_tokens)
            case "seconds":
                return usage.latency_ms * _ONE_MS

    def price(self, excess: Decimal) -> Decimal:
        """Return the exact price of a quantity beyond what is included."""
        match self.mode:
            case "graduated":
                return graduated(excess, self.tiers)
            case "volume":
                return volume(excess, self.tiers)
            case _:
                return package(excess, self.package_size, self.package_price)

    def unit_price(self, excess: Decimal) -> tuple[Decimal, str, Decimal] | None:
        """Return quantity, unit and price of one unit where the price of `excess` is their product; None where it is not."""
        unit = MEASURES[self.measure]
        if self.mode == "package":
            return packages(excess, self.package_size), f"package of {self.package_size:,} {unit}s", self.package_price
        if len(self.tiers) == 1 and not self.tiers[0].flat:
            return excess, unit, self.tiers[0].unit_price
        return None


def read_meters(document: str | list[Any]) -> tuple[Meter, ...]:
    """Return the meters of a version, from its JSON. Raises `TermsRefused` that names the meter and what is wrong with it."""
    entries = json.loads(document, parse_float=Decimal, parse_int=Decimal) if isinstance(document, str) else document
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise TermsRefused("meters are a list of objects")
    meters = tuple(_meter(entry) for entry in entries)
    if len({meter.key for meter in meters}) != len(meters):
        raise TermsRefused("two meters have the same key: charges could not be told apart")
    return meters


def _meter(entry: Mapping[str, Any]) -> Meter:
    key = entry.get("key")
    if not isinstance(key, str) or not key or not set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-"):
        raise TermsRefused(f"a meter needs a key of small letters, digits, _ and -, not {key!r}")
    if unknown := entry.keys() - _METER_FIELDS:
        raise TermsRefused(f"meter {key}: '{min(unknown)}' is unknown; known are {', '.join(sorted(_METER_FIELDS))}")
    if entry.get("measure") not in MEASURES:
        raise TermsRefused(f"meter {key}: measure is {entry.get('measure')!r}; known are {', '.join(MEASURES)}")
    if entry.get("mode") not in MODES:
        raise TermsRefused(f"meter {key}: mode is {entry.get('mode')!r}; known are {', '.join(MODES)}")
    is_package = entry["mode"] == "package"
    if is_package == ("tiers" in entry) or is_package != ("package_size" in entry and "package_price" in entry):
        raise TermsRefused(
            f"meter {key}: graduated and volume have tiers, package has package_size and package_price instead"
        )
    included = read_amount(f"meter {key}: included", entry.get("included", 0))
    if included != included.to_integral_value():
        raise TermsRefused(f"meter {key}: included is {included}: whole units can be included")
    return Meter(
        key=key,
        name=str(entry.get("name", key)),
        measure=cast("Measure", entry["measure"]),
        included=included,
        mode=str(entry["mode"]),
        tiers=() if is_package else _tiers(key, entry["tiers"]),
        package_size=_size(key, entry["package_size"]) if is_package else Decimal(1),
        package_price=read_amount(f"meter {key}: package_price", entry["package_price"]) if is_package else ZERO,
        **{name: frozenset(_names(key, name, entry.get(name, []))) for name in ("models", "tools", "features")},
    )


def _tiers(key: str, entries: object) -> tuple[Tier, ...]:
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise TermsRefused(f"meter {key}: tiers are a list of at least one object")
    tiers, below = [], ZERO
    for number, entry in enumerate(entries, start=1):
        place = f"meter {key}: tier {number}"
        if entry.keys() - {"up_to", "unit_price", "flat"} or "unit_price" not in entry:
            raise TermsRefused(f"{place} has up_to, unit_price and flat, and nothing else")
        up_to = None if entry.get("up_to") is None else read_amount(f"{place}: up_to", entry["up_to"])
        if (up_to is None) != (number == len(entries)):
            raise TermsRefused(f"{place}: the last tier, and only that, is without up_to")
        if up_to is not None and up_to <= below:
            raise TermsRefused(f"{place}: up_to is {up_to}: above the tier before it is expected")
        below = up_to or below
        tiers.append(
            Tier(up_to, read_amount(f"{place}: unit_price", entry["unit_price"]), read_amount(f"{place}: flat", entry.get("flat", 0)))
        )  # fmt: skip
    return tuple(tiers)


def _size(key: str, given: object) -> Decimal:
    size = read_amount(f"meter {key}: package_size", given)
    if size <= 0:
        raise TermsRefused(f"meter {key}: package_size is {size}: above zero is expected")
    return size


def _names(key: str, name: str, given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(one, str) and one for one in given):
        raise TermsRefused(f"meter {key}: {name} is a list of names")
    return given


def read_amount(name: str, given: object) -> Decimal:
    """Return an exact number, not negative, within 12 digits before and 12 after the point. Raises `TermsRefused` that names it."""
    try:
        amount = Decimal(given) if isinstance(given, str | int | Decimal) and not isinstance(given, bool) else None
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite() or amount < 0:
        raise TermsRefused(f"{name} is {given!r}: a number from 0 on is expected, such as 0.0005")
    if amount.adjusted() >= 12 or amount != round(amount, 12):
        raise TermsRefused(f"{name} is {given}: more than 12 digits before or after the point")
    return amount

"""Usage as rating sees it (pure): what distinguishes it, how much it is, who pays for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple
from uuid import UUID

from shared.contracts import UsageDelta


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
    """How much was used: signed sums over `requests` events between `first_event_at` and `last_event_at`."""

    requests: int = 0
    errors: int = 0
    request_tokens: int = 0
    response_tokens: int = 0
    cached_tokens: int = 0
    tokens_returned: int = 0
    latency_ms: int = 0
    first_event_at: datetime | None = None
    last_event_at: datetime | None = None

    def add(self, delta: UsageDelta) -> None:
        """Add one delta."""
        self.requests += delta.requests
        self.errors += delta.errors
        self.request_tokens += delta.request_tokens
        self.response_tokens += delta.response_tokens
        self.cached_tokens += delta.cached_tokens
        self.tokens_returned += delta.tokens_returned
        self.latency_ms += delta.latency_sum_ms
        self.first_event_at = _earlier(self.first_event_at, delta.first_event_at)
        self.last_event_at = _later(self.last_event_at, delta.last_event_at)

    def widen(self, other: Quantities) -> None:
        """Let the span between the first and the last event hold that of others, too."""
        self.first_event_at = _earlier(self.first_event_at, other.first_event_at)
        self.last_event_at = _later(self.last_event_at, other.last_event_at)


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
    return dict(sorted(merged.items(), key=_by_subscription))


def _by_subscription(item: tuple[UsageKey, Quantities]) -> tuple[object, ...]:
    subscription_id, *rest = item[0]
    return subscription_id.int, *rest  # integers compare twice as fast as UUIDs, in the same order


class Payer(NamedTuple):
    """Who pays for a subscription's usage, how, in which currency. `balance` is what is left of prepaid credits."""

    user_id: UUID
    billing_mode: Literal["prepaid", "postpaid"]
    currency: str
    balance: Decimal = Decimal(0)

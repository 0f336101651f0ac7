"""Folds usage.recorded messages into what the database adds up (pure).

Everything but the order of a provider's failures is a sum or a maximum: the fold of any split of the messages, added up
in any order, is the fold of all of them. So a slice, a retry and a rebuild from `usage_logs` come to the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import add
from typing import Literal, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from msgspec import Struct

from services.aggregator.keys import KeyDay, days_of_keys, last_use_of_keys
from shared.contracts import LATENCY_BUCKET_COUNT, ProviderDelta, UsageDelta, UsageRecorded
from shared.period import day_start, month_start

PeriodType: TypeAlias = Literal["hour", "day", "month"]
UsageByHour: TypeAlias = Mapping[datetime, tuple[int, int]]
"""Requests and total tokens by the UTC hour of their event time."""


class UsageSums(Protocol):
    """Figures that can be added: those of a `UsageDelta`, or `Sums`. An empty histogram stands for all zeros."""

    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def request_tokens(self) -> int: ...
    @property
    def response_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def latency_sum_ms(self) -> int: ...
    @property
    def latency_count(self) -> int: ...
    @property
    def latency_histogram(self) -> list[int]: ...


_SumsByKey: TypeAlias = dict[tuple[int, datetime, str, str], UsageSums]
"""Figures by (subscription id as an integer, start of the period, model, tool)."""


class Sums(Struct, frozen=True, gc=False):
    """The figures of one summary row. Latencies in milliseconds; `total = request + response` tokens."""

    requests: int
    errors: int
    request_tokens: int
    response_tokens: int
    cached_tokens: int
    latency_sum_ms: int
    latency_count: int
    latency_histogram: list[int]


def plus(a: UsageSums, b: UsageSums) -> Sums:
    """Return the sum of two. Neither is changed, so that an hour's figures can be its day's and month's as well."""
    if not b.latency_histogram:
        histogram = a.latency_histogram
    elif not a.latency_histogram:
        histogram = b.latency_histogram
    else:
        histogram = list(map(add, a.latency_histogram, b.latency_histogram))
    return Sums(
        a.requests + b.requests,
        a.errors + b.errors,
        a.request_tokens + b.request_tokens,
        a.response_tokens + b.response_tokens,
        a.cached_tokens + b.cached_tokens,
        a.latency_sum_ms + b.latency_sum_ms,
        a.latency_count + b.latency_count,
        histogram,
    )


class SummaryRow(NamedTuple):
    """What to add to one row of usage_summaries. `model_id` or `tool_name` is '' where it does not apply."""

    subscription_id: UUID
    period_type: PeriodType
    period_start: datetime
    model_id: str
    tool_name: str
    sums: UsageSums


@dataclass(frozen=True, slots=True)
class Folded:
    """What a number of messages add. Everything is sorted by its key, so that two workers lock rows in one order."""

    summaries: Sequence[SummaryRow]
    usage: Mapping[UUID, UsageByHour]
    keys_used: Mapping[UUID, datetime]
    key_days: Sequence[KeyDay]
    providers: Sequence[ProviderDelta]
    rows_by_period: Mapping[PeriodType, int]
    deltas: int
    events: int


def check(message: UsageRecorded) -> None:
    """Raise `ValueError` for figures that no ingest could have made: times off their edge, histograms of another size."""
    for delta in message.deltas:
        at = delta.hour
        if at.tzinfo is not UTC or at.minute or at.second or at.microsecond:
            raise ValueError(f"{at.isoformat()} is not the start of a UTC hour")
        _check_histogram(delta.latency_histogram)
    for seen in message.providers:
        if seen.minute.tzinfo is not UTC or seen.minute.second or seen.minute.microsecond:
            raise ValueError(f"{seen.minute.isoformat()} is not the start of a UTC minute")
        _check_histogram(seen.latency_histogram)


def _check_histogram(histogram: list[int]) -> None:
    if histogram and len(histogram) != LATENCY_BUCKET_COUNT:
        raise ValueError(f"a histogram has {len(histogram)} buckets, not {LATENCY_BUCKET_COUNT}")


def fold(messages: Sequence[UsageRecorded]) -> Folded:
    """Add messages up: hour rows, the day and month rows that follow from them, and usage by subscription and hour.

    The messages have passed `check`.
    """
    hours: _SumsByKey = {}
    subscriptions: dict[int, UUID] = {}
    for message in messages:
        _add_deltas(hours, subscriptions, message.deltas)
    summaries, usage = _summarise(hours, subscriptions)
    return Folded(
        summaries=summaries,
        usage=usage,
        keys_used=last_use_of_keys(delta for message in messages for delta in message.deltas),
        key_days=days_of_keys(delta for message in messages for delta in message.deltas),
        providers=fold_providers(seen for message in messages for seen in message.providers),
        rows_by_period=Counter(row.period_type for row in summaries),
        deltas=sum(len(message.deltas) for message in messages),
        events=sum(message.event_count for message in messages),
    )


def _add_deltas(hours: _SumsByKey, subscriptions: dict[int, UUID], deltas: Iterable[UsageDelta]) -> None:
    """Add deltas to the figures of their hours. Keys hold the id's integer: a UUID hashes and compares in Python."""
    for delta in deltas:
        subscription = delta.subscription_id.int
        key = (subscription, delta.hour, delta.model_id, delta.tool_name)
        before = hours.get(key)
        if before is None:
            hours[key] = delta
            subscriptions[subscription] = delta.subscription_id
        else:
            hours[key] = plus(before, delta)


def _summarise(
    hours: _SumsByKey, subscriptions: Mapping[int, UUID]
) -> tuple[list[SummaryRow], dict[UUID, dict[datetime, tuple[int, int]]]]:
    """Return all summary rows, and usage by subscription and hour, from the figures of hours."""
    hours = {key: hours[key] for key in sorted(hours)}
    days = _coarser(hours, day_start)
    months = _coarser(days, month_start)
    periods: tuple[tuple[PeriodType, _SumsByKey], ...] = (("hour", hours), ("day", days), ("month", months))
    rows = [
        SummaryRow(subscriptions[subscription], period_type, start, model, tool, sums)
        for period_type, by_key in periods
        for (subscription, start, model, tool), sums in by_key.items()
    ]
    usage: dict[UUID, dict[datetime, tuple[int, int]]] = {}
    for (subscription, hour, _, _), sums in hours.items():
        of_subscription = usage.setdefault(subscriptions[subscription], {})
        requests, tokens = of_subscription.get(hour, (0, 0))
        of_subscription[hour] = (requests + sums.requests, tokens + sums.request_tokens + sums.response_tokens)
    return rows, usage


def _coarser(finer: _SumsByKey, start_of: Callable[[datetime], datetime]) -> _SumsByKey:
    """Add the figures of hours up to days, or of days to months; sorted by key."""
    starts: dict[datetime, datetime] = {}
    coarser: _SumsByKey = {}
    for (subscription, at, model, tool), sums in finer.items():
        start = starts.get(at)
        if start is None:
            start = starts[at] = start_of(at)
        key = (subscription, start, model, tool)
        before = coarser.get(key)
        coarser[key] = sums if before is None else plus(before, sums)
    return {key: coarser[key] for key in sorted(coarser)}


def fold_providers(seen: Iterable[ProviderDelta]) -> list[ProviderDelta]:
    """Return one observation for each provider and minute, of observations in the order of their partition."""
    providers: dict[tuple[str, datetime], ProviderDelta] = {}
    for then in seen:
        place = (then.provider, then.minute)
        before = providers.get(place)
        providers[place] = then if before is None else observe(before, then)
    return [providers[place] for place in sorted(providers)]


def observe(before: ProviderDelta, then: ProviderDelta) -> ProviderDelta:
    """Return what two observations of one provider and minute say together; `then` follows `before` in the partition."""
    succeeded = then.last_success_at is not None
    return ProviderDelta(
        provider=before.provider,
        minute=before.minute,
        requests=before.requests + then.requests,
        errors=before.errors + then.errors,
        rate_limited=before.rate_limited + then.rate_limited,
        latency_sum_ms=before.latency_sum_ms + then.latency_sum_ms,
        latency_count=before.latency_count + then.latency_count,
        latency_histogram=list(map(add, full(before.latency_histogram), full(then.latency_histogram))),
        last_success_at=latest(before.last_success_at, then.last_success_at),
        last_failure_at=latest(before.last_failure_at, then.last_failure_at),
        trailing_failures=then.trailing_failures + (0 if succeeded else before.trailing_failures),
    )


def full(histogram: list[int]) -> list[int]:
    """Return a histogram with all its buckets: an empty one is left out of a message."""
    return histogram or [0] * LATENCY_BUCKET_COUNT


def latest(*times: datetime | None) -> datetime | None:
    """Return the last of those that are given."""
    return max((at for at in times if at is not None), default=None)

"""Folds usage.recorded messages into what the database adds up (pure).

Everything but the order of a provider's failures is a sum or a maximum: the fold of any split of the messages, added up
in any order, is the fold of all of them. So a slice, a retry and a rebuild from `usage_logs` come to the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, groupby
from operator import add, itemgetter
from typing import Literal, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from msgspec import Struct

from services.aggregator.keys import KeyDay, days_of_keys, last_use_of_keys
from services.aggregator.uses import UseKey, by_use
from shared.contracts import LATENCY_BUCKET_COUNT, ProviderDelta, UsageRecorded
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


_HourKey: TypeAlias = tuple[int, str, str, datetime]
"""Subscription id as an integer, model, tool, hour."""
_SumsByHour: TypeAlias = dict[_HourKey, UsageSums]
_Use: TypeAlias = tuple[UseKey, UsageSums]
_UsesOfHours: TypeAlias = dict[_HourKey, list[_Use]]
_Hours: TypeAlias = Sequence[tuple[datetime, UsageSums]]
_Finer: TypeAlias = list[tuple[datetime | None, datetime | None, UsageSums]]
_Rows: TypeAlias = list[tuple[datetime | None, datetime | None, datetime | None, UsageSums]]


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


def total(parts: Sequence[UsageSums]) -> UsageSums:
    """Return the sum of one or more. None of them is changed, so that an hour's figures can be its day's and month's as well."""
    if len(parts) == 1:
        return parts[0]
    requests = errors = request_tokens = response_tokens = cached_tokens = latency_sum_ms = latency_count = 0
    histogram: Iterable[int] = ()
    for part in parts:
        requests += part.requests
        errors += part.errors
        request_tokens += part.request_tokens
        response_tokens += part.response_tokens
        cached_tokens += part.cached_tokens
        latency_sum_ms += part.latency_sum_ms
        latency_count += part.latency_count
        if part.latency_histogram:
            histogram = map(add, histogram, part.latency_histogram) if histogram else part.latency_histogram
    return Sums(
        requests, errors, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, list(histogram)
    )


class Summary(NamedTuple):
    """What to add to the rows of usage_summaries of one model or tool, '' where it does not apply: the same to its `hour`, `day` and
    `month`, or to those that are given; and to that of a `use` in usage_hours. Usage of a single hour is all there is of its day and its
    month, usage of a single kind is all there is of its hour, and so mostly all of it comes once."""

    subscription_id: UUID
    model_id: str
    tool_name: str
    hour: datetime | None
    day: datetime | None
    month: datetime | None
    sums: UsageSums
    use: UseKey | None = None

    def rows(self) -> Iterator[tuple[PeriodType, datetime]]:
        """Yield type and start of the period of each row, in the order in which all lock them."""
        if self.hour is not None:
            yield "hour", self.hour
        if self.day is not None:
            yield "day", self.day
        if self.month is not None:
            yield "month", self.month


@dataclass(frozen=True, slots=True)
class Folded:
    """What a number of messages add. Everything is sorted by its key, so that two workers lock rows in one order; but for uses of one
    hour, each of which is written by who holds the row of that hour already."""

    summaries: Sequence[Summary]
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
    """Add messages up: hours of each use, the summaries that follow from them, and usage by subscription and hour.

    The messages have passed `check`.
    """
    deltas, subscriptions = by_use(chain.from_iterable(message.deltas for message in messages))
    uses = _uses_of_hours((use, total(parts)) for use, parts in deltas.items())
    hours = {hour: total([sums for _, sums in uses[hour]]) for hour in sorted(uses)}
    summaries = _summarise(hours, uses, subscriptions)
    return Folded(
        summaries=summaries,
        usage=_usage_by_hour(hours, subscriptions),
        keys_used=last_use_of_keys(delta for message in messages for delta in message.deltas),
        key_days=days_of_keys(delta for message in messages for delta in message.deltas),
        providers=fold_providers(seen for message in messages for seen in message.providers),
        rows_by_period=Counter(period_type for summary in summaries for period_type, _ in summary.rows()),
        deltas=sum(len(message.deltas) for message in messages),
        events=sum(message.event_count for message in messages),
    )


def _uses_of_hours(uses: Iterable[_Use]) -> _UsesOfHours:
    """Return uses by the hour of their model and tool."""
    hours: _UsesOfHours = {}
    for use in uses:
        key = use[0]
        hours.setdefault((key[0], key[3], key[4], key[1]), []).append(use)
    return hours


def _summarise(hours: _SumsByHour, uses: _UsesOfHours, subscriptions: Mapping[int, UUID]) -> list[Summary]:
    """Return what to add to all rows, from the figures of hours, sorted by key: each hour, then its day, then their month. With an hour comes
    the use that is all of it, or behind it those that it is the sum of."""
    found: list[Summary] = []
    starts: dict[datetime, tuple[datetime, datetime]] = {}
    for (subscription, model, tool), keys in groupby(hours, key=itemgetter(0, 1, 2)):
        owner, mine = subscriptions[subscription], [(key[3], hours[key]) for key in keys]
        if len(mine) == 1:  # nearly always
            hour, sums = mine[0]
            if hour not in starts:
                starts[hour] = day_start(hour), month_start(hour)
            rows: _Rows = [(hour, *starts[hour], sums)]
        else:
            rows = _rows(mine)
        for row in rows:
            of_hour = () if row[0] is None else uses[subscription, model, tool, row[0]]
            found.append(Summary(owner, model, tool, *row, of_hour[0][0] if len(of_hour) == 1 else None))
            if len(of_hour) > 1:
                found += [Summary(owner, model, tool, None, None, None, sums, use) for use, sums in of_hour]
    return found


def _rows(hours: _Hours) -> _Rows:
    """Return (hour, day, month, figures) of one model's hours, their days and months."""
    found: _Rows = []
    for month, of_month in _by_start(hours, month_start):
        *finer, (hour, day, sums) = _of_month(of_month)
        found += [(*each[:2], None, each[2]) for each in finer]
        found.append((hour, day, month, sums))
    return found


def _of_month(hours: _Hours) -> _Finer:
    """Return (hour, day, figures) of one month's hours and days, where they have rows of their own; the last are the month's."""
    days = [_of_day(day, of_day) for day, of_day in _by_start(hours, day_start)]
    if len(days) == 1:
        return days[0]
    return [*chain.from_iterable(days), (None, None, total([of_day[-1][2] for of_day in days]))]


def _of_day(day: datetime, hours: _Hours) -> _Finer:
    """Return (hour, day, figures) of one day's hours; the last are the day's."""
    if len(hours) == 1:
        return [(hours[0][0], day, hours[0][1])]
    return [*((hour, None, sums) for hour, sums in hours), (None, day, total([sums for _, sums in hours]))]


def _by_start(hours: _Hours, start_of: Callable[[datetime], datetime]) -> list[tuple[datetime, _Hours]]:
    """Return hours by the day or month that they are of. It is a single one nearly always."""
    if len(hours) == 1:
        return [(start_of(hours[0][0]), hours)]
    return [(start, list(of)) for start, of in groupby(hours, key=lambda hour: start_of(hour[0]))]


def _usage_by_hour(
    hours: _SumsByHour, subscriptions: Mapping[int, UUID]
) -> dict[UUID, dict[datetime, tuple[int, int]]]:
    """Return usage by subscription and hour, over all models and tools, subscriptions sorted."""
    usage: dict[UUID, dict[datetime, tuple[int, int]]] = {}
    for (subscription, _, _, hour), sums in hours.items():
        of_subscription = usage.setdefault(subscriptions[subscription], {})
        requests, tokens = of_subscription.get(hour, (0, 0))
        of_subscription[hour] = (requests + sums.requests, tokens + sums.request_tokens + sums.response_tokens)
    return usage


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

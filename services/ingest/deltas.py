"""Pre-aggregation (pure): what a batch's new rows add, by key and hour, and by provider and minute.

Sums only: adding the deltas of any split of the rows gives the deltas of the whole.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec

from services.ingest.rows import UsageRow
from shared.contracts import LATENCY_BUCKET_COUNT, LATENCY_BUCKETS_MS, ProviderDelta, UsageDelta, youngest_event
from shared.period import HOUR

RATE_LIMITED = 429
MOST_RESERVATIONS = 2_000
"""Most reservations that one delta names (39 bytes each): a message can be split between deltas only."""
_MINUTE = timedelta(minutes=1)
_NEVER = datetime.min.replace(tzinfo=UTC)


class Sums(NamedTuple):
    """What rows add up to."""

    deltas: list[UsageDelta]
    providers: list[ProviderDelta]

    @property
    def youngest(self) -> datetime | None:
        """When the last of the events was."""
        return youngest_event(self.deltas)

    def decoded(self) -> Sums:
        """Return them as they are."""
        return self


@dataclass(frozen=True, slots=True)
class EncodedSums:
    """The same as JSON: objects with commas between them."""

    deltas_json: bytes
    providers_json: bytes
    events: int
    youngest: datetime | None

    def decoded(self) -> Sums:
        """Return them as objects, where something is to be added or taken apart."""
        return Sums(_decode_deltas(b"[%b]" % self.deltas_json), _decode_providers(b"[%b]" % self.providers_json))


_decode_deltas = msgspec.json.Decoder(list[UsageDelta]).decode
_decode_providers = msgspec.json.Decoder(list[ProviderDelta]).decode


def aggregate(rows: Iterable[UsageRow]) -> Sums:
    """Return the deltas of `rows`, in the order in which their keys first appear; behind them those that name so many
    reservations that another of their key was begun.
    """
    deltas: dict[tuple[object, ...], UsageDelta] = {}
    full: list[UsageDelta] = []
    minutes: dict[tuple[str | None, datetime], list[UsageRow]] = {}
    hour = hour_end = minute = minute_end = _NEVER
    for row in rows:
        at, status = row.created_at, row.status_code
        if not minute <= at < minute_end:  # neighbours mostly share their minute: truncate once for all of them
            minute = at.replace(second=0, microsecond=0)
            minute_end = minute + _MINUTE
            if not hour <= at < hour_end:
                hour = minute.replace(minute=0)
                hour_end = hour + HOUR
        status_class = 2 if status < 400 else status // 100
        key = (
            row.subscription_id, hour, row.model_id, row.tool_name, row.power_level, row.byok, status_class,
            row.api_key_id, row.provider or "", row.feature_type or "", row.app_id or "",
        )  # fmt: skip
        delta = deltas.get(key)
        if delta is None:
            delta = deltas[key] = _new_delta(row, hour, status_class)
        delta.requests += 1
        delta.request_tokens += row.request_tokens
        delta.response_tokens += row.response_tokens
        delta.cached_tokens += row.cached_tokens
        if status_class != 2:
            delta.errors += 1
        if row.tokens_returned:
            delta.tokens_returned += row.tokens_returned
        latency = row.latency_ms
        if latency is not None:
            delta.latency_sum_ms += latency
            delta.latency_count += 1
            delta.latency_histogram[bisect_left(LATENCY_BUCKETS_MS, latency)] += 1
        if row.reservation_id and _name(delta, row.reservation_id):
            full.append(deltas.pop(key))
        if at < delta.first_event_at:  # type: ignore[operator]  # set by _new_delta
            delta.first_event_at = at
        elif at > delta.last_event_at:  # type: ignore[operator]
            delta.last_event_at = at
        seen = minutes.get((row.provider, minute))
        if seen is None:
            seen = minutes[row.provider, minute] = []
        seen.append(row)
    observed = [_observe(provider, minute, seen) for (provider, minute), seen in minutes.items() if provider]
    return Sums([*deltas.values(), *full], observed)


def merge(deltas: Iterable[UsageDelta]) -> list[UsageDelta]:
    """Add up deltas of one key, but for those that would name too many reservations."""
    merged: dict[tuple[object, ...], UsageDelta] = {}
    full: list[UsageDelta] = []
    for delta in deltas:
        key = _key(delta)
        same = merged.get(key)
        if same is not None and len(same.reservations) + len(delta.reservations) > MOST_RESERVATIONS:
            full.append(merged.pop(key))
            same = None
        if same is None:
            merged[key] = delta
        else:
            same.reservations += delta.reservations
            _add(merged, delta)
    return [*merged.values(), *full]


def corrected(added: Sums, replaced: Sequence[UsageRow], reversed_: Sequence[UsageRow]) -> Sums:
    """Return the deltas of a batch: `replaced` is added to what its own rows add up to, `reversed_`, the rows that were taken
    back, is subtracted.

    Sums may be negative, or nothing. A correction observes no provider, and what is taken back settles no reservation.
    """
    if not replaced and not reversed_:
        return added
    naming = [
        delta for delta in added.deltas if delta.reservations
    ]  # they stay as they are: adding to them might make them too large
    deltas = {_key(delta): delta for delta in added.deltas if not delta.reservations}
    for delta in aggregate(replaced)[0]:
        if delta.reservations:
            naming.append(delta)
        else:
            _add(deltas, delta)
    for delta in aggregate(reversed_)[0]:
        _add(deltas, _negated(delta))
    return Sums([*deltas.values(), *naming], added.providers)


_KEY = (
    "subscription_id", "hour", "api_key_id", "model_id", "tool_name", "provider", "feature_type", "power_level", "byok", "status_class",
    "app_id",
)  # fmt: skip
_SUMS = (
    "requests", "errors", "request_tokens", "response_tokens", "cached_tokens", "tokens_returned", "latency_sum_ms", "latency_count",
    "reversals",
)  # fmt: skip


def _key(delta: UsageDelta) -> tuple[object, ...]:
    return tuple(getattr(delta, name) for name in _KEY)


def _negated(delta: UsageDelta) -> UsageDelta:
    """Return what takes back all that a delta added."""
    sums = {name: -getattr(delta, name) for name in _SUMS}
    histogram = [-count for count in delta.latency_histogram]
    changed = {**sums, "latency_histogram": histogram, "reversals": delta.requests, "reservations": []}
    return msgspec.structs.replace(delta, **changed)


def _add(deltas: dict[tuple[object, ...], UsageDelta], more: UsageDelta) -> None:
    """Add to the delta of the same key, if there is one."""
    delta = deltas.setdefault(_key(more), more)
    if delta is more:
        return
    for name in _SUMS:
        setattr(delta, name, getattr(delta, name) + getattr(more, name))
    delta.latency_histogram = [a + b for a, b in zip(delta.latency_histogram, more.latency_histogram, strict=True)]
    delta.first_event_at = min(delta.first_event_at, more.first_event_at)  # type: ignore[type-var]  # set by _new_delta
    delta.last_event_at = max(delta.last_event_at, more.last_event_at)  # type: ignore[type-var]


def _name(delta: UsageDelta, reservation: str) -> bool:
    """Note the reservation that an event names, if that can be the id of one; return whether the delta names as many as it may."""
    with suppress(ValueError):
        delta.reservations.append(UUID(reservation))
    return len(delta.reservations) >= MOST_RESERVATIONS


def _new_delta(row: UsageRow, hour: datetime, status_class: int) -> UsageDelta:
    return UsageDelta(
        subscription_id=row.subscription_id,
        hour=hour,
        api_key_id=row.api_key_id,
        model_id=row.model_id or "",
        tool_name=row.tool_name or "",
        provider=row.provider or "",
        feature_type=row.feature_type or "",
        power_level=row.power_level,
        byok=row.byok,
        status_class=status_class,
        app_id=row.app_id or "",
        latency_histogram=[0] * LATENCY_BUCKET_COUNT,
        first_event_at=row.created_at,
        last_event_at=row.created_at,
    )


def _observe(provider: str, minute: datetime, rows: Sequence[UsageRow]) -> ProviderDelta:
    """Return what `rows`, all of one provider and minute, say about it."""
    histogram = [0] * LATENCY_BUCKET_COUNT
    latencies = [row.latency_ms for row in rows if row.latency_ms is not None]
    for latency in latencies:
        histogram[bisect_left(LATENCY_BUCKETS_MS, latency)] += 1
    failures = [row.created_at for row in rows if row.status_code >= 400]
    last_success = max((row.created_at for row in rows if row.status_code < 400), default=None)
    return ProviderDelta(
        provider=provider,
        minute=minute,
        requests=len(rows),
        errors=len(failures),
        rate_limited=sum(row.status_code == RATE_LIMITED for row in rows),
        latency_sum_ms=sum(latencies),
        latency_count=len(latencies),
        latency_histogram=histogram,
        last_success_at=last_success,
        last_failure_at=max(failures, default=None),
        trailing_failures=len(failures) if last_success is None else sum(at > last_success for at in failures),
    )

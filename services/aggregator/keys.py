"""What a number of deltas say of API keys (pure): what each used by UTC day, and when it was used last."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from shared.contracts import UsageDelta


class KeyDay(NamedTuple):
    """What to add to one UTC day of an API key."""

    subscription_id: UUID
    api_key_id: UUID
    day: date
    requests: int
    tokens: int


def last_use_of_keys(deltas: Iterable[UsageDelta]) -> dict[UUID, datetime]:
    """Return when each API key was last used."""
    used: dict[int, UsageDelta] = {}
    for delta in deltas:
        if delta.api_key_id is None or delta.last_event_at is None:
            continue
        before = used.get(delta.api_key_id.int)
        if before is None or before.last_event_at < delta.last_event_at:  # type: ignore[operator]  # kept with a time
            used[delta.api_key_id.int] = delta
    return {used[key].api_key_id: used[key].last_event_at for key in sorted(used)}  # type: ignore[misc]


def days_of_keys(deltas: Iterable[UsageDelta]) -> list[KeyDay]:
    """Return what each API key used by UTC day, in the order in which all lock the rows."""
    used: dict[tuple[int, int, date], list[int]] = {}
    for delta in deltas:
        if delta.api_key_id is None:
            continue
        sums = used.setdefault((delta.subscription_id.int, delta.api_key_id.int, delta.hour.date()), [0, 0])
        sums[0] += delta.requests
        sums[1] += delta.request_tokens + delta.response_tokens
    return [
        KeyDay(UUID(int=subscription), UUID(int=key), day, *used[subscription, key, day])
        for subscription, key, day in sorted(used)
    ]

"""What messages add to the hours of each use (pure): who used what, by which key, app and provider, and whether it failed.

The hours of summaries are sums over these, so that both come from one pass over the deltas.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple, TypeAlias
from uuid import UUID

from shared.contracts import UsageDelta

UseKey: TypeAlias = tuple[int, datetime, int, str, str, str, str, str, bool, bool, str]
"""Subscription and API key (0: none) as integers, with the hour between them, and the fields of a `Kind`."""


class Kind(NamedTuple):
    """What tells uses of one subscription, hour and API key from each other; '' where it was not said."""

    model_id: str
    tool_name: str
    provider: str
    feature_type: str
    power_level: str
    byok: bool
    failed: bool
    app_id: str


def by_use(deltas: Iterable[UsageDelta]) -> tuple[dict[UseKey, list[UsageDelta]], dict[int, UUID]]:
    """Return the deltas of each use, and their subscriptions. Keys hold the ids' integers: a UUID hashes and compares in Python."""
    uses: dict[UseKey, list[UsageDelta]] = {}
    subscriptions: dict[int, UUID] = {}
    for delta in deltas:
        subscription, api_key = delta.subscription_id, delta.api_key_id
        key = (
            subscription.int, delta.hour, 0 if api_key is None else api_key.int, delta.model_id, delta.tool_name, delta.provider,
            delta.feature_type, delta.power_level, delta.byok, delta.status_class != 2, delta.app_id,
        )  # fmt: skip
        before = uses.get(key)
        if before is None:
            uses[key] = [delta]
            subscriptions[subscription.int] = subscription
        else:
            before.append(delta)
    return uses, subscriptions


def numbered(uses: Iterable[UseKey | None]) -> tuple[list[Kind], list[int | None], list[UUID | None]]:
    """Return the kinds of uses, each once; of each use the number of its kind, from 1 on; and its API key. None of what is no use."""
    kinds: dict[tuple[object, ...], int] = {}
    keys: dict[int, UUID | None] = {0: None}
    numbers: list[int | None] = []
    api_keys: list[UUID | None] = []
    for use in uses:
        if use is None:
            numbers.append(None)
            api_keys.append(None)
            continue
        numbers.append(kinds.setdefault(use[3:], len(kinds) + 1))
        key = use[2]
        if key not in keys:
            keys[key] = UUID(int=key)
        api_keys.append(keys[key])
    return [Kind(*kind) for kind in kinds], numbers, api_keys  # type: ignore[arg-type]  # the rest of a UseKey

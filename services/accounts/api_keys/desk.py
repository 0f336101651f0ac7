"""What is done to API keys, each function in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from services.accounts.api_keys.keys import hash_of, new_key, prefix_of
from shared.errors import NotFound, TallystickError
from shared.ids import uuid7
from shared.postgres import Connection
from shared.sql import Queries

_SQL = Queries.load("services.accounts.api_keys")

REQUESTS_PER_MINUTE: Final = 60
REQUESTS_PER_DAY: Final = 10_000
MOST_OVERLAP: Final = timedelta(days=30)
"""How long an old key may stay valid beside the one that takes its place."""
_ENDED: Final = ("cancelled", "expired")


class UnknownKey(NotFound):
    """There is no such API key, or none that the asker may know of."""


class UnknownSubscription(NotFound):
    """There is no such subscription, or none that the asker may know of."""


class KeyRefused(TallystickError):
    """A key cannot be made, or replaced, as things are."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it can be shown at any time: the key itself is not part of it."""

    id: UUID
    subscription_id: UUID
    user_id: UUID
    name: str | None
    key_prefix: str
    quota_requests_per_minute: int | None
    quota_requests_per_day: int | None
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime
    revoked_at: datetime | None
    is_active: bool
    replaces: UUID | None


@dataclass(frozen=True, slots=True)
class Wish:
    """The key that is asked for. Limits of None do not apply."""

    subscription_id: UUID
    name: str | None = None
    expires_at: datetime | None = None
    requests_per_minute: int | None = REQUESTS_PER_MINUTE
    requests_per_day: int | None = REQUESTS_PER_DAY
    id: UUID | None = None
    """What the key's id is to be, so that it is made once; None: a new one."""


async def create_key(
    connection: Connection, wish: Wish, *, pepper: str, now: datetime, owner: UUID | None = None
) -> tuple[ApiKey, str]:
    """Make a key; return it and, this once, the key itself.

    `owner`: the subscription has to be theirs. Raises `UnknownSubscription`, and `KeyRefused` for an expiry that is past or a
    subscription that has ended.
    """
    row = await connection.fetchrow(_SQL["subscription_of_key"], wish.subscription_id)
    if row is None or owner not in (None, row["user_id"]):
        raise UnknownSubscription(f"there is no subscription {wish.subscription_id}")
    if row["status"] in _ENDED:
        raise KeyRefused(f"subscription {wish.subscription_id} is {row['status']}: it can have no new key")
    if wish.expires_at is not None and wish.expires_at <= now:
        raise KeyRefused(f"a key cannot expire at {wish.expires_at:%Y-%m-%d %H:%M} UTC, which is past")
    return await _make(connection, wish, pepper=pepper, now=now, replaces=None)


async def rotate_key(
    connection: Connection, key_id: UUID, *, overlap: timedelta, pepper: str, now: datetime, owner: UUID | None = None
) -> tuple[ApiKey, str]:
    """Make a key in the place of another, which stays valid for `overlap`; return the new one and, this once, the key itself.

    The new one has the old one's name and limits, and no expiry. `owner`: the key has to be theirs. Raises `UnknownKey`, and `KeyRefused`
    for one that is not valid any more or was replaced already.
    """
    old = await _locked(connection, key_id, owner)
    if not old.is_active or (old.expires_at is not None and old.expires_at <= now):
        raise KeyRefused(f"key {key_id} is not valid any more: make a new one")
    if await connection.fetchval(_SQL["replacement_of"], key_id):
        raise KeyRefused(f"key {key_id} was replaced already: rotate the one that took its place")
    wish = Wish(old.subscription_id, old.name, None, old.quota_requests_per_minute, old.quota_requests_per_day)
    made = await _make(connection, wish, pepper=pepper, now=now, replaces=key_id)
    await connection.execute(_SQL["expire_key"], key_id, now + overlap)
    return made


async def revoke_key(connection: Connection, key_id: UUID, *, now: datetime, owner: UUID | None = None) -> ApiKey:
    """Let a key be valid no more; return it as it was before. `owner`: it has to be theirs. Raises `UnknownKey`."""
    key = await _locked(connection, key_id, owner)
    await connection.execute(_SQL["revoke_key"], key_id, now)
    return key


async def list_keys(
    connection: Connection,
    *,
    now: datetime,
    user_id: UUID | None = None,
    subscription_id: UUID | None = None,
    ended: bool = False,
    limit: int = 1_000,
    offset: int = 0,
    before: tuple[datetime, UUID] | None = None,
) -> list[ApiKey]:
    """Return keys, the latest first; `ended`: those that are not valid any more, too. `before`: when the last one of a page was made, and its id."""
    rows = await connection.fetch(
        _SQL["list_keys"], user_id, subscription_id, ended, now, limit, offset, *(before or (None, None))
    )
    return _keys(rows)


async def _make(
    connection: Connection, wish: Wish, *, pepper: str, now: datetime, replaces: UUID | None
) -> tuple[ApiKey, str]:
    key = new_key()
    row = await connection.fetchrow(
        _SQL["make_key"], wish.id or uuid7(), wish.subscription_id, wish.name, hash_of(key, pepper), prefix_of(key),
        wish.requests_per_minute, wish.requests_per_day, wish.expires_at, now, replaces,
    )  # fmt: skip
    [made] = _keys([row])
    return made, key


async def _locked(connection: Connection, key_id: UUID, owner: UUID | None) -> ApiKey:
    row = await connection.fetchrow(_SQL["lock_key"], key_id, owner)
    if row is None:
        raise UnknownKey(f"there is no API key {key_id}")
    return _keys([row])[0]


def _keys(rows: Sequence[Any]) -> list[ApiKey]:
    return [ApiKey(**dict(row)) for row in rows]

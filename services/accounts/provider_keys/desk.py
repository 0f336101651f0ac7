"""What users do with their keys at providers, each function in the caller's transaction. Which key a gateway takes is the default one's matter."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from services.accounts.provider_keys.keyring import LEAST_CHARACTERS, Keyring, hint_of
from shared.errors import NotFound, TallystickError
from shared.ids import uuid7
from shared.postgres import Connection
from shared.sql import Queries

_SQL = Queries.load("services.accounts.provider_keys")

ROTATION_DAYS: Final = 90
"""After how many days a user is reminded to replace a key, where they do not choose."""


class ProviderKeyRefused(TallystickError):
    """A key cannot be stored, or changed, like this."""


class NoKey(TallystickError):
    """What was given cannot be a key of a provider."""


class UnknownProviderKey(NotFound):
    """There is no such key, or none that the asker may know of."""


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A key as it can be shown: of the key itself, the last characters."""

    id: UUID
    user_id: UUID
    provider: str
    key_name: str
    key_hint: str | None
    is_default: bool
    is_active: bool
    last_used_at: datetime | None
    monthly_requests: int
    monthly_tokens: int
    usage_month: datetime
    total_requests: int
    rotated_at: datetime
    rotation_due_at: datetime | None
    created_at: datetime


async def store_key(
    connection: Connection,
    keyring: Keyring,
    *,
    user_id: UUID,
    provider: str,
    key_name: str,
    key: str,
    now: datetime,
    default: bool = False,
    remind_after: timedelta | None = timedelta(days=ROTATION_DAYS),
) -> ProviderKey:
    """Store a key. The first one at a provider is the default. Raises `ProviderKeyRefused` for a name that is taken, and `NoKey`."""
    _check(key)
    await connection.execute(_SQL["lock_provider"], user_id, provider)
    sealed, id_ = keyring.seal(key), uuid7()
    if default:
        await connection.execute(_SQL["no_default"], user_id, provider)
    try:
        await connection.execute(
            _SQL["store_key"], id_, user_id, provider, key_name, sealed.token, sealed.secret_id, hint_of(key), default, now,
            now + remind_after if remind_after else None,
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise ProviderKeyRefused(
            f"there is a key '{key_name}' at {provider} already: take another name, or rotate it"
        ) from None
    return await find_key(connection, id_)


async def rotate_key(
    connection: Connection,
    keyring: Keyring,
    key_id: UUID,
    *,
    key: str,
    now: datetime,
    owner: UUID | None = None,
    remind_after: timedelta | None = timedelta(days=ROTATION_DAYS),
) -> ProviderKey:
    """Put a new key in the place of a stored one. `owner`: it has to be theirs. Raises `UnknownProviderKey`, and `NoKey`."""
    _check(key)
    await find_key(connection, key_id, owner)
    sealed = keyring.seal(key)
    due = now + remind_after if remind_after else None
    await connection.execute(_SQL["replace_key"], key_id, sealed.token, sealed.secret_id, hint_of(key), now, due)
    return await find_key(connection, key_id)


async def make_default(connection: Connection, key_id: UUID, *, owner: UUID | None = None) -> ProviderKey:
    """Let a key be the one that is used at its provider. Raises `UnknownProviderKey` and `ProviderKeyRefused`."""
    key = await find_key(connection, key_id, owner)
    if not key.is_active:
        raise ProviderKeyRefused(f"key {key_id} is not active: it cannot be the default")
    await connection.execute(_SQL["lock_provider"], key.user_id, key.provider)
    await connection.execute(_SQL["no_default"], key.user_id, key.provider)
    await connection.execute(_SQL["make_default"], key_id)
    return await find_key(connection, key_id)


async def delete_key(connection: Connection, key_id: UUID, *, owner: UUID | None = None) -> None:
    """Forget a key, its token included. If it was the default, the oldest that is left becomes that. Raises `UnknownProviderKey`."""
    key = await find_key(connection, key_id, owner)
    await connection.execute(_SQL["lock_provider"], key.user_id, key.provider)
    await connection.execute(_SQL["delete_key"], key_id)
    await connection.execute(_SQL["next_default"], key.user_id, key.provider)


async def find_key(connection: Connection, key_id: UUID, owner: UUID | None = None) -> ProviderKey:
    """Return a key. Raises `UnknownProviderKey`."""
    row = await connection.fetchrow(_SQL["find_key"], key_id, owner)
    if row is None:
        raise UnknownProviderKey(f"there is no key {key_id} at a provider")
    return ProviderKey(**dict(row))


async def list_keys(
    connection: Connection,
    *,
    user_id: UUID | None = None,
    provider: str | None = None,
    limit: int = 1_000,
    offset: int = 0,
    after: tuple[str, str, UUID] | None = None,
) -> list[ProviderKey]:
    """Return keys by provider and name. `after`: provider, name and id of the last one of a page."""
    behind = after or (None, None, None)
    rows = await connection.fetch(_SQL["list_keys"], user_id, provider, limit, offset, *behind)
    return [ProviderKey(**dict(row)) for row in rows]


def _check(key: str) -> None:
    """Raise `NoKey` for what a provider does not give out as a key. The key is not in the message."""
    if len(key) < LEAST_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
        raise NoKey(
            f"this is no key of a provider: {LEAST_CHARACTERS} characters or more, without spaces, as the provider shows it"
        )

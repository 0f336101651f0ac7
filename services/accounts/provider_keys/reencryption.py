"""Encrypts stored keys anew with the newest secret, while all goes on, and counts those that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from services.accounts.provider_keys.keyring import Keyring, KeyUnreadable, Sealed
from shared.postgres import Connection
from shared.sql import Queries

_SQL = Queries.load("services.accounts.provider_keys")

AT_ONCE: Final = 200
"""Rows of one transaction."""
_FIRST: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """What became of the keys that another secret had made."""

    done: int
    unreadable: tuple[UUID, ...]


async def reencrypt(connection: Connection, keyring: Keyring, *, actor: str) -> Reencrypted:
    """Encrypt with the newest secret what another one made, `AT_ONCE` rows in a transaction; what cannot be read stays as it is.

    It may be interrupted, and run again. A row that somebody is changing is left out: it gets the newest secret by that.
    """
    after, done = _FIRST, 0
    unreadable: list[UUID] = []
    while True:
        async with connection.transaction():
            rows = await connection.fetch(_SQL["tokens_of_other_secrets"], after, keyring.current, AT_ONCE)
            tokens: dict[UUID, str] = {}
            for row in rows:
                try:
                    tokens[row["id"]] = keyring.seal(keyring.open(_sealed(row))).token
                except KeyUnreadable:
                    unreadable.append(row["id"])
            if tokens:
                await connection.execute(_SQL["reencrypt"], list(tokens), list(tokens.values()), keyring.current)
                await connection.execute(_SQL["note_reencryption"], len(tokens), keyring.current, actor)
        done += len(tokens)
        if len(rows) < AT_ONCE:
            return Reencrypted(done, tuple(unreadable))
        after = rows[-1]["id"]


async def count_unreadable(connection: Connection, keyring: Keyring | None) -> int:
    """Return how many stored keys cannot be decrypted with the secrets that are set; without any, all."""
    after, count = _FIRST, 0
    while rows := await connection.fetch(_SQL["tokens"], after, AT_ONCE):
        count += sum(not _can_read(keyring, _sealed(row)) for row in rows)
        after = rows[-1]["id"]
    return count


async def count_by_secret(connection: Connection) -> dict[str, int]:
    """Return how many keys each secret has made."""
    return {row["encryption_key_id"]: row["keys"] for row in await connection.fetch(_SQL["count_by_secret"])}


def _can_read(keyring: Keyring | None, sealed: Sealed) -> bool:
    try:
        return keyring is not None and bool(keyring.open(sealed))
    except KeyUnreadable:
        return False


def _sealed(row: Any) -> Sealed:
    return Sealed(row["encrypted_api_key"], row["encryption_key_id"])

"""Whose usage it is: the subscription behind a subject, an API key's id or its hash.

Positive answers are kept: a subscription is never deleted and a key never changes hands. A miss asks the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from services.ingest.acceptance import Reason, Rejected
from services.ingest.packing import owner_columns
from shared.contracts import UsageEvent
from shared.corrections import AmendEvent
from shared.ids import uuid_of_bytes
from shared.postgres import Connection, Pool
from shared.sql import Queries

_SQL = Queries.load("services.ingest")

CACHE_ENTRIES = 200_000
KNOWN_AT_START = 10_000
"""Subscriptions that a worker knows from the start: with 600 bytes each, some 6 MB."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The known subscription, and key where one was named, of an event."""

    subscription_id: UUID
    api_key_id: UUID | None
    columns: bytes = field(init=False, repr=False, compare=False)
    """Both, as COPY takes them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", owner_columns(self.subscription_id, self.api_key_id))


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody of that name yet: the event is held. What it names is kept for the look-up later.

    `original_id` is of a correction: the row that it corrects, which must be there, too.
    """

    reason: str
    subscription_id: UUID | None = None
    api_key_id: UUID | None = None
    api_key_hash: str | None = None
    original_id: UUID | None = None


Attribution: TypeAlias = Owner | Unknown | Rejected
Name: TypeAlias = tuple[str | None, str | None, str | None]


def name_of(event: UsageEvent | AmendEvent) -> Name:
    """Return what an event says about who used it: subject, key id, key hash."""
    return event.subject, event.data.api_key_id, event.data.api_key_hash


def malformed(name: Name) -> Rejected | None:
    """Return what is wrong with a name that nobody can have, whatever the database knows."""
    ids = _parse(name)
    return ids if isinstance(ids, Rejected) else None


class Attributor:
    """Finds owners, remembering those it found."""

    def __init__(self) -> None:
        self._owners: dict[Name, Owner] = {}

    def known(self, event: UsageEvent) -> Owner | None:
        """Return the owner if it is remembered."""
        return self._owners.get((event.subject, event.data.api_key_id, event.data.api_key_hash))

    def known_as(self, name: Name) -> Owner | None:
        """Return the owner of a name if it is remembered."""
        return self._owners.get(name)

    async def begin(self, pool: Pool) -> None:
        """Get to know the subscriptions that were made last, so that a worker's first batches are not of strangers."""
        rows = await pool.fetch(_SQL["newest_subscriptions"], KNOWN_AT_START)
        ids = [uuid_of_bytes(row["id"].bytes) for row in rows]
        self.remember({(str(id_), None, None): Owner(id_, None) for id_ in ids})

    async def look_up(self, connection: Connection, names: Sequence[Name]) -> dict[Name, Attribution]:
        """Ask the database who `names` are: one query for subscriptions, one for keys, whatever their number."""
        asked = {name: _parse(name) for name in dict.fromkeys(names)}
        wanted = [ids for ids in asked.values() if isinstance(ids, _Ids)]
        subscriptions = {
            row["id"]
            for row in await connection.fetch(
                _SQL["known_subscriptions"], [w.subscription for w in wanted if w.subscription]
            )
        }
        keys = await connection.fetch(
            _SQL["known_api_keys"], [w.key for w in wanted if w.key], [w.key_hash for w in wanted if w.key_hash]
        )
        by_id = {row["id"]: (row["id"], row["subscription_id"]) for row in keys}
        by_hash = {row["key_hash"]: (row["id"], row["subscription_id"]) for row in keys}
        found = {
            name: ids if isinstance(ids, Rejected) else _attribute(ids, subscriptions, by_id, by_hash)
            for name, ids in asked.items()
        }
        self.remember({name: owner for name, owner in found.items() if isinstance(owner, Owner)})
        return found

    def remember(self, found: Mapping[Name, Owner]) -> None:
        """Remember owners; forget all others if they are many."""
        if len(self._owners) > CACHE_ENTRIES:
            self._owners.clear()
        self._owners.update(found)


@dataclass(frozen=True, slots=True)
class _Ids:
    subscription: UUID | None
    key: UUID | None
    key_hash: str | None


def _parse(name: Name) -> _Ids | Rejected:
    subject, key, key_hash = name
    try:
        return _Ids(UUID(subject) if subject else None, UUID(key) if key else None, key_hash or None)
    except ValueError:
        return Rejected(
            Reason.INVALID_VALUE,
            "subject must be the subscription's UUID, data.api_key_id the key's; send data.api_key_hash if you know only the hash",
        )


def _attribute(
    ids: _Ids, subscriptions: set[UUID], by_id: dict[UUID, tuple[UUID, UUID]], by_hash: dict[str, tuple[UUID, UUID]]
) -> Attribution:
    """Decide (pure) who it is, from what the database knows."""
    if ids.subscription is None and ids.key is None and ids.key_hash is None:
        return Rejected(Reason.NOBODY_NAMED, "subject, api_key_id and api_key_hash are all empty: who used it?")
    named = [by_id.get(ids.key)] if ids.key else []
    named += [by_hash.get(ids.key_hash)] if ids.key_hash else []
    if None in named:
        return Unknown("unknown_api_key", ids.subscription, ids.key, ids.key_hash)
    owners = {key[1] for key in named if key} | ({ids.subscription} if ids.subscription else set())
    if len(owners) > 1 or len({key[0] for key in named if key}) > 1:
        return Rejected(
            Reason.KEY_MISMATCH,
            "subject, api_key_id and api_key_hash belong to different subscriptions: which one used it?",
        )
    if ids.subscription and ids.subscription not in subscriptions:
        return Unknown("unknown_subscription", ids.subscription, ids.key, ids.key_hash)
    owner = owners.pop()
    key = next((key[0] for key in named if key), None)
    return Owner(uuid_of_bytes(owner.bytes), None if key is None else uuid_of_bytes(key.bytes))

"""The operator's IO with held_events. The SQL is in queries.sql; `expire` runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.ingest.store import headers_of_json
from shared.errors import ConfigurationError, NotFound
from shared.postgres import Connection
from shared.sql import Queries

_SQL = Queries.load("services.ingest.holding")


class NeverHeld(NotFound, ConfigurationError):
    """Events are named that were never held."""


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """A subscription, key or original event that does not exist yet, and how much waits for it. `oldest_seconds` is the age of the oldest."""

    reason: str
    subscription_id: UUID | None
    api_key_id: UUID | None
    api_key_hash: str | None
    original_id: UUID | None
    events: int
    since: datetime
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Held:
    """A held event: original bytes, who it names, and what became of it, if anything did."""

    id: UUID
    reason: str
    subscription_id: UUID | None
    api_key_id: UUID | None
    api_key_hash: str | None
    original_id: UUID | None
    occurred_at: datetime
    cluster: str
    topic: str
    partition: int
    epoch: int
    record_offset: int
    record_key: bytes | None
    record_value: bytes
    record_headers: list[tuple[str, bytes | None]]
    batch_id: UUID
    held_at: datetime
    attributed_at: datetime | None
    attributed_batch_id: UUID | None
    expired_at: datetime | None
    expired_by: str | None
    expired_why: str | None


async def count_waiting(connection: Connection, most: int | None = None) -> list[WaitingFor]:
    """Return who is waited for, the longest first; all, or at most so many."""
    return [WaitingFor(**row) for row in await connection.fetch(_SQL["waiting_for"], most)]


async def list_waiting(connection: Connection, limit: int) -> list[Held]:
    """Return the events that have waited longest."""
    return [_held(row) for row in await connection.fetch(_SQL["list_waiting"], limit)]


async def find(connection: Connection, ids: Sequence[UUID]) -> list[Held]:
    """Return these events. Raises `NeverHeld` that names those that are not there."""
    found = [_held(row) for row in await connection.fetch(_SQL["by_ids"], ids)]
    if missing := sorted(set(ids) - {event.id for event in found}, key=str):
        raise NeverHeld(f"never held: {', '.join(map(str, missing))}; see 'tallystick held list'")
    return found


async def owner_exists(connection: Connection, event_id: UUID) -> bool:
    """Return whether what an event waits for exists by now: a worker stores it within a second then. Asked with the rights of ingest."""
    return bool(await connection.fetchval(_SQL["owner_exists"], event_id))


async def expire(connection: Connection, ids: Sequence[UUID], *, actor: str, why: str) -> int:
    """Give up waiting for the owners of these events; return how many of them still waited."""
    await connection.execute(_SQL["act_as"], actor)
    status: str = await connection.execute(_SQL["expire"], ids, actor, why)
    return int(status.rsplit(" ", 1)[-1])


def _held(row: Any) -> Held:
    return Held(**{**row, "record_headers": headers_of_json(row["record_headers"])})

"""The IO of reservations with Postgres; the SQL is in queries.sql."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.api.reservations.asking import Answer, Ask, Remaining, Reservation
from shared.ids import uuid7
from shared.postgres import Connection
from shared.sql import Queries

_SQL = Queries.load("services.api.reservations")
_RESERVATION = Reservation.__dataclass_fields__


async def reserve(connection: Connection, asks: Sequence[Ask], now: datetime) -> list[Answer]:
    """Reserve, each ask whole or not at all, in their order; return the answers in that order. One transaction."""
    rows = await connection.fetch(
        _SQL["reserve_many"],
        [uuid7() for _ in asks],
        [ask.subscription_id for ask in asks],
        [ask.requests for ask in asks],
        [ask.tokens for ask in asks],
        [ask.credits for ask in asks],
        [ask.ttl_seconds for ask in asks],
        [ask.key for ask in asks],
        [ask.digest for ask in asks],
        now,
    )
    return [_answer(row) for row in rows]


async def cancel(connection: Connection, id_: UUID, now: datetime) -> Reservation | None:
    """Cancel a reservation that is open; return it as it is then, None if there is none."""
    return _reservation(await connection.fetchrow(_SQL["cancel"], id_, now))


async def find(connection: Connection, id_: UUID) -> tuple[Reservation, UUID] | None:
    """Return a reservation and the user whose it is, None if there is none (any more)."""
    row = await connection.fetchrow(_SQL["find"], id_)
    found = _reservation(row)
    return None if found is None else (found, row["user_id"])


async def credit_rates(connection: Connection, at: datetime) -> dict[str, Decimal]:
    """Return how many credits a unit of each currency is worth at a time."""
    return {row["currency"]: row["credits_per_unit"] for row in await connection.fetch(_SQL["credit_rates"], at)}


def _reservation(row: Mapping[str, Any] | None) -> Reservation | None:
    return Reservation(*(row[name] for name in _RESERVATION)) if row else None


def _answer(row: Mapping[str, Any]) -> Answer:
    kept = row["outcome"] in ("reserved", "repeated")
    remaining = Remaining(
        row["remaining_requests"],
        row["remaining_tokens"],
        row["remaining_credits"],
        row["remaining_concurrent"],
        row["reset_at"],
    )
    return Answer(row["outcome"], tuple(row["reasons"]), _reservation(row) if kept else None, remaining)

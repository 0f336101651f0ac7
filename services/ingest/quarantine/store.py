"""The operator's IO with quarantined_events. The SQL is in queries.sql; functions that write run in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.ingest.acceptance import Reason, Rejected
from services.ingest.store import headers_of_json
from shared.errors import ConfigurationError, NotFound
from shared.postgres import Connection
from shared.sql import Queries

_SQL = Queries.load("services.ingest.quarantine")


class ChoiceRefused(ConfigurationError):
    """A choice names a reason that there is not."""


class NotInQuarantine(NotFound, ConfigurationError):
    """A choice names records that were never refused."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which open records are meant: those of a reason, those of `ids`, both, or with neither all."""

    reason: str | None = None
    ids: tuple[UUID, ...] | None = None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A refused record: original bytes, reason, origin, and how it was resolved, if it was."""

    id: UUID
    reason: str
    detail: str
    cluster: str
    topic: str
    partition: int
    epoch: int
    record_offset: int
    record_key: bytes | None
    record_value: bytes | None
    record_headers: list[tuple[str, bytes | None]]
    published_at: datetime | None
    batch_id: UUID
    quarantined_at: datetime
    tried_at: datetime | None
    resolution: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    resolved_why: str | None
    resolved_batch_id: UUID | None


@dataclass(frozen=True, slots=True)
class OpenReason:
    """How many records of a reason are open, and since when the oldest is."""

    reason: str
    records: int
    since: datetime


async def check_choice(connection: Connection, choice: Choice) -> tuple[int, list[Quarantined]]:
    """Return how many open records are chosen, and which of the named ones are resolved already.

    Raises `ChoiceRefused` for a reason that does not exist, and `NotInQuarantine`.
    """
    if choice.reason is not None and choice.reason not in set(Reason):
        raise ChoiceRefused(f"there is no reason '{choice.reason}'; there are {', '.join(Reason)}")
    found = [_quarantined(row) for row in await connection.fetch(_SQL["by_ids"], choice.ids or ())]
    if missing := sorted(set(choice.ids or ()) - {record.id for record in found}, key=str):
        raise NotInQuarantine(f"not in quarantine: {', '.join(map(str, missing))}; see 'tallystick quarantine list'")
    return await connection.fetchval(_SQL["count_chosen"], *_choice(choice)), [r for r in found if r.resolution]


async def count_open(connection: Connection, reason: str | None = None) -> list[OpenReason]:
    """Return the open records by reason, most frequent first."""
    return [OpenReason(**row) for row in await connection.fetch(_SQL["open_by_reason"], reason)]


async def list_open(connection: Connection, reason: str | None, limit: int) -> list[Quarantined]:
    """Return the newest open records."""
    return [_quarantined(row) for row in await connection.fetch(_SQL["list_open"], reason, limit)]


async def show(connection: Connection, id_: UUID) -> Quarantined:
    """Return one record, resolved or not. Raises `NotInQuarantine`."""
    rows = await connection.fetch(_SQL["by_ids"], [id_])
    if not rows:
        raise NotInQuarantine(f"not in quarantine: {id_}; see 'tallystick quarantine list'")
    return _quarantined(rows[0])


async def discard(connection: Connection, choice: Choice, *, actor: str, why: str) -> int:
    """Give the chosen records up; return how many that were. Those that another session has in hand are left to it."""
    await connection.execute(_SQL["act_as"], actor)
    return _affected(await connection.execute(_SQL["discard"], *_choice(choice), actor, why))


async def take(connection: Connection, choice: Choice, after: UUID, limit: int, *, actor: str) -> list[Any]:
    """Lock the next open records of a choice, in the order of their ids, for `actor` to decide about in this transaction."""
    await connection.execute(_SQL["act_as"], actor)
    return await connection.fetch(_SQL["take"], after, *_choice(choice), limit)  # type: ignore[no-any-return]


async def resolve(connection: Connection, ids: Sequence[UUID], batch_id: UUID, *, actor: str, why: str) -> None:
    """Say which batch took records in."""
    await connection.execute(_SQL["resolve_replayed"], ids, batch_id, actor, why)


async def refuse_again(connection: Connection, refused: Sequence[tuple[UUID, Rejected]]) -> None:
    """Keep records open, with the reason that holds now."""
    if refused:
        ids, rejected = [id_ for id_, _ in refused], [r for _, r in refused]
        columns = ids, [r.reason for r in rejected], [r.detail for r in rejected]
        await connection.execute(_SQL["refuse_again"], *columns)


def _choice(choice: Choice) -> tuple[str | None, Sequence[UUID] | None]:
    return choice.reason, choice.ids


def _affected(status: str) -> int:
    return int(status.rsplit(" ", 1)[-1])


def _quarantined(row: Any) -> Quarantined:
    return Quarantined(**{**row, "record_headers": headers_of_json(row["record_headers"])})

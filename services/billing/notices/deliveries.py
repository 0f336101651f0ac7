"""Deliveries in Postgres: claimed, recorded, listed, asked for again. Each function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.billing.notices.retrying import Attempted, Verdict
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.notices", "webhooks.sql")
FORGET_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this worker makes: `attempts` is the number of this attempt, `failures` how often it failed before."""

    id: UUID
    endpoint_id: UUID
    attempts: int
    failures: int
    user_id: UUID | None
    url: str
    message_id: str
    type: str
    body: bytes
    encrypted_secret: bytes
    encrypted_previous_secret: bytes | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A line of the delivery log: one event for one endpoint, with its last attempt."""

    id: UUID
    endpoint_id: UUID
    message_id: str
    type: str
    status: str
    attempts: int
    next_attempt_at: datetime | None
    finished_at: datetime | None
    created_at: datetime
    outcome: str | None
    response_status: int | None
    latency_ms: int | None
    detail: str | None
    last_attempt_at: datetime | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request. `outcome` None: under way, or its worker died before it knew."""

    attempt: int
    started_at: datetime
    outcome: str | None
    response_status: int | None
    latency_ms: int | None
    detail: str | None


async def claim(
    connection: Connection,
    now: datetime,
    *,
    limit: int,
    per_endpoint: int,
    under_way: Mapping[UUID, int],
    until: datetime,
) -> list[Claimed]:
    """Take deliveries that are due, and begin their attempts. After `until` another worker takes them up.

    `under_way` is how many of an endpoint this worker has on their way: it gets no more above `per_endpoint`.
    """
    busy = [endpoint for endpoint, count in under_way.items() if count >= per_endpoint]
    rows = await connection.fetch(SQL["claim"], now, limit, per_endpoint, busy, until, list(under_way))
    return [Claimed(**row) for row in rows]


async def record(
    connection: Connection, claimed: Claimed, attempted: Attempted, verdict: Verdict, now: datetime
) -> None:
    """Write down what an attempt came to, and what becomes of its delivery."""
    await connection.execute(
        SQL["end_attempt"],
        claimed.id,
        claimed.attempts,
        attempted.outcome,
        attempted.response_status,
        round(attempted.latency.total_seconds() * 1000),
        attempted.detail,
    )
    if verdict.status == "delivered":
        await connection.execute(SQL["succeed"], claimed.id, now)
        await connection.execute(SQL["endpoint_succeeded"], claimed.endpoint_id)
    else:
        await connection.execute(SQL["fail"], claimed.id, claimed.attempts, now, verdict.next_attempt_at)


async def count_failure(connection: Connection, endpoint_id: UUID, now: datetime) -> tuple[int, datetime, bool]:
    """Count a failure of an endpoint; return how many there were since when without a success, and whether it is enabled."""
    row = await connection.fetchrow(SQL["endpoint_failed"], endpoint_id, now)
    return row["failures"], row["failing_since"], row["enabled"]


async def deliveries(
    connection: Connection,
    *,
    endpoint_id: UUID | None = None,
    status: str | None = None,
    id_: UUID | None = None,
    message_id: str | None = None,
    limit: int = 50,
) -> list[Delivery]:
    """Return the newest lines of the delivery log that are as they were asked for."""
    rows = await connection.fetch(SQL["deliveries"], endpoint_id, status, id_, message_id, limit)
    return [Delivery(**row) for row in rows]


async def attempts_of(connection: Connection, delivery: UUID) -> list[Attempt]:
    """Return every attempt of a delivery, in order."""
    return [Attempt(**row) for row in await connection.fetch(SQL["attempts_of"], delivery)]


async def redeliver(connection: Connection, ids: Sequence[UUID], *, at: datetime) -> list[UUID]:
    """Make deliveries due again, whatever became of them; return those that there are."""
    rows = await connection.fetch(SQL["redeliver"], list(ids), None, None, False, at)
    return [row["id"] for row in rows]


async def redeliver_since(
    connection: Connection, endpoint_id: UUID, since: datetime, *, only_failed: bool, at: datetime
) -> list[UUID]:
    """Make all deliveries of an endpoint that were queued since a time due again, or those that failed."""
    rows = await connection.fetch(SQL["redeliver"], None, endpoint_id, since, only_failed, at)
    return [row["id"] for row in rows]


async def backlog(connection: Connection, now: datetime) -> tuple[int, float, int]:
    """Return how many deliveries wait, the seconds that the most overdue has waited, and how many endpoints are disabled."""
    row = await connection.fetchrow(SQL["backlog"], now)
    return row["pending"], row["overdue_seconds"], row["disabled"]


async def forget(connection: Connection, before: datetime) -> int:
    """Delete what is older, at most `FORGET_AT_ONCE` messages, unless it is still to be delivered; return how many that were."""
    return len(await connection.fetch(SQL["forget"], before, FORGET_AT_ONCE))

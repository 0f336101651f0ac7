"""A Postgres outbox: messages are written with their effect and published after it, at least once, none lost.

Knows nothing of usage or billing. A message is a row until the broker has acknowledged it. Whoever wrote it publishes
it right after COMMIT (`publish`); what a crash left behind is published by `publish_leftovers`, which any worker runs.
A message may so be published twice: consumers are idempotent by the ids inside it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from shared.errors import TallystickError
from shared.ids import uuid7
from shared.metrics import OUTBOX_AGE, OUTBOX_WAITING
from shared.postgres import Connection, Pool, transaction
from shared.sql import Queries


@dataclass(frozen=True, slots=True)
class Message:
    """One message to publish. `partition` None leaves the choice to the key; `value` None is a tombstone."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid7)


class Producer(Protocol):
    """Publishes and returns when the broker has acknowledged all of `messages` (acks=all), or raises.

    `NotAcknowledged` says which ones it refused; after any other error all count as not published.
    """

    async def __call__(self, messages: Sequence[Message]) -> None: ...


class NotAcknowledged(TallystickError):
    """The broker refused some messages and took the others: `refused` are the ids of those that stay in the outbox."""

    def __init__(self, message: str, refused: Collection[UUID]) -> None:
        super().__init__(message)
        self.refused = refused


class Outbox:
    """The outbox of one service. `table` has the shape of `ingest_outbox`."""

    def __init__(self, table: str) -> None:
        self._sql = Queries.load("shared", "outbox.sql", table=table)

    async def enqueue(self, connection: Connection, messages: Sequence[Message]) -> None:
        """Write messages in the caller's transaction."""
        if messages:
            await connection.execute(
                self._sql["enqueue"],
                [m.id for m in messages],
                [m.topic for m in messages],
                [m.partition for m in messages],
                [m.key for m in messages],
                [m.value for m in messages],
                [json.dumps(dict(m.headers)) for m in messages],
            )

    async def publish(self, pool: Pool, produce: Producer, messages: Sequence[Message]) -> None:
        """Publish messages whose transaction has committed, then forget them. On an error they stay for the next try."""
        if messages:
            refused = await _produce(produce, messages)
            await pool.execute(self._sql["delete"], _acknowledged(messages, refused))
            if refused:
                raise refused

    async def publish_leftovers(
        self, pool: Pool, produce: Producer, *, older_than_seconds: float, limit: int = 50
    ) -> int:
        """Publish what is older than `older_than_seconds`, at most `limit` messages; return how many that were.

        The rows stay locked until they are gone, so that two workers never publish the same leftovers side by side. A
        message that the broker refuses does not hold the others back.
        """
        async with transaction(pool) as connection:
            messages = [
                _message(row) for row in await connection.fetch(self._sql["unpublished"], limit, older_than_seconds)
            ]
            refused = await _produce(produce, messages) if messages else None
            await connection.execute(self._sql["delete"], _acknowledged(messages, refused))
        if refused:
            raise refused
        return len(messages)

    async def empty(self, pool: Pool, produce: Producer, *, service: str, older_than_seconds: float) -> None:
        """Publish all that is older than `older_than_seconds`, and tell how much still waits: most of all when the broker took nothing."""
        try:
            while await self.publish_leftovers(pool, produce, older_than_seconds=older_than_seconds):
                pass
        finally:
            async with pool.acquire() as connection:
                messages, seconds = await self.waiting(connection)
            OUTBOX_WAITING.labels(service).set(messages)
            OUTBOX_AGE.labels(service).set(seconds)

    async def waiting(self, connection: Connection) -> tuple[int, float]:
        """Return how many messages wait and the age of the oldest in seconds."""
        row = await connection.fetchrow(self._sql["waiting"])
        return row["messages"], row["oldest_seconds"]


async def _produce(produce: Producer, messages: Sequence[Message]) -> NotAcknowledged | None:
    try:
        await produce(messages)
    except NotAcknowledged as refused:
        return refused
    return None


def _acknowledged(messages: Sequence[Message], refused: NotAcknowledged | None) -> list[UUID]:
    return [m.id for m in messages if refused is None or m.id not in refused.refused]


def _message(row: Any) -> Message:
    return Message(
        id=row["id"],
        topic=row["topic"],
        partition=row["partition"],
        key=row["key"],
        value=row["value"],
        headers=json.loads(row["headers"]),
    )

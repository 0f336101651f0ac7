"""A Postgres outbox: messages are written with their effect and published after it, at least once, none lost.

Knows nothing of usage or billing. A message is a row until the broker has acknowledged it. Whoever wrote it publishes
it right after COMMIT (`publish`); what a crash left behind is published by `publish_leftovers`, which any worker runs.
A message may so be published twice: consumers are idempotent by the ids inside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from shared.ids import uuid7
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
    """Publishes and returns when the broker has acknowledged all of `messages` (acks=all), or raises."""

    async def __call__(self, messages: Sequence[Message]) -> None: ...


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
            await produce(messages)
            await pool.execute(self._sql["delete"], [m.id for m in messages])

    async def publish_leftovers(
        self, pool: Pool, produce: Producer, *, older_than_seconds: float, limit: int = 200
    ) -> int:
        """Publish what is older than `older_than_seconds`, at most `limit` messages; return how many that were.

        The rows stay locked until they are gone, so that two workers never publish the same leftovers side by side.
        """
        async with transaction(pool) as connection:
            rows = await connection.fetch(self._sql["unpublished"], limit, older_than_seconds)
            if rows:
                await produce([_message(row) for row in rows])
                await connection.execute(self._sql["delete"], [row["id"] for row in rows])
            return len(rows)

    async def waiting(self, connection: Connection) -> tuple[int, float]:
        """Return how many messages wait and the age of the oldest in seconds."""
        row = await connection.fetchrow(self._sql["waiting"])
        return row["messages"], row["oldest_seconds"]


def _message(row: Any) -> Message:
    return Message(
        id=row["id"],
        topic=row["topic"],
        partition=row["partition"],
        key=row["key"],
        value=row["value"],
        headers=json.loads(row["headers"]),
    )

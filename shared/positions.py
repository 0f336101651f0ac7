"""Positions: the next offset to read of each partition, stored in Postgres with the effects of all offsets before it."""

from __future__ import annotations

from dataclasses import dataclass

from shared.postgres import Connection
from shared.sql import Queries


@dataclass(frozen=True, slots=True)
class Position:
    """Where one partition stands: `next_offset` is the first offset whose effects are not stored yet."""

    topic: str
    partition: int
    epoch: int
    start_offset: int
    next_offset: int


class Positions:
    """The positions of one consumer. `table` has the shape of `ingest_positions`; the service itself advances it."""

    def __init__(self, table: str, *, cluster: str) -> None:
        self._sql = Queries.load("shared", "positions.sql", table=table)
        self.cluster = cluster

    async def read(self, connection: Connection, topic: str, partition: int) -> Position | None:
        """Return the position of a partition, or None if it was never read."""
        return await self._one("read", connection, topic, partition)

    async def lock(self, connection: Connection, topic: str, partition: int) -> Position | None:
        """The same, holding its row until the transaction ends."""
        return await self._one("lock", connection, topic, partition)

    async def create(self, connection: Connection, topic: str, partition: int, offset: int) -> Position:
        """Start a partition at `offset` unless it has a position already; return the one that it has."""
        await connection.execute(self._sql["create"], self.cluster, topic, partition, offset)
        position = await self.read(connection, topic, partition)
        assert position is not None, "the row was inserted or found in this statement's sight"  # noqa: S101
        return position

    async def _one(self, query: str, connection: Connection, topic: str, partition: int) -> Position | None:
        row = await connection.fetchrow(self._sql[query], self.cluster, topic, partition)
        return Position(topic, partition, row["epoch"], row["start_offset"], row["next_offset"]) if row else None

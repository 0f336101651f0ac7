"""Legal holds: months that stay in the database until somebody says otherwise."""

from __future__ import annotations

from uuid import UUID

from services.ingest.partitions.manifest import PartitionError
from services.ingest.partitions.store import SQL
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Connection


async def place_hold(connection: Connection, period: Period, why: str, subscription_id: UUID | None) -> UUID:
    """Keep the usage of a period, of one subscription or of all. Raises `PartitionError` for an unknown one, or without a reason."""
    if not why.strip():
        raise PartitionError("a hold needs a reason: say with --why who wants it, and for what")
    if subscription_id is not None and not await connection.fetchval(SQL["subscription_exists"], subscription_id):
        raise PartitionError(f"there is no subscription {subscription_id}")
    id_ = uuid7()
    await connection.execute(SQL["place_hold"], id_, period.start, period.end, subscription_id, why)
    return id_


async def release_hold(connection: Connection, id_: UUID, why: str) -> None:
    """End a hold. Raises `PartitionError` if there is none by this id, or it was released before."""
    if not why.strip():
        raise PartitionError("say with --why who has said that the hold is over")
    if await connection.fetchval(SQL["release_hold"], id_, why) is None:
        raise PartitionError(f"there is no hold {id_} that could be released")

"""Since when there is anything to bill."""

from __future__ import annotations

from datetime import datetime

from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing")


async def first_rated(connection: Connection) -> datetime | None:
    """Return when the first usage was rated; None before that."""
    return await connection.fetchval(SQL["first_rated"])  # type: ignore[no-any-return]

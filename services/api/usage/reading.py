"""Reads usage for who asks: a tenant through what row-level security leaves of the tables, who reads all from the tables themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from services.api.auth.principal import Principal
from services.api.database import Database
from services.api.problems import CONFLICT, NOT_FOUND, Problem, invalid
from services.api.usage.buckets import cover, zone_named
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

TABLES: Final = ("usage_logs", "rated_usage")
_OF_ALL: Final = Queries.load("services.api.usage", **{table: table for table in TABLES})
_OF_TENANT: Final = Queries.load("services.api.usage", **{table: f"tenant_{table}" for table in TABLES})
UTC_NAME: Final = "UTC"
BY_SUBSCRIPTION: Final = "subscription"
MOST_DAYS_OF_LOG: Final = 92
"""Longest range, in days, that is read from events."""


@dataclass(frozen=True, slots=True)
class Usage:
    """A snapshot of usage. `subscriptions` are those that are meant, None: all of them."""

    database: Database
    principal: Principal
    connection: Connection
    sql: Queries
    subscriptions: Sequence[UUID] | None

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Run a query whose first parameter are the subscriptions."""
        return await self.connection.fetch(self.sql[query], self.subscriptions, *arguments)  # type: ignore[no-any-return]

    async def series(self, begins: Sequence[datetime], end: datetime, group_by: str | None) -> list[Any]:
        """Return usage in buckets that begin so, the last of which ends at `end`, by model, by subscription, or by bucket alone.

        Of all subscriptions, unless it names them, it is read from totals.
        """
        runs = [*zip(*cover([*begins, end]), strict=True)]
        if self.subscriptions is None and group_by != BY_SUBSCRIPTION:
            return await self.connection.fetch(self.sql["series_of_everybody"], *runs, begins, group_by)  # type: ignore[no-any-return]
        return await self.fetch("series", *runs, begins, group_by)

    async def newest(
        self, wanted: Sequence[Any], start: datetime | None, end: datetime | None, after: Sequence[Any], limit: int
    ) -> list[Any]:
        """Return at most so many of the newest events of a range that are `wanted`, after the key of another; as the queries have it."""
        async with self.database.seeing_order(self.connection, self.principal):
            oldest = await self.connection.fetchval(
                self.sql["newest"], self.subscriptions, *wanted, start, end, *after, limit
            )
        return [] if oldest is None else await self.fetch("events", *wanted, oldest, end, *after, limit)

    async def kept_by_hour(self, period: Period, field: str) -> bool:
        """Tell whether usage_hours has all of a range; else the log has. Raises `Problem` where that is too much to read, or archived."""
        since = await self.connection.fetchval(self.sql["hours_missing_until"], period.start)
        if since is None:
            return True
        known = f"it is kept by hour from {since:%Y-%m-%d %H:%M} UTC on, and before that read from events"
        if period.duration > timedelta(days=MOST_DAYS_OF_LOG, hours=1):
            raise invalid(field, f"{known}: at most {MOST_DAYS_OF_LOG} days, not {period.duration.days}")
        rows = await self.connection.fetch(self.sql["archived"], period.start, period.end)
        if rows:
            months = ", ".join(f"{row['month']:%Y-%m}" for row in rows)
            raise Problem(
                CONFLICT, f"{known}, and those of {months} are archived: ask for a later range, or group by model"
            )
        return False

    async def zone(self, named: str | None, user_id: UUID | None) -> ZoneInfo:
        """Return the time zone that was named, else the user's own. Raises `Problem` for one that is none."""
        if named is None and user_id is not None:
            named = await self.connection.fetchval(self.sql["time_zone"], user_id)
        zone = zone_named(named or UTC_NAME)
        if zone is None:
            raise invalid("query.time_zone", f"'{named}' is no time zone: give an IANA name, such as Europe/Berlin")
        return zone


@asynccontextmanager
async def usage_of(
    database: Database, principal: Principal, user_id: UUID | None, subscription_id: UUID | None = None
) -> AsyncIterator[Usage]:
    """Read usage of a user's subscriptions, or of one of them; `user_id` None: anybody's. Raises `Problem` for one that is not there."""
    sql = _OF_ALL if principal.reads_all else _OF_TENANT
    async with database.reading(principal) as connection:
        if user_id is None and subscription_id is None:
            yield Usage(database, principal, connection, sql, None)
            return
        rows = await connection.fetch(sql["subscriptions"], user_id, subscription_id)
        if subscription_id is not None and not rows:
            raise Problem(NOT_FOUND, f"there is no subscription {subscription_id}")
        yield Usage(database, principal, connection, sql, [row["id"] for row in rows])

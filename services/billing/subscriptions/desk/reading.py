"""Reads what an operator wants to know of a subscription: what is planned, redeemed, and was done."""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import UUID

from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.subscriptions.desk")


async def history(connection: Connection, subscription_id: UUID, limit: int) -> list[dict[str, Any]]:
    """Return what was done with a subscription, the last first."""
    rows = await connection.fetch(SQL["history"], str(subscription_id), limit)
    return [
        dict(row) | {name: json.loads(row[name] or "null") for name in ("before", "after", "details")} for row in rows
    ]


async def open_changes(connection: Connection, subscription_id: UUID) -> list[dict[str, Any]]:
    """Return the changes that are asked for and not due yet, in order."""
    return [dict(row) for row in await connection.fetch(SQL["open_changes"], subscription_id)]


async def coupons_of(connection: Connection, subscription_id: UUID) -> list[dict[str, Any]]:
    """Return the coupons that a subscription has redeemed, in order."""
    return [dict(row) for row in await connection.fetch(SQL["coupons_of"], subscription_id)]


async def find(
    connection: Connection, user: str | None, what: str | None, status: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return subscriptions, the latest first: of a user, to a plan or model, in a status, as far as given. `total` counts all."""
    return [dict(row) for row in await connection.fetch(SQL["list"], user, what, status, limit)]

"""Alerts: what users are told about usage and money, once for each cause. What a user does not want is not stored (a trigger sees to it)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg

from shared.errors import TallystickError
from shared.ids import uuid7
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.notices", "alerts.sql")

KINDS = (
    "usage_threshold", "spend", "low_balance", "credits_exhausted", "payment_failed", "payment_disputed", "invoice_overdue",
    "subscription_expiring", "unrated_usage", "webhook_disabled", "provider_key_due",
)  # fmt: skip
"""What a user may want or not want. `spend` is usage_threshold in money."""
MEASURED = {
    "usage_threshold": "per cent of a quota",
    "spend": "amounts of money in a month",
    "subscription_expiring": "days ahead",
}


class AlertRefused(TallystickError):
    """A choice about alerts makes no sense; the message says why."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to tell a user. `cause` is the key: what it is about, down to threshold and period."""

    user_id: UUID
    type: str
    cause: str
    message: str
    subscription_id: UUID | None = None
    threshold: Decimal | None = None
    current_value: Decimal | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid7)


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """An alert as it was raised, by whichever service."""

    id: UUID
    user_id: UUID
    subscription_id: UUID | None
    type: str
    cause: str | None
    threshold: Decimal | None
    current_value: Decimal | None
    message: str
    is_read: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Choice:
    """What a user has chosen for one kind of alert; without one it is raised at the installation's thresholds."""

    kind: str
    enabled: bool
    thresholds: Sequence[Decimal] | None


async def raise_alerts(connection: Connection, alerts: Sequence[Alert]) -> list[Alert]:
    """Store alerts in the caller's transaction; return those that are new and wanted. Whoever has an event to announce, announces these."""
    if not alerts:
        return []
    rows = await connection.fetch(
        SQL["raise_alerts"],
        [a.id for a in alerts],
        [a.user_id for a in alerts],
        [a.subscription_id for a in alerts],
        [a.type for a in alerts],
        [a.cause for a in alerts],
        [a.threshold for a in alerts],
        [a.current_value for a in alerts],
        [a.message for a in alerts],
        [json.dumps(dict(a.metadata), default=str) for a in alerts],
    )
    new = {row["id"] for row in rows}
    return [alert for alert in alerts if alert.id in new]


async def stored_alerts(
    connection: Connection,
    *,
    user_id: UUID | None = None,
    type_: str | None = None,
    unread: bool = False,
    limit: int = 50,
) -> list[StoredAlert]:
    """Return the newest alerts that are as they were asked for."""
    return [StoredAlert(**row) for row in await connection.fetch(SQL["alerts"], user_id, type_, unread, limit)]


async def mark_read(connection: Connection, user_id: UUID, alert_id: UUID, *, at: datetime) -> Mapping[str, Any] | None:
    """Say that a user's alert was read at `at`, unless it was before; return its row, None if they have no such alert."""
    row: Mapping[str, Any] | None = await connection.fetchrow(SQL["mark_read"], alert_id, user_id, at)
    return row


async def mark_all_read(connection: Connection, user_id: UUID, until: datetime, *, at: datetime) -> int:
    """Say that all that a user was told up to `until` was read at `at`; return how many alerts were not before."""
    return len(await connection.fetch(SQL["mark_all_read"], user_id, until, at))


async def choices(connection: Connection, user_id: UUID) -> list[Choice]:
    """Return what a user has chosen."""
    return [Choice(**row) for row in await connection.fetch(SQL["choices"], user_id)]


async def choose(
    connection: Connection, user_id: UUID, kind: str, *, enabled: bool, thresholds: Sequence[Decimal] | None
) -> None:
    """Keep a user's choice for one kind of alert. Raises `AlertRefused` for an unknown user or kind, and thresholds that mean nothing."""
    if kind not in KINDS:
        raise AlertRefused(f"there is no alert '{kind}': there are {', '.join(KINDS)}")
    if thresholds is not None:
        if kind not in MEASURED:
            raise AlertRefused(f"'{kind}' has no thresholds: {', '.join(MEASURED)} have")
        if not thresholds or not all(t.is_finite() and t > 0 for t in thresholds):
            raise AlertRefused(f"thresholds of '{kind}' are {MEASURED[kind]}, each above 0")
    try:
        await connection.execute(SQL["choose"], user_id, kind, enabled, sorted(set(thresholds)) if thresholds else None)
    except asyncpg.ForeignKeyViolationError:
        raise AlertRefused(f"there is no user {user_id}") from None
    except asyncpg.CheckViolationError:
        raise AlertRefused("at most 20 thresholds can be kept") from None

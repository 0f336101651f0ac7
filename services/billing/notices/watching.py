"""Looks for what users want to be told and nothing else tells: money and quota thresholds of their own, endings, usage without a price."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from services.billing import metrics
from services.billing.amounts import amount_text
from services.billing.events import (
    PROVIDER_KEY_DUE,
    QUOTA_THRESHOLD,
    SPEND_THRESHOLD,
    SUBSCRIPTION_EXPIRING,
    USAGE_UNRATED,
    EventType,
    billing_event,
)
from services.billing.notices.alerts import SQL, Alert, raise_alerts
from shared.clock import Clock
from shared.outbox import Outbox
from shared.period import Period
from shared.postgres import Connection, Pool, transaction

_EVENTS: Mapping[tuple[str, str | None], EventType] = {
    ("usage_threshold", "amount"): SPEND_THRESHOLD,
    ("usage_threshold", "requests"): QUOTA_THRESHOLD,
    ("usage_threshold", "tokens"): QUOTA_THRESHOLD,
    ("subscription_expiring", None): SUBSCRIPTION_EXPIRING,
    ("unrated_usage", None): USAGE_UNRATED,
    ("provider_key_due", None): PROVIDER_KEY_DUE,
}


Look = Callable[[Connection], Awaitable[Sequence[Alert]]]


@dataclass(frozen=True, slots=True)
class Watch:
    """One look at everything. What was told before is not told again: causes are keys."""

    pool: Pool
    clock: Clock
    outbox: Outbox
    expiring_days: int
    unrated_after: timedelta

    async def __call__(self) -> dict[str, int]:
        """Raise what is new, with its events, each kind in a transaction of its own; return how many alerts of each type that made."""
        return await self._raise(self._spend, self._quota, self._expiring, self._unrated, self._provider_keys)

    async def quotas(self) -> dict[str, int]:
        """The same for quotas alone, which is a cheap look: to be had every few seconds."""
        return await self._raise(self._quota)

    async def _raise(self, *looks: Look) -> dict[str, int]:
        told: dict[str, int] = {}
        for look in looks:
            async with transaction(self.pool) as connection:
                new = await raise_alerts(connection, await look(connection))
                await self.outbox.enqueue(connection, [self._event(alert) for alert in new])
            for alert in new:
                metrics.ALERTS.labels(alert.type).inc()
                told[alert.type] = told.get(alert.type, 0) + 1
        return told

    def _event(self, alert: Alert) -> Any:
        kind = _EVENTS[alert.type, alert.metadata.get("dimension")]
        data = {"alert": str(alert.id), "user_id": str(alert.user_id), "message": alert.message, **alert.metadata}
        return billing_event(kind, alert.user_id, self.clock.now(), data)

    async def _spend(self, connection: Connection) -> Sequence[Alert]:
        month = Period.month_of(self.clock.now())
        rows = await connection.fetch(SQL["spend_reached"], month.start, month.end)
        return [_spend_alert(row, month) for row in rows]

    async def _quota(self, connection: Connection) -> Sequence[Alert]:
        return [_quota_alert(row) for row in await connection.fetch(SQL["quota_reached"])]

    async def _expiring(self, connection: Connection) -> Sequence[Alert]:
        rows = await connection.fetch(SQL["expiring"], self.clock.now(), Decimal(self.expiring_days))
        return [_expiring_alert(row) for row in rows]

    async def _unrated(self, connection: Connection) -> Sequence[Alert]:
        rows = await connection.fetch(SQL["unrated"], self.clock.now() - self.unrated_after)
        return [_unrated_alert(row) for row in rows]

    async def _provider_keys(self, connection: Connection) -> Sequence[Alert]:
        rows = await connection.fetch(SQL["provider_keys_due"], self.clock.now())
        return [_provider_key_alert(row) for row in rows]


def _spend_alert(row: Mapping[str, Any], month: Period) -> Alert:
    spent, threshold, currency = row["amount"], row["threshold"], row["currency"]
    name = f"{month.start:%Y-%m}"
    return Alert(
        row["user_id"],
        "usage_threshold",
        row["cause"],
        f"Usage of {name} has come to {amount_text(spent)} {currency}, past the {amount_text(threshold)} {currency} you wanted to be told at.",
        threshold=threshold,
        current_value=spent,
        metadata={
            "dimension": "amount", "currency": currency, "spent": amount_text(spent), "threshold": amount_text(threshold), "month": name,
        },
    )  # fmt: skip


def _quota_alert(row: Mapping[str, Any]) -> Alert:
    percent, used, quota = row["threshold"], row["used"], row["quota"]
    return Alert(
        row["user_id"],
        "usage_threshold",
        row["cause"],
        f"{amount_text(percent)} % of the quota of {quota} {row['dimension']} are used: {used}.",
        subscription_id=row["subscription_id"],
        threshold=percent,
        current_value=round(Decimal(used) * 100 / quota, 2) if quota else Decimal(100),
        metadata={
            "subscription_id": str(row["subscription_id"]), "dimension": row["dimension"], "percent": float(percent), "used": used,
            "quota": quota,
        },
    )  # fmt: skip


def _expiring_alert(row: Mapping[str, Any]) -> Alert:
    ends_at, days = row["ends_at"], row["days"]
    return Alert(
        row["user_id"],
        "subscription_expiring",
        row["cause"],
        f"Your subscription ends on {ends_at:%Y-%m-%d at %H:%M} UTC.",
        subscription_id=row["subscription_id"],
        threshold=days,
        metadata={
            "subscription_id": str(row["subscription_id"]),
            "ends_at": ends_at.isoformat(),
            "days_ahead": int(days),
        },
    )


def _unrated_alert(row: Mapping[str, Any]) -> Alert:
    what = row["model_id"] or row["tool_name"]
    return Alert(
        row["user_id"],
        "unrated_usage",
        row["cause"],
        f"{row['events']:,} uses of {what} in {row['month']:%Y-%m} have no price yet. They are billed when there is one.",
        subscription_id=row["subscription_id"],
        current_value=Decimal(row["events"]),
        metadata={
            "subscription_id": str(row["subscription_id"]), "model": row["model_id"] or None, "tool": row["tool_name"] or None,
            "month": f"{row['month']:%Y-%m}", "events": row["events"], "since": row["since"].isoformat(),
        },
    )  # fmt: skip


def _provider_key_alert(row: Mapping[str, Any]) -> Alert:
    due = row["rotation_due_at"]
    return Alert(
        row["user_id"],
        "provider_key_due",
        f"provider key {row['id']}, due {due.isoformat()}",
        f"Your key '{row['key_name']}' at {row['provider']} (…{row['key_hint']}) was to be replaced by {due:%Y-%m-%d}.",
        metadata={
            "provider_key": str(row["id"]), "provider": row["provider"], "key_name": row["key_name"], "due_at": due.isoformat(),
        },
    )  # fmt: skip

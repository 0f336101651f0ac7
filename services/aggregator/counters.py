"""Quota counters: what usage and time do to locked subscriptions, and what that announces.

One way for the handler, which has usage, and for the timer, which has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from services.aggregator import metrics, store
from services.aggregator.aggregation import UsageByHour
from services.aggregator.quota import QuotaPolicy, Subscription, plan, thresholds
from shared.contracts import BILLING_EVENTS, CLOUDEVENT_HEADERS, BillingEvent, encode
from shared.outbox import Message, Outbox
from shared.postgres import Connection

SOURCE = "tallystick/aggregator"
THRESHOLD_EVENT = "tallystick.quota.threshold.v1"
TOLD_SUBSCRIPTIONS = 50_000
"""Most subscriptions of which a worker remembers what it has raised: some 10 MB. Beyond, it begins anew."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of subscriptions whose counters moved, in pairs of before and after."""

    changes: Sequence[tuple[Subscription, Subscription]] = ()
    rolled: int = 0
    percents: Sequence[int] = ()

    @property
    def status_changed(self) -> bool:
        """Whether gateways have to hear of something."""
        return any(after.status_version > after.status_published_version for _, after in self.changes)

    def count(self) -> None:
        """Put it into the metrics, once it is committed."""
        metrics.count_quota(
            suspended=[
                reason
                for before, after in self.changes
                for reason in after.suspended_reasons
                if reason not in before.suspended_reasons
            ],
            reactivated=sum(
                before.status == "suspended" and after.status in {"active", "trialing"}
                for before, after in self.changes
            ),
            rolled=self.rolled,
            percents=self.percents,
        )


@dataclass(frozen=True, slots=True)
class Counters:
    """Moves the quota counters of subscriptions."""

    policy: QuotaPolicy
    outbox: Outbox
    _told: dict[UUID, Subscription] = field(default_factory=dict)
    """Subscriptions as this worker left them, with all thresholds raised that they had reached. Who is found otherwise, by whatever
    hand, has all of them asked for again."""

    async def settle(
        self, connection: Connection, locked: Sequence[Subscription], usage: Mapping[UUID, UsageByHour], now: datetime
    ) -> Settled:
        """Add usage, whose summaries are stored already, to `locked` subscriptions; roll the periods that are over at `now`.

        The trigger check_subscription_quota suspends and reactivates. Alerts and their events are stored with it.
        """
        planned = plan(locked, usage, now, self.policy.interval)
        rolled = await store.roll_quota_periods(connection, planned.rolls)
        counted = await store.count_usage(connection, planned.increments)
        moved = rolled + counted
        told = {s.id: s for s in locked if _as_told(s, self._told.get(s.id)) and not s.is_due(now)}
        alerts = await store.raise_thresholds(connection, thresholds(moved, self.policy.thresholds, told))
        await self.outbox.enqueue(connection, [_threshold_event(alert, now) for alert in alerts])
        before = {subscription.id: subscription for subscription in locked}
        return Settled(
            changes=[(before[after.id], after) for after in moved],
            rolled=len(rolled),
            percents=[alert["percent"] for alert in alerts],
        )

    def committed(self, settled: Settled) -> None:
        """After COMMIT: count what it came to, and remember for whom nothing has to be raised again."""
        settled.count()
        if len(self._told) + len(settled.changes) > TOLD_SUBSCRIPTIONS:
            self._told.clear()
        self._told.update((after.id, after) for _, after in settled.changes)


def _as_told(found: Subscription, told: Subscription | None) -> bool:
    """Return whether a subscription is as it was left: whoever changes its quota or its period gives it another version."""
    return told is not None and (found.status_version, found.used_requests, found.used_tokens) == (
        told.status_version,
        told.used_requests,
        told.used_tokens,
    )


def _threshold_event(alert: Mapping[str, Any], now: datetime) -> Message:
    """Return the event of an alert. Its id is the alert's: stable, however often it is published."""
    subscription = str(alert["subscription_id"])
    data = {
        "user_id": str(alert["user_id"]),
        "subscription_id": subscription,
        **{name: alert[name] for name in ("dimension", "percent", "used", "quota", "message")},
    }
    event = BillingEvent(
        id=str(alert["id"]), type=THRESHOLD_EVENT, time=now, subject=subscription, data=data, source=SOURCE
    )
    return Message(topic=BILLING_EVENTS, value=encode(event), key=subscription.encode(), headers=CLOUDEVENT_HEADERS)

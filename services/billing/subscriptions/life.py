"""The life of a subscription (pure): what may follow what, and what each step changes.

Suspension is not decided here: its rule is in the database (check_subscription_quota, suspend_subscription, clear_suspension), one for
all who suspend. Each step returns the subscription as it becomes, or raises `StepRefused` with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal
from uuid import UUID

from services.billing.plans.intervals import CALENDAR_ANCHOR, intervals
from services.billing.plans.terms import PlanTerms
from shared.errors import NotFound, TallystickError
from shared.period import Period

Status = Literal["pending", "trialing", "active", "paused", "suspended", "cancelled", "expired"]

MAY_BECOME: Final[Mapping[Status, frozenset[Status]]] = {
    "pending": frozenset({"trialing", "active", "cancelled", "expired"}),
    "trialing": frozenset({"active", "paused", "suspended", "cancelled", "expired"}),
    "active": frozenset({"paused", "suspended", "cancelled", "expired"}),
    "paused": frozenset({"active", "cancelled", "expired"}),
    "suspended": frozenset({"active", "trialing", "cancelled", "expired"}),
    "expired": frozenset({"active", "cancelled"}),
    "cancelled": frozenset(),
}
"""The steps that there are; the trigger check_subscription_transition holds everybody to them."""
LIMITS: Final = {"quota_requests": "requestsPerMonth", "quota_tokens": "tokensPerMonth"}
_SECOND: Final = timedelta(seconds=1)


class StepRefused(TallystickError):
    """A subscription cannot take a step; the message says why and what to do."""


class NoSuchSubscription(NotFound, StepRefused):
    """There is no subscription of that id."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as far as steps of its life change it. `amount` 0: the fee is the plan's; `anchor`: its intervals count from there."""

    id: UUID
    user_id: UUID
    model_id: str | None
    plan_id: str | None
    status: Status
    status_before_suspension: Status | None
    suspended_reasons: tuple[str, ...]
    billing_mode: str
    amount: Decimal
    currency: str
    interval: str
    interval_count: int
    quota_requests: int | None
    quota_tokens: int | None
    billing_anchor: datetime | None
    anchor: datetime
    current_period_start: datetime | None
    current_period_end: datetime | None
    trial_start: datetime | None
    trial_end: datetime | None
    cancel_at_period_end: bool
    expires_at: datetime | None
    created_at: datetime

    @property
    def in_trial(self) -> bool:
        """Whether it is in its trial, suspended or not."""
        return "trialing" in (self.status, self.status_before_suspension)

    @property
    def ended(self) -> bool:
        return self.status in ("cancelled", "expired")

    def months(self, terms: PlanTerms | None) -> int:
        """Return how long its intervals are: those of a fee of its own, else of its plan."""
        if terms is not None and self.amount == 0:
            return terms.months
        return self.interval_count * (12 if self.interval == "year" else 1)

    def interval_at(self, at: datetime, terms: PlanTerms | None) -> Period:
        """Return the billing interval that holds a time: the trial while it is in one."""
        if self.in_trial and self.trial_start and self.trial_end and self.trial_start <= at < self.trial_end:
            return Period(self.trial_start, self.trial_end)
        anchor = CALENDAR_ANCHOR if terms is not None and terms.calendar else self.anchor
        return Period(*next(intervals(anchor, self.months(terms), at, at + _SECOND)))

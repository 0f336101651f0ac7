"""What plans ask for (pure): their versions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.billing.plans.meters import Meter


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """One version of a plan, in force from `valid_from` until the next: docs/how-to/plans-and-subscriptions.md says what each part means."""

    id: UUID | None
    plan_id: str | None
    name: str
    valid_from: datetime
    amount: Decimal
    currency: str
    months: int
    calendar: bool = False
    in_arrears: bool = False
    trial_days: int = 0
    includes_usage: bool = False
    meters: tuple[Meter, ...] = ()
    minimum: Decimal | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    hard_limits: bool = True

    @property
    def concerns_usage(self) -> bool:
        """Whether charges depend on what was used."""
        return self.includes_usage or bool(self.meters) or self.minimum is not None


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of one plan in order; the first has always applied."""

    terms: Sequence[PlanTerms]

    def at(self, at: datetime) -> PlanTerms:
        """Return the version in force at `at`."""
        index = bisect_right(self.terms, at, key=lambda t: t.valid_from) - 1
        return self.terms[max(index, 0)]

"""What a subscription was on, interval by interval (pure): from the history of its terms and the versions of its plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import groupby, pairwise
from typing import Literal
from uuid import UUID

from services.billing.plans.intervals import CALENDAR_ANCHOR, intervals
from services.billing.plans.terms import PlanTerms, Versions

Phase = Literal["pending", "trial", "live", "paused", "ended"]
BillingMode = Literal["postpaid", "prepaid"]


@dataclass(frozen=True, slots=True)
class State:
    """A row of subscription_terms: in force from `valid_from` until the next one. `amount` 0: the fee of the plan."""

    valid_from: datetime
    phase: Phase
    plan_id: str | None
    amount: Decimal
    currency: str
    months: int
    billing_mode: str
    anchor: datetime


@dataclass(frozen=True, slots=True)
class Redemption:
    """A coupon that a subscription redeemed: `percent` or `amount_off` (in `currency`) for `periods` intervals, None: all."""

    code: str
    name: str
    redeemed_at: datetime
    percent: Decimal | None
    amount_off: Decimal | None
    currency: str | None
    fee_only: bool
    periods: int | None


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription with its whole history, and the coupons it redeemed, both in order of time. `name`: of the model, where it has no plan."""

    id: UUID
    user_id: UUID
    name: str
    usage_currency: str
    states: Sequence[State]
    redemptions: Sequence[Redemption] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an interval with one phase and one set of terms."""

    start: datetime
    end: datetime
    phase: Phase
    terms: PlanTerms

    @property
    def fee(self) -> tuple[str | None, Decimal, str]:
        """What distinguishes one flat fee from another."""
        return self.terms.plan_id, self.terms.amount, self.terms.currency


@dataclass(frozen=True, slots=True)
class Interval:
    """A billing interval `whole`, as far as the subscription was on it; `goes_on`: it was left before its end for other terms."""

    whole: tuple[datetime, datetime]
    spans: Sequence[Span]
    goes_on: bool = False

    @property
    def begins(self) -> datetime:
        return self.spans[0].start

    @property
    def ends(self) -> datetime:
        return self.spans[-1].end


def timeline(
    subscription: Subscription,
    plans: Mapping[str, Versions],
    since: datetime,
    until: datetime,
    *,
    mode: BillingMode = "postpaid",
) -> Iterator[Interval]:
    """Yield the intervals that end after `since` and begin before `until`, in order. Times in the other mode, and ended ones, have none.

    Prepaid times on a plan that concerns usage have none either: their usage debits credits at its prices.
    """
    for grid, states in _runs(subscription, plans, mode):
        run_end = grid.end
        for whole in intervals(grid.anchor, grid.months, max(since, grid.start), min(until, run_end or until)):
            spans = list(_spans(subscription, plans, states, whole, run_end))
            if spans and spans[-1].end > since:
                left_early = run_end is not None and run_end < whole[1]
                yield Interval(whole, spans, goes_on=left_early and grid.followed)


@dataclass(frozen=True, slots=True)
class _Grid:
    """What intervals are counted by while states follow each other; `followed`: something else comes after, not the end."""

    anchor: datetime
    months: int
    start: datetime
    end: datetime | None = None
    followed: bool = False


def _runs(
    subscription: Subscription, plans: Mapping[str, Versions], mode: BillingMode
) -> Iterator[tuple[_Grid, Sequence[tuple[State, datetime]]]]:
    """Yield runs of states that share their grid; each state with the time since which its plan was in force without a break."""
    runs = [
        (key, list(found))
        for key, found in groupby(_since(subscription.states), lambda s: _grid_key(s[0], plans, mode))
    ]
    for (key, states), following in pairwise([*runs, (None, [])]):
        if key is None:
            continue
        grid = _Grid(key[0], key[1], states[0][0].valid_from)
        if following[1]:
            next_state = following[1][0][0]
            grid = replace(grid, end=next_state.valid_from, followed=next_state.phase != "ended")
        yield grid, states


def _since(states: Sequence[State]) -> Iterator[tuple[State, datetime]]:
    for _, same in groupby(states, lambda s: (s.plan_id, s.amount)):
        found = list(same)
        yield from ((state, found[0].valid_from) for state in found)


def _grid_key(state: State, plans: Mapping[str, Versions], mode: BillingMode) -> tuple[datetime, int] | None:
    if state.phase in ("pending", "ended") or state.billing_mode != mode:
        return None
    if mode == "prepaid" and state.plan_id and plans[state.plan_id].at(state.valid_from).concerns_usage:
        return None
    terms = plans[state.plan_id].terms[0] if state.plan_id else None
    calendar = terms is not None and terms.calendar
    months = terms.months if terms is not None and state.amount == 0 else state.months
    return (CALENDAR_ANCHOR if calendar else state.anchor), months


def _spans(
    subscription: Subscription,
    plans: Mapping[str, Versions],
    states: Sequence[tuple[State, datetime]],
    whole: tuple[datetime, datetime],
    run_end: datetime | None,
) -> Iterator[Span]:
    begins, ends = whole
    ends = min(ends, run_end) if run_end else ends
    bounds = [*(state.valid_from for state, _ in states[1:]), None]
    for (state, plan_since), upto in zip(states, bounds, strict=True):
        start, end = max(begins, state.valid_from), min(ends, upto) if upto else ends
        if start < end:
            yield Span(start, end, state.phase, _terms(subscription, plans, state, max(begins, plan_since)))


def _terms(subscription: Subscription, plans: Mapping[str, Versions], state: State, at: datetime) -> PlanTerms:
    """Return the terms of a state: its plan's version at `at`, with a fee of its own in place of the plan's."""
    if state.plan_id is None:
        return PlanTerms(None, None, subscription.name, at, state.amount, state.currency, state.months)
    terms = plans[state.plan_id].at(at)
    if state.amount == 0:
        return terms
    return replace(terms, amount=state.amount, currency=state.currency, months=state.months)

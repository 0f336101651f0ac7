"""The steps of a subscription's life: what each changes, and what is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

import pytest

from services.billing.plans.terms import PlanTerms
from services.billing.subscriptions import steps
from services.billing.subscriptions.life import MAY_BECOME, Status, StepRefused, Subscription

START = datetime(2026, 10, 10, 8, 30, tzinfo=UTC)
LATER = datetime(2026, 11, 1, tzinfo=UTC)


def plan(name: str = "team", months: int = 1, **more: Any) -> PlanTerms:
    return PlanTerms(UUID(int=1), name, name.title(), START, Decimal(10), "EUR", months, **more)


TEAM = Subscription(
    id=UUID(int=7), user_id=UUID(int=8), model_id=None, plan_id="team", status="active", status_before_suspension=None,
    suspended_reasons=(), billing_mode="postpaid", amount=Decimal(0), currency="EUR", interval="month", interval_count=1,
    quota_requests=None, quota_tokens=None, billing_anchor=None, anchor=START, current_period_start=START,
    current_period_end=datetime(2026, 11, 10, 8, 30, tzinfo=UTC), trial_start=None, trial_end=None, cancel_at_period_end=False,
    expires_at=None, created_at=START,
)  # fmt: skip
SUSPENDED = replace(
    TEAM, status="suspended", status_before_suspension="active", suspended_reasons=("admin", "payment_overdue")
)


def test_every_status_has_its_steps() -> None:
    assert set(MAY_BECOME) == set(get_args(Status))
    assert all(steps.become(replace(TEAM, status=a), b).status == b for a, bs in MAY_BECOME.items() for b in bs)


@pytest.mark.parametrize(
    ("before", "step", "reason"),
    [
        (replace(TEAM, status="cancelled"), steps.pause, "is cancelled and cannot become paused: a cancelled subscription is final"),
        (SUSPENDED, steps.pause, r"is suspended \(admin, payment_overdue\) and cannot become paused: clear the reasons"),
        (replace(TEAM, status="paused"), steps.pause, "is paused already"),
        (replace(TEAM, status="expired"), steps.pause, "renew it first"),
        (TEAM, lambda s: steps.resume(s, LATER, plan()), "only a paused one is resumed"),
        (TEAM, lambda s: steps.renew(s, LATER, plan()), "only an expired one is renewed"),
        (TEAM, lambda s: steps.change_plan(s, plan(), plan(), LATER), "is on plan team already"),
        (TEAM, lambda s: steps.change_plan(s, plan(), replace(plan("big"), currency="USD"), LATER), "is billed in EUR, plan big in USD"),
        (replace(TEAM, model_id="gpt-4o", plan_id=None), lambda s: steps.change_plan(s, None, plan(), LATER), "is for the model gpt-4o"),
        (replace(TEAM, status="expired"), lambda s: steps.change_plan(s, plan(), plan("big"), LATER), "its plan cannot change any more"),
        (replace(TEAM, status="cancelled"), steps.cancel_at_period_end, "is cancelled already"),
    ],
)  # fmt: skip
def test_what_is_not_possible_is_refused_with_the_reason(
    before: Subscription, step: Callable[[Subscription], Subscription], reason: str
) -> None:
    with pytest.raises(StepRefused, match=reason):
        step(before)


def test_another_plan_brings_its_limits_and_takes_the_fee_of_its_own_away() -> None:
    limits = {"requestsPerMonth": 100, "tokensPerMonth": None}
    changed = steps.change_plan(replace(TEAM, amount=Decimal(5)), plan(), plan("big", limits=limits), LATER)
    assert (changed.plan_id, changed.amount, changed.quota_requests, changed.quota_tokens) == (
        "big",
        Decimal(0),
        100,
        None,
    )
    assert changed.billing_anchor is None, "the same months go on"
    soft = steps.change_plan(TEAM, plan(), plan("big", limits=limits, hard_limits=False), LATER)
    assert soft.quota_requests is None, "soft limits do not suspend"


def test_a_plan_with_other_intervals_begins_them_at_once() -> None:
    yearly = steps.change_plan(TEAM, plan(), plan("yearly", 12), LATER)
    assert (yearly.billing_anchor, yearly.current_period_end) == (LATER, datetime(2027, 11, 1, tzinfo=UTC))
    assert (yearly.interval, yearly.interval_count) == ("year", 1)


def test_a_trial_ends_where_billing_begins() -> None:
    tried = replace(TEAM, status="trialing", trial_start=START, trial_end=LATER, current_period_end=LATER)
    assert tried.interval_at(START + timedelta(days=3), plan()).end == LATER
    begun = steps.activate(tried, LATER, plan())
    assert (begun.status, begun.billing_anchor, begun.current_period_start) == ("active", LATER, LATER)
    assert begun.current_period_end == datetime(2026, 12, 1, tzinfo=UTC)


def test_a_trial_that_ends_while_suspended_comes_back_as_active() -> None:
    tried = replace(SUSPENDED, status_before_suspension="trialing", trial_start=START, trial_end=LATER)
    begun = steps.activate(tried, LATER, plan())
    assert (begun.status, begun.status_before_suspension, begun.billing_anchor) == ("suspended", "active", LATER)


def test_who_resumes_is_in_the_interval_that_it_would_be_in() -> None:
    resumed = steps.resume(replace(TEAM, status="paused"), datetime(2027, 1, 15, tzinfo=UTC), plan())
    assert resumed.current_period_start == datetime(2027, 1, 10, 8, 30, tzinfo=UTC)


def test_a_new_version_of_the_plan_brings_its_limits_with_the_next_interval() -> None:
    before = plan(limits={"requestsPerMonth": 100, "tokensPerMonth": 5000})
    after = replace(before, id=UUID(int=2), limits={"requestsPerMonth": 200, "tokensPerMonth": 6000})
    rolled = steps.roll(replace(TEAM, quota_requests=100, quota_tokens=9999), LATER, after, before)
    assert rolled.quota_requests == 200
    assert rolled.quota_tokens == 9999, "a quota of its own stays"


def test_calendar_plans_roll_to_the_first_of_the_month() -> None:
    rolled = steps.roll(TEAM, LATER, plan(calendar=True))
    assert (rolled.current_period_start, rolled.current_period_end) == (LATER, datetime(2026, 12, 1, tzinfo=UTC))

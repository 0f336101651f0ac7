"""The laws of quota periods, counters, thresholds and suspension."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.aggregator.quota import (
    Interval,
    QuotaPeriod,
    Standing,
    Subscription,
    counted,
    judge,
    next_reset,
    period_at,
    plan,
    remaining,
    thresholds,
)
from shared.period import HOUR
from tests.unit.aggregator.facts import ALICE, BOB, NOON

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)

hours = st.integers(0, 400_000).map(lambda n: datetime(2000, 1, 1, tzinfo=UTC) + n * HOUR)
intervals: st.SearchStrategy[Interval] = st.sampled_from(["day", "week", "month"])


def subscription(**fields: Any) -> Subscription:
    facts: dict[str, Any] = {
        "id": ALICE, "status": "active", "suspended_reasons": [], "quota_requests": 100, "quota_tokens": None,
        "used_requests": 0, "used_tokens": 0, "quota_period_start": NOVEMBER, "reset_at": DECEMBER,
        "status_version": 0, "status_published_version": 0,
    }  # fmt: skip
    return Subscription(**{**facts, **fields})


# --- periods ---------------------------------------------------------------------------------------------------------


def resets(start: datetime, reset_at: datetime, count: int, interval: Interval = "month") -> list[datetime]:
    """The resets that follow."""
    found = []
    for _ in range(count):
        start, reset_at = reset_at, next_reset(start, reset_at, interval)
        found.append(reset_at)
    return found


def test_a_calendar_month_follows_a_calendar_month() -> None:
    assert resets(NOVEMBER, DECEMBER, 2) == [JANUARY, datetime(2027, 2, 1, tzinfo=UTC)]


def test_a_first_period_that_began_midmonth_does_not_shift_the_resets() -> None:
    assert resets(datetime(2026, 11, 15, 9, tzinfo=UTC), DECEMBER, 1) == [JANUARY]


@pytest.mark.parametrize("day", [28, 29, 30, 31])
def test_a_day_that_a_month_lacks_comes_back_in_the_next(day: int) -> None:
    start = datetime(2027, 1, day, 6, tzinfo=UTC)
    first = datetime(2027, 2, 28, 6, tzinfo=UTC)
    found = [start, first, *resets(start, first, 60)]
    assert {at.hour for at in found} == {6}
    assert [(at.year, at.month) for at in found] == [(2027 + m // 12, m % 12 + 1) for m in range(62)]
    assert all(at.day == day or (at + timedelta(days=1)).day == 1 for at in found)


def test_days_and_weeks_keep_their_length() -> None:
    assert resets(NOVEMBER, DECEMBER, 1, "day") == [datetime(2026, 12, 2, tzinfo=UTC)]
    assert resets(NOVEMBER, DECEMBER, 1, "week") == [datetime(2026, 12, 8, tzinfo=UTC)]


@given(hours, st.integers(1, 2000), st.integers(0, 20_000), intervals)
def test_rolling_reaches_the_one_period_that_holds_the_present(
    start: datetime, length: int, later: int, interval: Interval
) -> None:
    first = QuotaPeriod(start, start + length * HOUR)
    now = start + timedelta(minutes=37 * later)
    reached = period_at(first, now, interval)

    assert reached.reset_at is not None
    assert now < reached.reset_at
    assert reached == first or reached.start <= now
    assert (reached.start.minute, reached.reset_at.minute) == (0, 0)
    assert period_at(reached, now, interval) == reached
    earlier = start + (now - start) / 2
    assert period_at(period_at(first, earlier, interval), now, interval) == reached, "catching up in two steps"


def test_a_period_without_an_end_is_never_rolled() -> None:
    endless = QuotaPeriod(NOVEMBER, None)
    assert period_at(endless, datetime(2099, 1, 1, tzinfo=UTC), "month") == endless
    assert NOON in endless


# --- counters --------------------------------------------------------------------------------------------------------

usages = st.dictionaries(
    st.integers(-800, 800).map(lambda n: DECEMBER + n * HOUR), st.tuples(st.integers(0, 9), st.integers(0, 99))
)


@given(usages)
def test_each_hour_is_counted_in_one_period_only(usage: dict[datetime, tuple[int, int]]) -> None:
    beginning, end = DECEMBER - 900 * HOUR, DECEMBER + 900 * HOUR
    periods = [QuotaPeriod(beginning, NOVEMBER), QuotaPeriod(NOVEMBER, DECEMBER), QuotaPeriod(DECEMBER, end)]
    parts = [counted(usage, period) for period in periods]
    assert [sum(column) for column in zip(*parts, strict=True)] == list(counted(usage, QuotaPeriod(beginning, end)))


def test_usage_of_another_period_moves_no_counter() -> None:
    late, early = NOVEMBER - HOUR, DECEMBER
    planned = plan([subscription()], {ALICE: {late: (5, 50), early: (7, 70)}}, NOON, "month")
    assert (planned.increments, planned.rolls) == ([], [])


def test_usage_of_the_period_is_added() -> None:
    planned = plan([subscription()], {ALICE: {NOON: (5, 50), DECEMBER - HOUR: (1, 2)}}, NOON, "month")
    assert planned.increments == [(ALICE, 6, 52)]


def test_a_period_that_is_over_is_rolled_instead_of_added_to() -> None:
    due, ended = subscription(), subscription(id=BOB, status="cancelled")
    usage = {ALICE: {DECEMBER: (1, 1)}, BOB: {DECEMBER: (1, 1)}}
    planned = plan([due, ended], usage, DECEMBER, "month")
    assert planned.rolls == [(ALICE, QuotaPeriod(DECEMBER, JANUARY))]
    assert planned.increments == [], "what has ended keeps the counters of its last period"


# --- thresholds and what remains -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "expected"),
    [(0, []), (49, []), (50, [50]), (79, [50]), (80, [50, 80]), (99, [50, 80]), (250, [50, 80, 100])],
)
def test_thresholds_are_reached_at_their_percentage(used: int, expected: list[int]) -> None:
    reached = thresholds([subscription(used_requests=used)], (50, 80, 100), {})
    assert [(t.dimension, t.percent) for t in reached] == [("requests", percent) for percent in expected]


def test_requests_and_tokens_have_thresholds_of_their_own() -> None:
    used = subscription(used_requests=50, quota_tokens=10, used_tokens=10)
    assert [(t.dimension, t.percent) for t in thresholds([used], (50, 100), {})] == [
        ("requests", 50), ("tokens", 50), ("tokens", 100),
    ]  # fmt: skip


@given(st.integers(0, 30), st.integers(0, 30), st.one_of(st.none(), st.integers(0, 20)))
def test_what_was_told_and_what_is_new_are_all_that_is_reached(before: int, more: int, quota: int | None) -> None:
    then = subscription(used_requests=before, quota_requests=quota)
    now = then._replace(used_requests=before + more)
    told, new = thresholds([then], (50, 80, 100), {}), thresholds([now], (50, 80, 100), {ALICE: then})
    assert [t.percent for t in [*told, *new]] == [t.percent for t in thresholds([now], (50, 80, 100), {})]


def test_what_remains_is_never_negative() -> None:
    assert [remaining(None, 5), remaining(10, 4), remaining(10, 12)] == [None, 6, 0]


# --- the rule --------------------------------------------------------------------------------------------------------

statuses = st.sampled_from(["pending", "trialing", "active", "paused", "cancelled", "expired"])
limits = st.one_of(st.none(), st.integers(0, 20))
standings = st.builds(
    Standing,
    status=statuses,
    quota_requests=limits,
    quota_tokens=limits,
    used_requests=st.integers(0, 30),
    used_tokens=st.integers(0, 30),
).map(judge)


@given(standings)
def test_judging_twice_changes_nothing(standing: Standing) -> None:
    assert judge(standing) == standing


@given(standings)
def test_suspended_means_for_a_reason(standing: Standing) -> None:
    assert (standing.status == "suspended") == bool(standing.reasons) == (standing.before_suspension is not None)


@given(standings, st.integers(0, 30), st.integers(0, 30))
def test_more_usage_never_reactivates(standing: Standing, requests: int, tokens: int) -> None:
    more = replace(standing, used_requests=standing.used_requests + requests, used_tokens=standing.used_tokens + tokens)
    assert judge(more).reasons >= standing.reasons


@given(statuses, limits, limits)
def test_a_reset_undoes_what_usage_did(status: str, requests: int | None, tokens: int | None) -> None:
    fresh = judge(Standing(status, quota_requests=requests, quota_tokens=tokens))
    exhausted = judge(replace(fresh, used_requests=99, used_tokens=99))
    assert judge(replace(exhausted, used_requests=0, used_tokens=0)) == fresh


@given(standings)
def test_another_reason_outlasts_a_reset(standing: Standing) -> None:
    if standing.status == "suspended":
        owing = replace(
            standing, reasons=standing.reasons | {"payment_overdue"}, quota_requests=None, quota_tokens=None
        )
        assert judge(owing).status == "suspended"
        assert judge(owing).reasons == {"payment_overdue"}


@given(standings)
def test_what_has_ended_or_not_begun_is_never_suspended(standing: Standing) -> None:
    if standing.status in {"pending", "paused", "cancelled", "expired"}:
        assert not standing.reasons


def test_usage_equal_to_the_quota_suspends() -> None:
    assert judge(Standing("active", quota_requests=10, used_requests=9)).status == "active"
    assert judge(Standing("active", quota_requests=10, used_requests=10)).reasons == {"quota_requests"}
    assert judge(Standing("trialing", quota_tokens=10, used_tokens=10)).before_suspension == "trialing"

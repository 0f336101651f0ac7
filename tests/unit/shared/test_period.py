"""Half-open UTC periods and their edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.period import Period, day_start, hour_start, month_start, next_month, utc

zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
epoch = datetime(2026, 1, 1, tzinfo=UTC)
instants = st.builds(
    lambda us, zone: (epoch + timedelta(microseconds=us)).astimezone(zone),
    st.integers(-(4 * 10**15), 4 * 10**15),
    zones,
)
periods = st.tuples(instants, instants).filter(lambda ends: ends[0] < ends[1]).map(lambda ends: Period(*ends))


@given(instants)
def test_starts_are_the_edges_of_the_utc_calendar(at: datetime) -> None:
    hour, day, month = hour_start(at), day_start(at), month_start(at)

    assert month <= day <= hour <= at < hour + timedelta(hours=1)
    assert all(start.tzinfo is UTC for start in (hour, day, month))
    assert (hour.minute, hour.second, hour.microsecond) == (0, 0, 0)
    assert (day.hour, month.hour, month.day) == (0, 0, 1)
    assert [hour_start(hour), day_start(day), month_start(month)] == [hour, day, month]


@given(instants)
def test_months_follow_each_other_without_a_hole(at: datetime) -> None:
    month = Period.month_of(at)

    assert at in month
    assert month.end not in month
    assert month.end == next_month(at) == month_start(month.end)
    assert timedelta(days=28) <= month.duration <= timedelta(days=31)
    assert month.end - timedelta(microseconds=1) in month


@given(periods, periods, instants)
def test_periods_overlap_if_and_only_if_they_share_an_instant(one: Period, other: Period, at: datetime) -> None:
    assert one.overlaps(other) == other.overlaps(one)
    assert one.overlaps(other) == (max(one.start, other.start) in one and max(one.start, other.start) in other)
    if at in one and at in other:
        assert one.overlaps(other)


def test_adjacent_periods_do_not_overlap() -> None:
    march, april = Period.parse_month("2026-03"), Period.parse_month("2026-04")

    assert march.end == april.start
    assert not march.overlaps(april)
    assert march < april


def test_a_period_keeps_utc_and_says_what_it_is() -> None:
    cet = timezone(timedelta(hours=1))
    period = Period(datetime(2026, 1, 1, 1, tzinfo=cet), datetime(2026, 1, 1, 2, tzinfo=cet))

    assert str(period) == "[2026-01-01T00:00:00+00:00, 2026-01-01T01:00:00+00:00)"


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        utc(datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None))


@pytest.mark.parametrize("hours", [0, -1])
def test_a_period_that_does_not_go_forward_is_refused(hours: int) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="start < end"):
        Period(start, start + timedelta(hours=hours))


@pytest.mark.parametrize("text", ["2026", "2026-13", "26-01", "november", "", "9999-12", "2026-11-01"])
def test_what_is_no_month_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 2026-11"):
        Period.parse_month(text)

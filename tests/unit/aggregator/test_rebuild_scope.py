"""The range of a rebuild: what a person may write, and how it is widened to whole months."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.aggregator.rebuild import Difference, parse_hour, widened
from services.aggregator.rebuild.scope import BEGINNING, END
from shared.contracts import LATENCY_BUCKET_COUNT
from shared.period import month_start
from shared.sql import Queries

NOVEMBER, DECEMBER = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2026-11-01", NOVEMBER),
        ("2026-11-01T05", NOVEMBER + timedelta(hours=5)),
        ("2026-11-01 05:00", NOVEMBER + timedelta(hours=5)),
        ("2026-11-01T05:00Z", NOVEMBER + timedelta(hours=5)),
        ("2026-11-01T05:00+02:00", NOVEMBER + timedelta(hours=3)),
    ],
)
def test_hours_are_utc_unless_they_say_otherwise(text: str, hour: datetime) -> None:
    assert parse_hour(text) == hour


@pytest.mark.parametrize(
    "text", ["yesterday", "2026-13-01", "2026-11-01T05:30Z", "2026-11-01T05:00+00:30", "9999-12-31", ""]
)
def test_what_is_no_hour_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 2026-11-01"):
        parse_hour(text)


@pytest.mark.parametrize("end", [NOVEMBER, NOVEMBER - timedelta(hours=1)])
def test_a_range_that_ends_before_it_begins_is_refused(end: datetime) -> None:
    with pytest.raises(ValueError, match="before it begins"):
        widened(NOVEMBER, end)


def test_whole_months_are_left_as_they_are() -> None:
    scope = widened(NOVEMBER, DECEMBER)
    assert (scope.start, scope.end, scope.widened_from) == (NOVEMBER, DECEMBER, None)


def test_no_bounds_are_all_event_times() -> None:
    scope = widened(None, None, UUID(int=1))
    assert (scope.start, scope.end, scope.widened_from) == (BEGINNING, END, None)
    assert str(scope) == f"all event times of subscription {UUID(int=1)}"


_HOURS = st.integers(0, 24 * 800).map(lambda hours: NOVEMBER + timedelta(hours=hours))


@given(_HOURS, _HOURS)
def test_a_range_is_widened_to_whole_months_and_says_so(one: datetime, other: datetime) -> None:
    if one == other:
        return
    start, end = min(one, other), max(one, other)
    scope = widened(start, end)
    assert scope.start <= start < end <= scope.end
    assert scope.start == month_start(start)
    assert scope.end == month_start(scope.end)
    assert scope.end - end < timedelta(days=31)
    assert scope.widened_from == (None if (scope.start, scope.end) == (start, end) else (start, end))


def test_a_difference_names_the_measures_that_differ() -> None:
    found = Difference(
        "hour", UUID(int=1), NOVEMBER, "gpt-4o", "", {"requests": 1, "errors": 0}, {"requests": 2, "errors": 0}
    )
    assert found.measures == ["requests"]


def test_the_queries_know_all_buckets_of_the_histogram() -> None:
    queries = Queries.load("services.aggregator.rebuild")
    assert f"bucket = {LATENCY_BUCKET_COUNT - 1})" in queries["recompute_uses"]
    assert f"bucket = {LATENCY_BUCKET_COUNT})" not in queries["recompute_hours"]
    assert f"latency_histogram[{LATENCY_BUCKET_COUNT}]" in queries["recompute_coarser"]
    assert f"latency_histogram[{LATENCY_BUCKET_COUNT + 1}]" not in queries["recompute_coarser"]

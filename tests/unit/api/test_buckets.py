"""Hours, days and months of time zones: whatever the zone does, each hour is in one bucket."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.usage.buckets import Bucket, Piece, Step, buckets, count_of, cover, whole_hours, zone_named
from shared.period import HOUR, Period, day_start, hour_start, month_start, next_month

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo",
    "Africa/Cairo", "America/Havana", "Pacific/Chatham", "Atlantic/Azores", "Africa/Monrovia",
)  # fmt: skip
HOURS = st.integers(0, 25 * 8766).map(lambda hours: datetime(2005, 1, 1, tzinfo=UTC) + hours * HOUR)
STEPS: tuple[Step, ...] = ("hour", "day", "month")


@st.composite
def ranges(draw: st.DrawFn) -> tuple[Step, Period]:
    step = draw(st.sampled_from(STEPS))
    start = draw(HOURS)
    return step, Period(
        start, start + draw(st.integers(1, {"hour": 60, "day": 40 * 24, "month": 500 * 24}[step])) * HOUR
    )


def edges(found: list[Bucket]) -> list[datetime]:
    return [*(bucket.period.start for bucket in found), found[-1].period.end]


@given(ranges(), st.sampled_from(ZONES))
def test_buckets_follow_on_each_other_and_make_up_the_range(asked: tuple[Step, Period], zone: str) -> None:
    step, period = asked
    found = buckets(step, period, ZoneInfo(zone))
    assert (found[0].period.start, found[-1].period.end) == (period.start, period.end)
    assert all(one.period.end == next_.period.start for one, next_ in pairwise(found))
    assert all(bucket.period.start.minute == 0 for bucket in found)
    assert len({bucket.label for bucket in found}) == len(found)
    assert len(found) <= count_of(step, period) + 1


@given(ranges(), st.sampled_from(ZONES))
def test_an_hour_is_in_the_bucket_of_the_local_day_on_which_it_begins(asked: tuple[Step, Period], zone: str) -> None:
    step, period = asked
    for bucket in buckets(step, period, ZoneInfo(zone)):
        first, last = bucket.period.start, bucket.period.end - HOUR
        shape = {"hour": "%Y-%m-%dT%H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}[step]
        for at in (first, last):
            assert bucket.label.startswith(at.astimezone(ZoneInfo(zone)).strftime(shape))


@given(ranges(), st.sampled_from(ZONES))
def test_the_summaries_of_a_cover_sum_to_each_hour_once_in_its_bucket(asked: tuple[Step, Period], zone: str) -> None:
    step, period = asked
    begins = edges(buckets(step, period, ZoneInfo(zone)))
    net: Counter[tuple[int, datetime]] = Counter()
    for piece in cover(begins):
        for summary in summaries(piece):
            bucket = place_of(summary.start, begins[:-1]) if piece.bucket is None else piece.bucket
            for hour in hours(summary):
                net[bucket, hour] += piece.sign
    whole = {(place_of(hour, begins[:-1]), hour) for hour in hours(period)}
    assert {place for place, times in net.items() if times} == whole
    assert all(net[place] == 1 for place in whole)


@given(st.integers(0, 4_000), st.sampled_from(ZONES))
def test_a_month_by_day_is_made_of_few_summaries(day: int, zone: str) -> None:
    start = datetime(2015, 1, 1, tzinfo=UTC) + timedelta(days=day)
    begins = edges(buckets("day", Period(start, start + timedelta(days=30)), ZoneInfo(zone)))
    assert sum(1 for piece in cover(begins) for _ in summaries(piece)) <= 32 + 2 * 12 * 32


def place_of(at: datetime, begins: list[datetime]) -> int:
    """What width_bucket() - 1 is in the database."""
    return bisect_right(begins, at) - 1


def summaries(piece: Piece) -> Iterator[Period]:
    """The summaries of a piece, which must begin and end on their edges."""
    at = piece.start
    assert {"hour": hour_start, "day": day_start, "month": month_start}[piece.period_type](at) == at
    while at < piece.end:
        following = (
            next_month(at)
            if piece.period_type == "month"
            else at + {"hour": HOUR, "day": timedelta(days=1)}[piece.period_type]
        )
        yield Period(at, following)
        at = following
    assert at == piece.end


def hours(period: Period) -> Iterator[datetime]:
    at = period.start
    while at < period.end:
        yield at
        at += HOUR


@given(HOURS, st.lists(st.integers(1, 5_000), min_size=1, max_size=6), st.sampled_from(ZONES), st.sampled_from(STEPS))
def test_a_range_cut_into_parts_has_the_same_hours(start: datetime, lengths: list[int], zone: str, step: Step) -> None:
    cut, at = [], start
    for length in lengths if step != "hour" else [min(length, 50) for length in lengths]:
        cut.append(Period(at, at + length * HOUR))
        at = cut[-1].end
    parts = [b.period.duration for part in cut for b in buckets(step, part, ZoneInfo(zone))]
    whole = [b.period.duration for b in buckets(step, Period(start, at), ZoneInfo(zone))]
    assert sum(parts, timedelta()) == sum(whole, timedelta()) == at - start


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("Asia/Kolkata", "2026-10-25", 24),
        ("Pacific/Apia", "2011-12-29", 24),
        ("UTC", "2026-10-25", 24),
    ],
)
def test_days_on_which_the_clocks_change(zone: str, day: str, hours: int) -> None:
    around = datetime.fromisoformat(day).replace(tzinfo=UTC)
    found = buckets("day", Period(around - timedelta(days=3), around + timedelta(days=3)), ZoneInfo(zone))
    assert [b.period.duration for b in found if b.label == day] == [hours * HOUR]


def test_a_day_that_a_zone_skipped_is_not_there() -> None:
    around = Period(datetime(2011, 12, 28, tzinfo=UTC), datetime(2012, 1, 2, tzinfo=UTC))
    assert "2011-12-30" not in [bucket.label for bucket in buckets("day", around, ZoneInfo("Pacific/Apia"))]


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "/etc/passwd", "", "Europe", "a\0b", "x" * 500])
def test_what_is_no_time_zone(name: str) -> None:
    assert zone_named(name) is None


def test_a_range_is_widened_to_whole_hours() -> None:
    start, end = datetime(2026, 11, 1, 10, 59, tzinfo=UTC), datetime(2026, 11, 1, 11, 0, 0, 1, tzinfo=UTC)
    assert whole_hours(start, end) == Period(
        datetime(2026, 11, 1, 10, tzinfo=UTC), datetime(2026, 11, 1, 12, tzinfo=UTC)
    )
    with pytest.raises(ValueError, match="start < end"):
        whole_hours(end, end.replace(minute=0, microsecond=0))

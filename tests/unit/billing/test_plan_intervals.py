"""Billing intervals tile the time, and the shares of any partition sum to the whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.billing.plans.intervals import CALENDAR_ANCHOR, add_months, intervals, share, whole_share
from shared.period import next_month

START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
times = st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 – the zone is beside it


def test_adding_months_keeps_the_day_where_it_exists() -> None:
    assert add_months(START, 1).day == 28
    assert add_months(START, 2).day == 31
    assert add_months(START, -11) == datetime(2025, 2, 28, 9, 30, tzinfo=UTC)
    assert next_month(add_months(START, 11)) == datetime(2027, 1, 1, tzinfo=UTC)


def test_calendar_intervals_begin_with_months_quarters_and_years() -> None:
    at = datetime(2026, 5, 20, tzinfo=UTC)
    begins = [next(intervals(CALENDAR_ANCHOR, months, at, at + timedelta(days=1)))[0] for months in (1, 3, 12)]
    assert [(b.month, b.day) for b in begins] == [(5, 1), (4, 1), (1, 1)]


@given(times, st.integers(1, 24), times, st.integers(1, 900))
def test_intervals_tile_the_time(anchor: datetime, months: int, start: datetime, days: int) -> None:
    end = start + timedelta(days=days)
    found = list(intervals(anchor, months, start, end))
    assert found[0][0] <= start < found[0][1]
    assert found[-1][0] < end <= found[-1][1]
    assert all(a[1] == b[0] for a, b in pairwise(found))


@st.composite
def partitions(draw: st.DrawFn) -> list[datetime]:
    """Edges of a partition of an interval, among them such as lie within a second."""
    start = draw(times)
    length = draw(st.integers(1, 400 * 86_400))
    cuts = draw(st.lists(st.floats(0, 1), max_size=12))
    return sorted(
        [start, start + timedelta(seconds=length), *(start + timedelta(seconds=length * cut) for cut in cuts)]
    )


@given(partitions(), st.decimals(min_value=-(10**9), max_value=10**9, places=6))
def test_the_shares_of_any_partition_sum_to_the_whole(edges: list[datetime], amount: Decimal) -> None:
    whole = (edges[0], edges[-1])
    assert sum((share(amount, whole, a, b) for a, b in pairwise(edges)), Decimal(0)) == amount


@given(partitions(), st.integers(0, 10**12).map(Decimal))
def test_so_do_shares_of_what_comes_in_whole_units(edges: list[datetime], quantity: Decimal) -> None:
    shares = [whole_share(quantity, (edges[0], edges[-1]), a, b) for a, b in pairwise(edges)]
    assert sum(shares, Decimal(0)) == quantity
    assert all(part == part.to_integral_value() and part >= 0 for part in shares)


@given(partitions())
def test_a_share_is_proportional_to_its_seconds(edges: list[datetime]) -> None:
    whole = (edges[0], edges[-1])
    seconds = Decimal((edges[-1] - edges[0]) // timedelta(seconds=1))
    passed = Decimal((edges[1] - edges[0]) // timedelta(seconds=1))
    assert abs(share(seconds, whole, edges[0], edges[1]) - passed) <= Decimal("1e-12")

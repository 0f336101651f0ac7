"""Flat fees: each interval is charged by exactly one of the periods that tile the time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.billing.invoices.fees import FeeTerms, add_months, fees_due
from shared.period import Period, next_month

START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
MONTHLY = FeeTerms(UUID(int=1), UUID(int=2), "EUR", "Basic", Decimal(19), 1, anchor=START, started=START)


def starts(terms: FeeTerms, month: str) -> list[datetime]:
    return [fee.period_start for fee in fees_due(terms, Period.parse_month(month))]


def test_a_monthly_fee_falls_due_once_a_month_on_the_day_it_began() -> None:
    assert starts(MONTHLY, "2026-03") == [datetime(2026, 3, 31, 9, 30, tzinfo=UTC)]


def test_a_day_that_a_month_lacks_is_its_last() -> None:
    (fee,) = fees_due(MONTHLY, Period.parse_month("2026-02"))
    assert (fee.period_start.day, fee.period_end) == (28, datetime(2026, 3, 31, 9, 30, tzinfo=UTC))


def test_nothing_is_due_before_the_subscription_began() -> None:
    assert starts(MONTHLY, "2025-12") == []
    assert starts(MONTHLY, "2026-01") == [START]


def test_a_yearly_fee_falls_due_once_a_year() -> None:
    yearly = replace(MONTHLY, months=12)
    assert [m for m in range(1, 13) if starts(yearly, f"2027-{m:02}")] == [1]


def test_an_anchor_that_was_moved_on_still_charges_the_intervals_before_it() -> None:
    moved = replace(MONTHLY, anchor=add_months(START, 5))
    assert len(starts(moved, "2026-03")) == 1


@given(
    st.integers(1, 24),
    st.lists(st.integers(1, 90), min_size=1, max_size=12),
    st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 – the zone is beside it
)
def test_any_tiling_of_the_time_charges_each_interval_once(months: int, days: list[int], anchor: datetime) -> None:
    terms = replace(MONTHLY, months=months, anchor=anchor, started=anchor)
    edges = [datetime(2026, 1, 1, tzinfo=UTC)]
    for length in days:
        edges.append(edges[-1] + timedelta(days=length))
    tiled = [fee for a, b in pairwise(edges) for fee in fees_due(terms, Period(a, b))]
    assert tiled == fees_due(terms, Period(edges[0], edges[-1]))
    assert all(a.period_end == b.period_start for a, b in pairwise(tiled))


def test_adding_months_keeps_the_day_where_it_exists() -> None:
    assert add_months(START, 1).day == 28
    assert add_months(START, -11) == datetime(2025, 2, 28, 9, 30, tzinfo=UTC)
    assert next_month(add_months(START, 11)) == datetime(2027, 1, 1, tzinfo=UTC)

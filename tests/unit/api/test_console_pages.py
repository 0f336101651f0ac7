"""What pages are made of without a server: series over a whole range, notations, tables that a phone can show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from services.api.console.formats import Formats
from services.api.console.pages.tenant.overview import deductions_in
from services.api.console.series import LENGTH, Step, chart_of
from services.api.console.stacking import labelled
from services.api.invoices.answers import CurrentCost, Line
from services.api.usage.answers import Point

START = datetime(2026, 11, 1, tzinfo=UTC)
STEPS: list[Step] = ["hour", "day"]


def point(at: datetime, group: str | None, requests: int) -> Point:
    facts: Any = {"start": at, "group": group, "request_count": requests}
    return Point.model_construct(**facts)


@given(
    st.sampled_from(STEPS), st.integers(0, 100),
    st.lists(st.tuples(st.integers(0, 100), st.sampled_from([None, *"abcdefghij"]), st.integers(0, 9)), max_size=60),
)  # fmt: skip
def test_a_series_has_every_time_of_its_range_and_loses_nothing(
    step: Step, last: int, used: list[tuple[int, str | None, int]]
) -> None:
    now = START + last * LENGTH[step] + timedelta(minutes=3)
    points = [point(START + at * LENGTH[step], group, requests) for at, group, requests in used if at <= last]
    chart = chart_of(points, step, START, now)
    assert [at for at, _ in chart.rows] == [START + n * LENGTH[step] for n in range(last + 1)]
    assert sum(sum(values) for _, values in chart.rows) == sum(each.request_count for each in points)
    assert len(chart.names) == len(set(chart.names)) <= 7
    assert chart.is_empty == (not any(each.request_count for each in points))


def test_what_is_before_the_range_is_not_drawn() -> None:
    chart = chart_of([point(START - timedelta(days=1), None, 5)], "day", START, START)
    assert chart.is_empty


def test_deductions_are_what_makes_a_month_cheaper_than_its_usage() -> None:
    told: list[dict[str, Any]] = [
        {"kind": kind, "amount": Decimal(amount)}
        for kind, amount in (("usage", "9.50"), ("credit", "-8.00"), ("carried", "-2.00"), ("carried", "0.50"))
    ]
    cost: dict[str, Any] = {"lines": [Line.model_construct(**line) for line in told]}
    assert deductions_in(CurrentCost.model_construct(**cost)) == Decimal("10.00")


@pytest.mark.parametrize(
    ("language", "whole", "part"),
    [("en", "80%", "12.5%"), ("de", "80\xa0%", "12,5\xa0%"), ("fr", "80\xa0%", "12,5\xa0%")],
)
def test_a_share_is_written_as_its_language_does(language: str, whole: str, part: str) -> None:
    assert Formats(language).percent(0.8) == whole
    assert Formats(language).percent(0.125) == part


def test_each_cell_says_its_column() -> None:
    rows = Markup(
        '<tr class="x"><td><a href="/">k</a></td><td class="num">1</td></tr><tr><th scope="row">Sum</th><td>2</td></tr>'
    )
    assert labelled(rows, ["Name", ('"n" & more', "num")]) == (
        '<tr class="x"><td data-label="Name"><a href="/">k</a></td><td data-label="&#34;n&#34; &amp; more" class="num">1</td></tr>'
        '<tr><th data-label="Name" scope="row">Sum</th><td data-label="&#34;n&#34; &amp; more">2</td></tr>'
    )

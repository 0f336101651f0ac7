"""Totals are the sums of summaries over all subscriptions, however messages are split."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from services.aggregator.aggregation import UsageSums, fold
from services.aggregator.totals import Total, totals
from shared.contracts import UsageDelta
from tests.unit.aggregator.facts import ALICE, BOB, NOON, delta, deltas, recorded
from tests.unit.aggregator.test_aggregation import Figures, SummaryRow, figures, in_batches, rows_of

NOBODY = ALICE


def table(rows: Iterable[tuple[object, ...]]) -> dict[tuple[object, ...], Figures]:
    """Rows of (period type, start, model, tool, figures) as a database would hold them after adding them all."""
    return figures(SummaryRow(NOBODY, *row) for row in rows)  # type: ignore[arg-type]


@given(st.lists(deltas(), max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_totals_of_any_split_are_the_sums_of_the_summaries(all_deltas: list[UsageDelta], cuts: list[int]) -> None:
    summed = table(row[1:] for row in rows_of(fold([recorded(*all_deltas)]).summaries))
    split = [fold([message]) for message in in_batches(all_deltas, cuts)]
    assert table(total for each in split for total in totals(each.summaries)) == summed


@given(st.lists(deltas(), max_size=12))
def test_totals_come_in_the_order_of_their_keys_and_each_key_once(all_deltas: list[UsageDelta]) -> None:
    keys = [total[:4] for total in totals(fold([recorded(*all_deltas)]).summaries)]
    assert keys == sorted(set(keys))


def test_subscriptions_are_added_up_and_what_has_no_latency_adds_none() -> None:
    timed = delta(ALICE, requests=2, latency_sum_ms=90, latency_count=1, latency_histogram=[1] + [0] * 11)
    found = totals(
        fold([recorded(timed, delta(BOB, requests=3), delta(BOB, tool_name="search", model_id=""))]).summaries
    )

    def shown(total: Total) -> tuple[object, ...]:
        sums: UsageSums = total.sums
        return (
            total.period_type,
            total.model_id,
            total.tool_name,
            sums.requests,
            sums.latency_count,
            sums.latency_histogram,
        )

    assert [shown(total) for total in found] == [
        (period, *of)
        for period in ("day", "hour", "month")
        for of in (("", "search", 1, 0, []), ("gpt-4o", "", 5, 1, [1] + [0] * 11))
    ]
    assert {total.period_start for total in found if total.period_type == "hour"} == {NOON}

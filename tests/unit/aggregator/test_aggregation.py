"""The laws of the fold: order and batches do not matter, days and months are their hours."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import reduce
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.aggregator.aggregation import Folded, PeriodType, Summary, UsageSums, check, fold, full, observe, total
from services.aggregator.keys import days_of_keys
from services.aggregator.uses import Kind, numbered
from shared.contracts import ProviderDelta, UsageDelta, UsageRecorded, decode_recorded, encode
from shared.period import day_start, month_start
from tests.unit.aggregator.facts import ALICE, BOB, NOON, delta, deltas, provider_deltas, recorded

Figures = tuple[object, ...]


class SummaryRow(NamedTuple):
    """What is added to one row of usage_summaries."""

    subscription_id: UUID
    period_type: PeriodType
    period_start: datetime
    model_id: str
    tool_name: str
    sums: UsageSums


def rows_of(summaries: Iterable[Summary]) -> list[SummaryRow]:
    """What is added to each row, in order."""
    return [
        SummaryRow(s.subscription_id, period_type, start, s.model_id, s.tool_name, s.sums)
        for s in summaries
        for period_type, start in s.rows()
    ]


def figures(rows: Iterable[SummaryRow]) -> dict[tuple[object, ...], Figures]:
    """Rows as a database would hold them after adding them all."""
    table: dict[tuple[object, ...], SummaryRow] = {}
    for row in rows:
        had = table.get(row[:5])
        table[row[:5]] = row if had is None else row._replace(sums=total([had.sums, row.sums]))
    return {
        key: (
            row.sums.requests,
            row.sums.errors,
            row.sums.request_tokens,
            row.sums.response_tokens,
            row.sums.cached_tokens,
            row.sums.latency_sum_ms,
            row.sums.latency_count,
            tuple(full(row.sums.latency_histogram)),
        )
        for key, row in table.items()
    }


def in_batches(all_deltas: Sequence[UsageDelta], cuts: Sequence[int]) -> list[UsageRecorded]:
    edges = [0, *sorted(cut % (len(all_deltas) + 1) for cut in cuts), len(all_deltas)]
    return [recorded(*all_deltas[a:b]) for a, b in pairwise(edges)]


@given(st.lists(deltas(), max_size=12), st.lists(st.integers(0, 12), max_size=4), st.randoms())
def test_folding_does_not_depend_on_order_or_batches(
    all_deltas: list[UsageDelta], cuts: list[int], chance: random.Random
) -> None:
    whole = fold([recorded(*all_deltas)])
    shuffled = chance.sample(all_deltas, len(all_deltas))
    one_by_one = [fold([message]) for message in in_batches(shuffled, cuts)]
    together = fold(in_batches(shuffled, cuts))

    assert figures(rows_of(whole.summaries)) == figures(rows_of(together.summaries))
    assert figures(rows_of(whole.summaries)) == figures(
        row for folded in one_by_one for row in rows_of(folded.summaries)
    )
    assert whole.usage == together.usage
    assert whole.keys_used == together.keys_used
    assert (whole.deltas, whole.events) == (together.deltas, together.events)


@given(st.lists(deltas(), max_size=12))
def test_days_and_months_are_the_sums_of_their_hours(all_deltas: list[UsageDelta]) -> None:
    rows = rows_of(fold([recorded(*all_deltas)]).summaries)
    hours = [row for row in rows if row.period_type == "hour"]
    periods: tuple[tuple[PeriodType, Callable[[datetime], datetime]], ...] = (
        ("day", day_start),
        ("month", month_start),
    )
    for period, start_of in periods:
        expected = [row._replace(period_type=period, period_start=start_of(row.period_start)) for row in hours]
        assert figures(row for row in rows if row.period_type == period) == figures(expected)


@given(st.lists(deltas(), max_size=12))
def test_usage_by_hour_is_what_the_hours_hold(all_deltas: list[UsageDelta]) -> None:
    folded = fold([recorded(*all_deltas)])
    requests = sum(amounts[0] for hours in folded.usage.values() for amounts in hours.values())
    tokens = sum(amounts[1] for hours in folded.usage.values() for amounts in hours.values())

    assert requests == sum(d.requests for d in all_deltas)
    assert tokens == sum(d.request_tokens + d.response_tokens for d in all_deltas)


class UseRow(NamedTuple):
    """What is added to one row of usage_hours."""

    subscription_id: UUID
    hour: datetime
    api_key_id: UUID | None
    kind: Kind
    sums: UsageSums


def uses_of(summaries: Sequence[Summary]) -> list[UseRow]:
    """What is added to the hours of uses, as the store sends it."""
    kinds, numbers, api_keys = numbered(summary.use for summary in summaries)
    return [
        UseRow(summary.subscription_id, summary.use[1], api_key, kinds[number - 1], summary.sums)
        for summary, number, api_key in zip(summaries, numbers, api_keys, strict=True)
        if number is not None and summary.use is not None
    ]


@given(st.lists(deltas(), max_size=12))
def test_each_use_comes_once_and_hours_are_the_sums_of_their_uses(all_deltas: list[UsageDelta]) -> None:
    summaries = fold([recorded(*all_deltas)]).summaries
    uses = uses_of(summaries)
    assert len({use[:4] for use in uses}) == len(uses)

    from_uses = [
        SummaryRow(use.subscription_id, "hour", use.hour, use.kind.model_id, use.kind.tool_name, use.sums)
        for use in uses
    ]
    assert figures(from_uses) == figures(row for row in rows_of(summaries) if row.period_type == "hour")


@given(st.lists(deltas(), max_size=12))
def test_a_use_is_what_the_deltas_say_of_it(all_deltas: list[UsageDelta]) -> None:
    expected: Counter[tuple[object, ...]] = Counter()
    for d in all_deltas:
        kind = Kind(
            d.model_id, d.tool_name, d.provider, d.feature_type, d.power_level, d.byok, d.status_class != 2, d.app_id
        )
        expected[d.subscription_id, d.hour, d.api_key_id, kind] += d.requests
    uses = {use[:4]: use.sums.requests for use in uses_of(fold([recorded(*all_deltas)]).summaries)}
    assert uses == dict(expected)


def place(row: SummaryRow) -> tuple[object, ...]:
    """Where a row comes among all: by subscription, model and tool, each hour before its day, each day before its month."""
    finer = ("hour", "day", "month").index(row.period_type)
    month, day = month_start(row.period_start), day_start(row.period_start)
    within = (month, *((0, day, *((0, row.period_start) if finer == 0 else (1,))) if finer < 2 else (1,)))
    return row.subscription_id.int, row.model_id, row.tool_name, *within


@given(st.lists(deltas(), max_size=12))
def test_rows_come_in_one_order_and_each_key_once(all_deltas: list[UsageDelta]) -> None:
    folded = fold([recorded(*all_deltas)])
    rows = rows_of(folded.summaries)
    assert [place(row) for row in rows] == sorted({place(row) for row in rows})
    assert Counter(row.period_type for row in rows) == folded.rows_by_period
    assert list(folded.usage) == sorted(folded.usage)


def test_usage_of_one_kind_comes_once_with_its_hour_and_other_kinds_behind_it() -> None:
    (alone,) = fold([recorded(delta(app_id="crm"), delta(app_id="crm"))]).summaries
    assert alone.use is not None
    assert alone.use[-1] == "crm"

    together, *uses = fold([recorded(delta(app_id="crm"), delta(app_id="crm"), delta(app_id="shop"))]).summaries
    assert (together.use, together.sums.requests) == (None, 3)
    assert [(use.use and use.use[-1], use.sums.requests, list(use.rows())) for use in uses] == [
        ("crm", 2, []),
        ("shop", 1, []),
    ]


def test_usage_of_one_hour_comes_once_for_its_hour_day_and_month() -> None:
    (alone,) = fold([recorded(delta(), delta())]).summaries
    assert [period_type for period_type, _ in alone.rows()] == ["hour", "day", "month"]
    assert alone.sums.requests == 2

    hours = [delta(hour=NOON + timedelta(hours=later)) for later in (0, 1, 24)]
    together = fold([recorded(*hours)]).summaries
    assert [[period_type for period_type, _ in summary.rows()] for summary in together] == [
        ["hour"], ["hour"], ["day"], ["hour", "day"], ["month"],
    ]  # fmt: skip


@given(st.lists(deltas(), max_size=6))
def test_folding_leaves_messages_as_they_are(all_deltas: list[UsageDelta]) -> None:
    message = recorded(*all_deltas)
    before = encode(message)
    fold([message, message])
    assert encode(message) == before


@given(st.lists(deltas(), max_size=6))
def test_what_ingest_encodes_passes_the_check(all_deltas: list[UsageDelta]) -> None:
    check(decode_recorded(encode(recorded(*all_deltas))))


@given(st.lists(provider_deltas(), min_size=1, max_size=8), st.integers(0, 8))
def test_observations_of_a_provider_add_up_whatever_the_batches(seen: list[ProviderDelta], cut: int) -> None:
    whole = fold([recorded(providers=seen)])
    parts = fold([recorded(providers=seen[:cut]), recorded(providers=seen[cut:])])
    assert whole.providers == parts.providers

    same = [then for then in seen if then.provider == seen[0].provider]
    middle = len(same) // 2
    if middle > 0:
        left, right = reduce(observe, same[:middle]), reduce(observe, same[middle:])
        assert observe(left, right) == reduce(observe, same)


def test_failures_go_on_counting_until_a_success() -> None:
    failed = ProviderDelta("openai", NOON, requests=2, errors=2, last_failure_at=NOON, trailing_failures=2)
    recovered = ProviderDelta("openai", NOON, requests=2, errors=1, last_success_at=NOON, trailing_failures=1)

    assert observe(failed, failed).trailing_failures == 4
    assert observe(failed, recovered).trailing_failures == 1


def test_model_and_tool_of_one_subscription_have_rows_of_their_own() -> None:
    folded: Folded = fold([recorded(delta(), delta(model_id="", tool_name="search"), delta(BOB))])
    assert folded.rows_by_period == {"hour": 3, "day": 3, "month": 3}


@pytest.mark.parametrize(
    "hour",
    [
        NOON + timedelta(minutes=1),
        NOON.replace(tzinfo=None),
        NOON.astimezone(timezone(timedelta(hours=5, minutes=30))),
    ],
)
def test_an_hour_off_its_edge_is_refused(hour: datetime) -> None:
    with pytest.raises(ValueError, match="not the start of a UTC hour"):
        check(recorded(delta(hour=hour)))


def test_a_histogram_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="3 buckets, not 12"):
        check(recorded(delta(latency_count=1, latency_histogram=[1, 0, 0])))


def test_the_last_use_of_a_key_is_kept() -> None:
    key, later = BOB, NOON + timedelta(hours=1)
    folded = fold([recorded(delta(api_key_id=key, hour=later), delta(ALICE, api_key_id=key))])
    assert folded.keys_used == {key: datetime(2026, 11, 14, 13, 2, tzinfo=UTC)}


@given(st.lists(deltas(), max_size=10), st.integers(0, 10))
def test_days_of_keys_add_up_whatever_the_batches(all_deltas: list[UsageDelta], cut: int) -> None:
    whole = days_of_keys(all_deltas)
    parts = [*days_of_keys(all_deltas[:cut]), *days_of_keys(all_deltas[cut:])]
    for day in whole:
        mine = [part for part in parts if part[:3] == day[:3]]
        assert (sum(part.requests for part in mine), sum(part.tokens for part in mine)) == (day.requests, day.tokens)
    assert len({part[:3] for part in parts}) == len(whole)
    assert [(d.subscription_id.int, d.api_key_id.int, d.day) for d in whole] == sorted(
        (d.subscription_id.int, d.api_key_id.int, d.day) for d in whole
    )
    keyed = [delta for delta in all_deltas if delta.api_key_id is not None]
    assert sum(day.requests for day in whole) == sum(delta.requests for delta in keyed)

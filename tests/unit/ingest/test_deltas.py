"""Pre-aggregation: what a naive count gives, whatever the split and the order."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.announcement import MESSAGE_BYTES, announce_recorded
from services.ingest.deltas import MOST_RESERVATIONS, aggregate, corrected
from services.ingest.rows import UsageRow
from shared.contracts import (
    LATENCY_BUCKET_COUNT,
    LATENCY_BUCKETS_MS,
    USAGE_RECORDED,
    Origin,
    UsageDelta,
    decode_recorded,
    reservations_named,
)
from tests.unit.ingest.events import NOW
from tests.unit.ingest.facts import ALICE, BATCH, some_row

ORIGIN = Origin("main", "usage.events", 5, 0, 100, 200)
SUMS = ("requests", "errors", "request_tokens", "response_tokens", "cached_tokens", "tokens_returned", "latency_sum_ms", "latency_count")  # fmt: skip

batches = st.integers(0, 2**32).map(random.Random).map(lambda rng: [some_row(rng) for _ in range(rng.randrange(60))])


def key(delta: UsageDelta) -> tuple[Any, ...]:
    return (
        delta.subscription_id, delta.hour, delta.api_key_id, delta.model_id, delta.tool_name, delta.provider,
        delta.feature_type, delta.power_level, delta.byok, delta.status_class,
    )  # fmt: skip


def figures(deltas: Iterable[UsageDelta]) -> Counter[tuple[Any, ...]]:
    """Every figure of deltas as a count under (key, name)."""
    total: Counter[tuple[Any, ...]] = Counter()
    for delta in deltas:
        total.update({(key(delta), name): getattr(delta, name) for name in SUMS})
        total.update({(key(delta), "bucket", i): n for i, n in enumerate(delta.latency_histogram)})
    return +total


def naive(rows: Iterable[UsageRow]) -> Counter[tuple[Any, ...]]:
    """The same, one row at a time, as simple as can be."""
    total: Counter[tuple[Any, ...]] = Counter()
    for row in rows:
        error = row.status_code >= 400
        place = (
            row.subscription_id, row.created_at.replace(minute=0, second=0, microsecond=0), row.api_key_id, row.model_id or "",
            row.tool_name or "", row.provider or "", row.feature_type or "", row.power_level, row.byok,
            row.status_code // 100 if error else 2,
        )  # fmt: skip
        total[place, "requests"] += 1
        total[place, "errors"] += error
        for name in ("request_tokens", "response_tokens", "cached_tokens"):
            total[place, name] += getattr(row, name)
        total[place, "tokens_returned"] += row.tokens_returned or 0
        if row.latency_ms is not None:
            total[place, "latency_sum_ms"] += row.latency_ms
            total[place, "latency_count"] += 1
            slower = sum(bound < row.latency_ms for bound in LATENCY_BUCKETS_MS)
            total[place, "bucket", slower] += 1
    return +total


@given(batches)
def test_deltas_are_the_naive_count_with_each_key_once(rows: list[UsageRow]) -> None:
    deltas, _ = aggregate(rows)

    assert figures(deltas) == naive(rows)
    assert len({key(delta) for delta in deltas}) == len(deltas)


@given(batches, st.randoms(use_true_random=False))
def test_deltas_of_any_split_in_any_order_add_up_to_those_of_the_whole(
    rows: list[UsageRow], rng: random.Random
) -> None:
    whole = figures(aggregate(rows)[0])
    rng.shuffle(rows)
    cut = rng.randint(0, len(rows))

    assert figures([*aggregate(rows[:cut])[0], *aggregate(rows[cut:])[0]]) == whole


@given(batches)
def test_a_delta_knows_its_first_and_last_event_inside_its_hour(rows: list[UsageRow]) -> None:
    for delta in aggregate(rows)[0]:
        assert delta.first_event_at is not None
        assert delta.last_event_at is not None
        assert delta.hour <= delta.first_event_at <= delta.last_event_at < delta.hour + timedelta(hours=1)
    times = [row.created_at for row in rows]
    found = [(d.first_event_at, d.last_event_at) for d in aggregate(rows)[0]]
    assert min((first for first, _ in found if first), default=None) == min(times, default=None)
    assert max((last for _, last in found if last), default=None) == max(times, default=None)


@given(batches)
def test_providers_are_seen_by_the_minute(rows: list[UsageRow]) -> None:
    _, seen = aggregate(rows)
    by_place = {(delta.provider, delta.minute): delta for delta in seen}

    assert len(by_place) == len(seen)
    assert sum(delta.requests for delta in seen) == sum(bool(row.provider) for row in rows)
    for (provider, minute), delta in by_place.items():
        mine = [
            row for row in rows if row.provider == provider and minute <= row.created_at < minute + timedelta(minutes=1)
        ]
        failures = [row for row in mine if row.status_code >= 400]
        last_success = max((row.created_at for row in mine if row.status_code < 400), default=None)
        assert (delta.requests, delta.errors) == (len(mine), len(failures))
        assert delta.rate_limited == sum(row.status_code == 429 for row in mine)
        assert delta.last_success_at == last_success
        assert delta.last_failure_at == max((row.created_at for row in failures), default=None)
        assert delta.trailing_failures == sum(last_success is None or row.created_at > last_success for row in failures)
        assert delta.latency_count == sum(delta.latency_histogram) == sum(row.latency_ms is not None for row in mine)


def test_a_latency_on_a_bound_belongs_to_the_bucket_below() -> None:
    rows = [some_row(random.Random(1), latency_ms=ms, status_code=200) for ms in (50, 51, 51_200, 51_201)]

    assert aggregate(rows)[0][0].latency_histogram == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert bisect_left(LATENCY_BUCKETS_MS, 50) == 0


# --- announced ---------------------------------------------------------------------------------------------------------


def announced(rows: Sequence[UsageRow]) -> list[bytes]:
    messages = announce_recorded(BATCH, ORIGIN, aggregate(rows), NOW)
    assert {(m.topic, m.partition) for m in messages} <= {(USAGE_RECORDED, 5)}
    return [m.value for m in messages if m.value is not None]


def test_no_rows_are_not_announced() -> None:
    assert announced([]) == []


def test_a_batch_is_announced_in_one_message_where_it_can_be() -> None:
    rng = random.Random(3)
    rows = [some_row(rng) for _ in range(500)]
    [value] = announced(rows)
    message = decode_recorded(value)

    assert (message.batch_id, message.part, message.parts, message.event_count) == (BATCH, 0, 1, 500)
    assert message.origin == ORIGIN
    assert figures(message.deltas) == naive(rows)


def test_a_large_batch_is_announced_in_parts_that_a_broker_takes_and_that_add_up() -> None:
    rng = random.Random(4)
    wide = {
        "feature_type": "\x01" * 512,
        "provider": "\U0001f600" * 500,
        "model_id": "é" * 512,
    }  # \x01 has six bytes in JSON
    rows = [some_row(rng, created_at=NOW - timedelta(minutes=i), **wide) for i in range(300)]
    rows += [some_row(rng, created_at=NOW - timedelta(minutes=i), subscription_id=ALICE) for i in range(10_000)]
    values = announced(rows)
    messages = [decode_recorded(value) for value in values]

    assert len(messages) > 1
    assert max(map(len, values)) <= MESSAGE_BYTES
    assert [m.part for m in messages] == list(range(len(messages)))
    assert {m.parts for m in messages} == {len(messages)}
    assert sum(m.event_count for m in messages) == len(rows)
    assert figures(delta for m in messages for delta in m.deltas) == naive(rows)
    assert [p for m in messages for p in m.providers] == aggregate(rows)[1]
    assert all(m.event_count == sum(d.requests for d in m.deltas) > 0 for m in messages)


# --- corrections ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(0, 20), st.integers(0, 20))
def test_what_is_taken_back_leaves_what_was_never_there(seed: int, kept: int, taken: int) -> None:
    """In one batch: sums are those of the rows that remain, keys are unique, and every row is counted."""
    rng = random.Random(seed)
    rows = [some_row(rng) for _ in range(kept + taken)]

    deltas, providers = corrected(aggregate(rows), [], rows[kept:])

    assert providers == aggregate(rows)[1], "a correction observes nothing"
    assert sum(delta.rows for delta in deltas) == kept + 2 * taken
    assert len({key(delta) for delta in deltas}) == len(deltas)
    remaining = {key(delta): _counts(delta) for delta in aggregate(rows[:kept])[0]}
    nothing = [0] * (8 + LATENCY_BUCKET_COUNT)
    assert all(_counts(delta) == remaining.get(key(delta), nothing) for delta in deltas)


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_taking_back_alone_is_the_negation(seed: int, taken: int) -> None:
    rng = random.Random(seed)
    rows = [some_row(rng) for _ in range(taken)]

    taken_back = {key(d): _counts(d) for d in corrected(aggregate([]), [], rows)[0]}

    assert taken_back == {key(d): [-count for count in _counts(d)] for d in aggregate(rows)[0]}


@given(st.integers(0, 2**32), st.integers(0, 9), st.integers(0, 9))
def test_a_replacement_counts_like_any_row(seed: int, rows: int, replaced: int) -> None:
    rng = random.Random(seed)
    first, second = [some_row(rng) for _ in range(rows)], [some_row(rng) for _ in range(replaced)]
    old = some_row(rng)

    apart = {key(d): _counts(d) for d in corrected(aggregate(first), [*second, old], [old])[0]}
    together = {key(d): _counts(d) for d in aggregate([*first, *second])[0]}

    assert {k: counts for k, counts in apart.items() if any(counts)} == {k: c for k, c in together.items() if any(c)}


def _counts(delta: UsageDelta) -> list[int]:
    return [*(getattr(delta, name) for name in SUMS), *delta.latency_histogram]


# --- reservations -----------------------------------------------------------------------------------------------------


def reserving(rng: random.Random, count: int, **fields: Any) -> list[UsageRow]:
    """Return rows of one key, each of which names a reservation."""
    row = some_row(rng, **fields)
    return [row._replace(id=UUID(int=n), reservation_id=str(UUID(int=n))) for n in range(1, count + 1)]


def named(deltas: Iterable[UsageDelta]) -> Counter[UUID]:
    return Counter(reservation for delta in deltas for reservation in delta.reservations)


def test_a_delta_names_the_reservations_of_its_events_and_nothing_that_is_no_id() -> None:
    rng = random.Random(1)
    rows = [*reserving(rng, 3, subscription_id=ALICE), some_row(rng), some_row(rng, reservation_id="my-own-number")]
    deltas, _ = aggregate(rows)
    assert named(deltas) == Counter(UUID(int=n) for n in (1, 2, 3))
    assert {delta.subscription_id for delta in deltas if delta.reservations} == {ALICE}
    assert figures(deltas) == naive(rows)
    assert b"reservations" not in announced([some_row(rng)])[0], "events without cost nothing"


def test_many_reservations_of_one_key_are_announced_in_messages_that_a_broker_takes() -> None:
    rows = reserving(random.Random(2), 10 * MOST_RESERVATIONS + 1)
    values = announced(rows)
    messages = [decode_recorded(value) for value in values]
    deltas = [delta for message in messages for delta in message.deltas]

    assert len(messages) > 1
    assert max(map(len, values)) <= MESSAGE_BYTES
    assert named(deltas) == Counter(UUID(int=n) for n in range(1, len(rows) + 1))
    assert all(delta.requests == len(delta.reservations) for delta in deltas), "with the usage that settles them"
    assert figures(deltas) == naive(rows)
    assert reservations_named(messages) == sorted(
        (rows[0].subscription_id, UUID(int=n)) for n in range(1, len(rows) + 1)
    )


def test_what_is_taken_back_settles_no_reservation_and_what_replaces_it_does() -> None:
    rng = random.Random(3)
    original, replacement = reserving(rng, 1)[0], reserving(rng, 2)[1]
    deltas, _ = corrected(aggregate([]), [replacement], [original])
    assert named(deltas) == Counter([UUID(int=2)])
    assert sum(delta.rows for delta in deltas) == 2

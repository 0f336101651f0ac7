"""When a partition halts rather than quarantine everything."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest.acceptance import Reason, Rejected
from services.ingest.refusals import Past, RefusalLimits, Refusals, after, too_many
from services.ingest.settings import Settings
from shared.contracts import USAGE_EVENTS
from shared.errors import BrokenInvariant
from shared.positions import Position
from shared.slices import Record, Slice
from tests.unit.ingest.events import record

GOOD, BAD = b"\0", b"\1"
LIMITS = RefusalLimits(percent=50, window=10, in_a_row=30)


def slice_of(count: int, *, first: int = 0, partition: int = 0) -> Slice:
    position = Position(USAGE_EVENTS, partition, 0, 0, first)
    return Slice(position, [record(b"?", offset=first + n, partition=partition) for n in range(count)])


def refuse(batch: Slice, count: int, reason: Reason = Reason.NOT_JSON) -> list[tuple[Record, Rejected]]:
    return [(r, Rejected(reason, "no JSON at byte 0")) for r in batch.records[:count]]


def test_a_share_of_refused_records_within_the_limit_goes_on() -> None:
    assert too_many(Past(), (GOOD + BAD) * 100, LIMITS) is None


def test_more_than_the_share_halts_wherever_in_the_batch_it_is() -> None:
    for outcomes in (BAD * 6 + GOOD * 4, GOOD * 50 + BAD * 6 + GOOD * 50, GOOD * 50 + BAD * 6):
        assert too_many(Past(), outcomes, LIMITS) == "6 of 10 records were refused (50 % are the limit)"


def test_few_records_are_no_share_of_anything() -> None:
    assert too_many(Past(), BAD * 9, LIMITS) is None
    assert too_many(after(Past(), BAD * 9, LIMITS), BAD, LIMITS) is not None


def test_refused_in_a_row_counts_over_batches() -> None:
    limits = RefusalLimits(percent=0, in_a_row=30)
    past = after(after(Past(), GOOD + BAD * 10, limits), BAD * 19, limits)
    assert past.in_a_row == 29
    assert too_many(past, GOOD + BAD * 29, limits) is None
    assert too_many(past, BAD + GOOD, limits) == "30 records in a row were refused (30 are the limit)"
    assert too_many(past, GOOD + BAD * 30 + GOOD, limits) is not None


def test_zero_is_no_limit() -> None:
    assert too_many(Past(BAD * 10, 1_000_000), BAD * 100_000, RefusalLimits(percent=0, window=10, in_a_row=0)) is None


@given(st.binary(max_size=60).map(lambda b: bytes(x & 1 for x in b)), st.lists(st.integers(0, 60), max_size=6))
@example(BAD * 6 + GOOD * 4, [9])  # a good record completes the first window, in a batch of its own,
@example(BAD * 6 + GOOD * 4 + BAD, [9, 10])  # and before a bad one
def test_the_first_record_that_is_too_many_halts_its_batch_however_records_are_batched(
    outcomes: bytes, cuts: list[int]
) -> None:
    whole = next((n for n in range(1, len(outcomes) + 1) if too_many(Past(), outcomes[:n], LIMITS)), None)
    past, halted = Past(), None
    edges = sorted({0, len(outcomes), *(cut for cut in cuts if cut < len(outcomes))})
    for start, end in pairwise(edges):
        if too_many(past, outcomes[start:end], LIMITS):
            halted = (start, end)
            break
        past = after(past, outcomes[start:end], LIMITS)
    assert (halted is None) == (whole is None)
    if halted and whole:
        assert halted[0] < whole <= halted[1]


def test_halting_says_where_what_and_what_to_do() -> None:
    batch = slice_of(20, first=100, partition=3)
    with pytest.raises(BrokenInvariant) as halted:
        Refusals(LIMITS).judge(batch, refuse(batch, 15))
    message = str(halted.value)
    assert message.startswith("usage.events[3] at offset 100: 10 of 10 records were refused")
    for part in ("not_json 15", "no JSON at byte 0", "TALLYSTICK_INGEST_QUARANTINE_PERCENT=0", "repair-refused-events"):
        assert part in message


def test_a_batch_of_good_records_that_completes_a_bad_window_halts_and_says_where_the_bad_ones_are() -> None:
    refusals, batch = Refusals(LIMITS), slice_of(9)
    refusals.judge(batch, refuse(batch, 6))()
    with pytest.raises(
        BrokenInvariant, match=r"6 of 10 records were refused .*: they are in quarantine, and came before"
    ):
        refusals.judge(slice_of(1, first=9), [])


def test_a_topic_that_is_replayed_conflicts_with_itself_and_goes_on() -> None:
    batch = slice_of(1_000)
    Refusals(LIMITS).judge(batch, refuse(batch, 1_000, Reason.CONFLICT))()


def test_only_what_was_committed_counts_and_each_partition_for_itself() -> None:
    refusals = Refusals(LIMITS)
    for partition in (0, 1):
        batch = slice_of(9, partition=partition)
        refusals.judge(batch, refuse(batch, 9))  # rolled back
        refusals.judge(batch, refuse(batch, 9))()
    with pytest.raises(BrokenInvariant):
        refusals.judge(slice_of(1, first=9), refuse(slice_of(1, first=9), 1))


def test_the_defaults_are_those_of_the_settings() -> None:
    settings = Settings(database_url="postgresql://", kafka_bootstrap_servers="localhost:9092")
    assert settings.refusal_limits() == RefusalLimits()

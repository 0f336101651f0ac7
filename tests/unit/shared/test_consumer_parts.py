"""The pure parts of exactly-once consumption."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.backoff import BACKOFF_FIRST_SECONDS, BACKOFF_MOST_SECONDS, backoff
from shared.errors import BrokenInvariant
from shared.gathering import LATE_SHARE, MOST_TIMES, WAITED_TIMES, Pace
from shared.placement import OutOfPlace, check_position, fresh_records
from shared.positions import Position
from shared.slices import Slice
from tests.unit.ingest.events import record


def position(next_offset: int, *, start: int = 0) -> Position:
    return Position("usage.events", 3, 0, start, next_offset)


@given(st.integers(0, 1_000), st.sets(st.integers(0, 1_000), min_size=1))
def test_every_offset_of_a_slice_is_a_record_or_a_gap(first: int, offsets: set[int]) -> None:
    records = [record(b"", offset=first + offset) for offset in sorted(offsets)]
    batch = Slice(position(first), records)

    assert batch.first_offset == first
    assert batch.next_offset == records[-1].offset + 1
    assert batch.next_offset - batch.first_offset == len(records) + batch.gaps
    assert batch.gaps == len(set(range(batch.first_offset, batch.next_offset)) - {r.offset for r in records})


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_position_is_sound_if_the_broker_holds_the_next_record_or_is_waiting_for_it(
    beginning: int, held: int, next_offset: int
) -> None:
    end = beginning + held
    if beginning <= next_offset <= end:
        check_position(position(next_offset), beginning, end)
    else:
        with pytest.raises(BrokenInvariant):
            check_position(position(next_offset), beginning, end)


def test_a_topic_that_was_recreated_is_told_with_place_and_page() -> None:
    with pytest.raises(
        BrokenInvariant, match=r"usage\.events\[3\] ends at offset 5, but everything below 9 .*topic-recreated\.md"
    ):
        check_position(position(9), 0, 5)


def test_records_that_retention_took_are_counted() -> None:
    with pytest.raises(
        BrokenInvariant,
        match=r"begins at offset 30, but 10 is next: retention deleted 20 records.*retention-overrun\.md",
    ):
        check_position(position(10), 30, 50)


@given(st.integers(1, 10_000))
def test_backoff_grows_and_stays_below_the_poll_interval(failures: int) -> None:
    most = min(BACKOFF_MOST_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** min(failures - 1, 20))

    assert most / 2 <= backoff(failures) <= most


@given(
    st.integers(0, 30),
    st.lists(st.integers(0, 30), min_size=1, unique=True).map(sorted),
    st.none() | st.integers(0, 30),
)
def test_records_are_applied_from_the_position_on_or_not_at_all(
    next_offset: int, offsets: list[int], sought: int | None
) -> None:
    records = [record(b"", offset=offset) for offset in offsets]
    above = [offset for offset in offsets if offset >= next_offset]
    in_place = bool(above) and (above[0] == next_offset or sought == next_offset)
    if in_place:
        assert [r.offset for r in fresh_records(records, next_offset, sought)] == above
    else:
        with pytest.raises(OutOfPlace):
            fresh_records(records, next_offset, sought)


@given(st.floats(0, 10), st.floats(0, 1e6))
def test_usage_that_is_late_gathers_longer_and_is_no_third_later_for_it(seconds: float, late: float) -> None:
    pace = Pace(seconds)
    pace.note(3, late)

    assert pace.after(4, 0.0) == seconds
    assert seconds <= pace.after(3, 0.0) <= max(seconds, min(MOST_TIMES * seconds, late * LATE_SHARE))
    pace.note(3, 0.0)
    assert pace.after(3, 0.0) == seconds


@given(st.floats(0, 10), st.floats(0, 1e6), st.floats(0.001, 1e6))
def test_a_backlog_of_our_own_gathers_for_nothing(seconds: float, late: float, longer: float) -> None:
    pace = Pace(seconds)
    pace.note(3, late)

    assert pace.after(3, WAITED_TIMES * seconds + longer) == 0

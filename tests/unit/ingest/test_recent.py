"""The window of recent events: bounded, and never wrong about what it remembers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.recent import RecentEvents


def event(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_a_committed_event_is_remembered() -> None:
    recent = RecentEvents(10)
    recent.remember([event(1)])

    assert event(1) in recent
    assert event(2) not in recent


@given(st.lists(st.lists(st.integers(0, 300), max_size=12), max_size=60))
def test_the_last_generation_is_remembered_and_no_more_than_two_and_a_batch(batches: list[list[int]]) -> None:
    generation = 20
    recent = RecentEvents(generation)
    seen: list[int] = []
    for batch in batches:
        recent.remember(event(number) for number in batch)
        seen += batch
    last: set[int] = set()
    for number in reversed(seen):
        if len(last) == generation:
            break
        last.add(number)

    assert all(event(number) in recent for number in last)
    remembered = sum(event(number) in recent for number in range(301))
    assert remembered <= 2 * (generation + 12)

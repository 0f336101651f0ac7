"""Requests of a key by the minute."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.entitlements.minutes import Minutes

KEY, OTHER = UUID(int=1), UUID(int=2)


def test_as_many_as_the_limit_in_a_minute_and_each_key_for_itself() -> None:
    minutes = Minutes()
    taken = [minutes.take(KEY, 3, 60.0 + n, count=True) for n in range(4)]
    assert [t.allowed for t in taken] == [True, True, True, False]
    assert [t.remaining for t in taken] == [2, 1, 0, 0]
    assert taken[-1].full_in == 57
    assert minutes.take(OTHER, 3, 63, count=True).allowed


def test_looking_counts_nothing_and_neither_does_a_refusal() -> None:
    minutes = Minutes()
    assert [minutes.take(KEY, 1, 60, count=False).allowed for _ in range(3)] == [True] * 3
    assert [minutes.take(KEY, 1, 60, count=True).allowed for _ in range(3)] == [True, False, False]
    assert minutes.take(KEY, 2, 60, count=False).remaining == 1


def test_the_minute_before_counts_by_its_share_of_the_last_sixty_seconds() -> None:
    minutes = Minutes()
    for _ in range(4):
        minutes.take(KEY, 4, 119, count=True)
    assert not minutes.take(KEY, 4, 121, count=False).allowed
    assert minutes.take(KEY, 4, 150, count=False).remaining == 2
    assert minutes.take(KEY, 4, 240, count=False).remaining == 4


@given(st.lists(st.floats(0, 20), min_size=1, max_size=60), st.integers(1, 8))
def test_who_waits_as_long_as_it_is_told_is_let_in_and_nobody_before(pauses: list[float], limit: int) -> None:
    minutes, now = Minutes(), 600.0
    for pause in pauses:
        now += pause
        taken = minutes.take(KEY, limit, now, count=True)
        if not taken.allowed:
            assert taken.wait > 0
            assert minutes.take(KEY, limit, now + taken.wait + 0.001, count=False).allowed
            assert 0 <= taken.remaining <= limit
            return


@pytest.mark.parametrize("limit", [1, 5])
@given(times=st.lists(st.floats(0, 300), min_size=1, max_size=80).map(sorted))
def test_no_minute_of_the_clock_has_more_than_the_limit(limit: int, times: list[float]) -> None:
    minutes = Minutes()
    allowed = [at for at in times if minutes.take(KEY, limit, at, count=True).allowed]
    assert all(sum(at // 60 == minute for at in allowed) <= limit for minute in range(6))


def test_a_clock_that_is_set_back_gives_nothing() -> None:
    minutes = Minutes()
    assert minutes.take(KEY, 1, 120, count=True).allowed
    assert not minutes.take(KEY, 1, 100, count=True).allowed


def test_keys_that_are_not_used_are_forgotten() -> None:
    minutes = Minutes(most=1)
    minutes.take(KEY, 1, 60, count=True)
    minutes.take(OTHER, 1, 60, count=True)
    assert minutes.take(KEY, 1, 60, count=False).allowed

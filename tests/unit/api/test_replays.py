"""Idempotency-Key: the same answer for the same request, at the same time as well; nothing kept of what failed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from services.api.events.replays import Replays
from services.api.problems import Problem

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NAME = ("ada", "key-1")


class Act:
    """Answers, counts, and fails as often as it is told."""

    def __init__(self, failures: int = 0, size: int = 10) -> None:
        self.calls, self.failures, self.size = 0, failures, size

    async def __call__(self) -> bytes:
        self.calls += 1
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the broker is away")
        return b"%d" % self.calls * self.size


def replays(most_bytes: int = 10_000) -> Replays:
    return Replays(timedelta(hours=1), most_bytes)


async def test_a_request_that_is_sent_again_gets_its_answer_again() -> None:
    known, act = replays(), Act()
    answers = [await known.once(NAME, b"body", NOW, act) for _ in range(3)]
    assert answers == [(b"1" * 10, False), (b"1" * 10, True), (b"1" * 10, True)]
    with pytest.raises(Problem, match="was used for another body"):
        await known.once(NAME, b"other", NOW, act)
    assert await known.once(("bob", "key-1"), b"other", NOW, act) == (b"2" * 10, False)


async def test_the_same_request_at_the_same_time_is_done_once() -> None:
    known, act = replays(), Act()
    answers = await asyncio.gather(*(known.once(NAME, b"body", NOW, act) for _ in range(5)))
    assert [replayed for _, replayed in answers] == [False, True, True, True, True]
    assert act.calls == 1


async def test_after_a_failure_the_next_one_tries_itself() -> None:
    known, act = replays(), Act(failures=2)
    answers = await asyncio.gather(*(known.once(NAME, b"body", NOW, act) for _ in range(4)), return_exceptions=True)
    assert [isinstance(answer, ConnectionError) for answer in answers] == [True, True, False, False]
    assert act.calls == 3


async def test_answers_are_forgotten_after_their_time() -> None:
    known, act = replays(), Act()
    await known.once(NAME, b"body", NOW, act)
    assert await known.once(NAME, b"other", NOW + timedelta(hours=1), act) == (b"2" * 10, False)


async def test_the_oldest_answers_go_when_they_take_too_much_room() -> None:
    known, act = replays(most_bytes=5_000), Act(size=1_000)
    for number in range(50):
        await known.once(("ada", str(number)), b"body", NOW, act)
    assert await known.once(("ada", "49"), b"body", NOW, act) == (b"50" * 1_000, True)
    await known.once(("ada", "0"), b"body", NOW, act)
    assert act.calls == 51
    assert known._bytes <= 5_000 + 2_500

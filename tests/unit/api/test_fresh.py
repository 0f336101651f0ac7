"""What the database said a moment ago: when it is asked again, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pytest

from services.api.entitlements import fresh
from services.api.entitlements.fresh import Away, Fresh
from shared.clock import FixedClock
from tests.unit.aggregator.facts import NOON


class Database:
    """Answers each query with its number, when it may."""

    def __init__(self) -> None:
        self.queries: list[Sequence[str]] = []
        self.asked, self.answering = asyncio.Event(), asyncio.Event()
        self.answering.set()
        self.broken = False

    async def load(self, keys: Sequence[str], now: datetime) -> Mapping[str, int]:  # noqa: ARG002
        self.queries.append(keys)
        self.asked.set()
        await self.answering.wait()
        if self.broken:
            raise ConnectionRefusedError
        return {key: len(self.queries) for key in keys if key != "nobody"}


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOON)


async def things(database: Database, clock: FixedClock) -> Fresh[str, int]:
    return Fresh("things", database.load, clock, timedelta(seconds=1))


async def test_it_is_asked_again_when_it_is_older_or_has_changed(clock: FixedClock) -> None:
    database = Database()
    kept = await things(database, clock)
    assert [await kept.get("a"), await kept.get("a"), await kept.get("nobody"), await kept.get("nobody")] == [
        1,
        1,
        None,
        None,
    ]
    clock.at += timedelta(seconds=1)
    assert await kept.get("a") == 3
    kept.expire("a")
    assert await kept.get("a") == 4


async def test_what_is_asked_for_often_is_loaded_ahead(clock: FixedClock) -> None:
    database = Database()
    kept = await things(database, clock)
    assert await kept.get("a") == 1
    clock.at += timedelta(seconds=0.5)
    assert [await kept.get("a"), await kept.get("a")] == [1, 1]
    await kept.close()
    assert (await kept.get("a"), len(database.queries)) == (2, 2)


async def test_what_is_asked_for_meanwhile_is_one_query(clock: FixedClock) -> None:
    database = Database()
    kept = await things(database, clock)
    database.answering.clear()
    first = asyncio.create_task(kept.get("a"))
    await database.asked.wait()
    others = [asyncio.create_task(kept.get(key)) for key in "bcbc"]
    await asyncio.sleep(0)
    database.answering.set()
    assert [await first, *[await other for other in others]] == [1, 2, 2, 2, 2]
    assert database.queries == [["a"], ["b", "c"]]


async def test_after_a_failure_it_is_not_waited_for_during_a_second(clock: FixedClock) -> None:
    database = Database()
    kept = await things(database, clock)
    assert await kept.get("a") == 1
    clock.at += timedelta(seconds=5)
    database.broken = True
    for _ in range(3):
        with pytest.raises(Away):
            await kept.get("a")
        assert kept.last("a") == 1
    assert len(database.queries) == 2
    with pytest.raises(Away):
        await kept.get("b")
    database.broken = False
    clock.at += timedelta(seconds=1)
    assert await kept.get("a") == 4


async def test_who_has_another_answer_does_not_wait_for_a_slow_database_and_who_has_none_does(
    clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "PATIENCE_SECONDS", 0.01)
    database = Database()
    kept = await things(database, clock)
    database.answering.clear()
    patient = asyncio.create_task(kept.get("a"))
    with pytest.raises(Away):
        await kept.get("b", spare=True)
    assert not patient.done()
    database.answering.set()
    assert await patient == 1
    await kept.close()
    assert kept.last("b") is not None, "what it says in the end is kept"


async def test_a_database_that_hangs_is_given_up(clock: FixedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "LONGEST_SECONDS", 0.01)
    database = Database()
    kept = await things(database, clock)
    database.answering.clear()
    with pytest.raises(Away):
        await kept.get("a")
    database.answering.set()
    assert await kept.get("a") is not None

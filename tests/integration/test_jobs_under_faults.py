"""The law of jobs: whatever the number of workers, however they crash and time jumps, each scheduled time is run once and in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from shared.clock import FixedClock
from shared.jobs import Every, Job, JobRefused, Monthly, Schedule, Timer, Unfinished, run_by_hand, run_due, states
from shared.postgres import Pool, create_pool
from tests.integration.roles import BILLING, with_role

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BEGIN = datetime(2026, 1, 15, tzinfo=UTC)


class Killed(BaseException):
    """What ends a worker at once: nothing after it runs but what the database does by itself."""


@dataclass
class Ledger:
    """An effect that is idempotent by its key, and crashes, fails and loses its database where the dice say so."""

    pool: Pool
    dice: random.Random
    faults: float
    tries: list[datetime] = field(default_factory=list)

    async def __call__(self, scheduled_for: datetime) -> Mapping[str, Any]:
        self.tries.append(scheduled_for)
        self._perhaps(Killed, "before")
        await self.pool.execute("INSERT INTO effects VALUES ($1) ON CONFLICT (at) DO NOTHING", scheduled_for)
        self._perhaps(Killed, "after")
        self._perhaps(Unfinished, {"left": 1})
        self._perhaps(RuntimeError, "no disk")
        if self.dice.random() < self.faults:  # the database ends the sessions of all workers, this one's lock with them
            await self.pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
        return {"tries": len(self.tries)}

    def _perhaps(self, kind: type[BaseException], argument: Any) -> None:
        if self.dice.random() < self.faults:
            raise kind(argument)


@pytest.fixture
async def pool(database_pool: Pool) -> Pool:
    await database_pool.execute(
        "CREATE TABLE effects (at timestamptz PRIMARY KEY, written bigint GENERATED ALWAYS AS IDENTITY)"
    )
    return database_pool


@pytest.mark.parametrize("seed", range(8))
async def test_each_scheduled_time_is_run_once_and_in_order(pool: Pool, seed: int) -> None:
    dice = random.Random(seed)
    ledger, clock = Ledger(pool, dice, faults=0.25), FixedClock(BEGIN)
    job = Job("months", HOUR, Monthly(after=DAY), ledger, since=_begin)
    for _ in range(14):
        clock.at += dice.choice((timedelta(0), DAY, 20 * DAY, 100 * DAY))
        await asyncio.gather(*(_worker(pool, clock, job, n) for n in range(3)))
    ledger.faults = 0
    while await run_due(pool, clock, job, worker="last"):
        pass

    expected = list(Monthly(after=DAY)(clock.at, BEGIN))
    runs = await pool.fetch("SELECT * FROM job_runs ORDER BY scheduled_for")
    assert [run["scheduled_for"] for run in runs] == expected
    assert all(run["finished_at"] for run in runs)
    assert [row["at"] for row in await pool.fetch("SELECT at FROM effects ORDER BY written")] == expected
    assert len(ledger.tries) > len(expected), "the dice made no fault: the test says nothing"


async def _begin(_connection: Any) -> datetime:
    return BEGIN


async def _worker(pool: Pool, clock: FixedClock, job: Job, number: int) -> None:
    with suppress(Killed, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        await run_due(pool, clock, job, worker=str(number))


async def test_more_missed_runs_than_one_look_takes_are_made_by_the_next(pool: Pool) -> None:
    ledger, clock = Ledger(pool, random.Random(), faults=0), FixedClock(BEGIN + 1000 * DAY)
    job = Job("months", HOUR, Monthly(), ledger, since=_begin)
    assert [await run_due(pool, clock, job, worker="0") for _ in range(3)] == [24, 9, 0]
    assert ledger.tries == list(Monthly()(clock.at, BEGIN))


async def test_a_run_that_fails_does_not_hold_up_the_next_and_is_made_again(pool: Pool) -> None:
    tries: list[datetime] = []

    async def effect(scheduled_for: datetime) -> Mapping[str, Any]:
        tries.append(scheduled_for)
        if scheduled_for.month == 2 and len(tries) < 3:
            raise Unfinished({"failures": 1})
        return {}

    job, clock = Job("months", HOUR, Monthly(), effect, since=_begin), FixedClock(datetime(2026, 3, 1, tzinfo=UTC))
    assert await run_due(pool, clock, job, worker="0") == 2
    (state,) = await _states(pool, job, clock)
    assert [at.month for at in state.waiting] == [2]
    assert await run_due(pool, clock, job, worker="0") == 1
    assert [at.month for at in tries] == [2, 3, 2]
    assert await pool.fetch("SELECT attempts FROM job_runs ORDER BY scheduled_for") == [(2,), (1,)]


async def test_a_look_that_failed_is_made_up_for_by_the_next_slot(pool: Pool) -> None:
    clock, job = FixedClock(BEGIN), Job("look", HOUR, Every(HOUR), _failing)
    assert await run_due(pool, clock, job, worker="0") == 1
    clock.at += 5 * HOUR
    ledger = Ledger(pool, random.Random(), faults=0)
    job = Job("look", HOUR, Every(HOUR), ledger)
    assert [await run_due(pool, clock, job, worker="0") for _ in range(2)] == [1, 0]
    assert ledger.tries == [BEGIN + 5 * HOUR]


async def test_looks_at_the_present_are_kept_for_a_week(pool: Pool) -> None:
    ledger, clock = Ledger(pool, random.Random(), faults=0), FixedClock(BEGIN)
    job = Job("look", HOUR, Every(DAY), ledger)
    await run_by_hand(pool, clock, job, by="alice", at=BEGIN - DAY)
    for _ in range(10):
        await run_due(with_role(pool, BILLING), clock, job, worker="0")
        clock.at += DAY
    kept = [row["scheduled_for"] for row in await pool.fetch("SELECT scheduled_for FROM job_runs ORDER BY 1")]
    assert kept == [BEGIN - DAY, *(BEGIN + days * DAY for days in range(2, 10))]


async def _failing(_scheduled_for: datetime) -> Mapping[str, Any]:
    raise RuntimeError("no disk")


async def test_a_run_by_hand_is_left_out_by_the_timer_and_hides_nothing_from_it(pool: Pool) -> None:
    ledger, clock = Ledger(pool, random.Random(), faults=0), FixedClock(datetime(2026, 4, 2, tzinfo=UTC))
    job = Job("months", HOUR, Monthly(), ledger, since=_begin)
    outcome = await run_by_hand(pool, clock, job, by="alice")
    assert (outcome.scheduled_for.month, outcome.finished) == (2, True)
    assert await run_due(pool, clock, job, worker="0") == 2
    assert [at.month for at in ledger.tries] == [2, 3, 4]
    assert await pool.fetchval("SELECT asked_by FROM job_runs ORDER BY scheduled_for LIMIT 1") == "alice"


async def test_a_look_at_the_present_may_be_asked_for_at_any_time(pool: Pool) -> None:
    ledger, clock = Ledger(pool, random.Random(), faults=0), FixedClock(BEGIN + timedelta(minutes=20))
    job = Job("look", HOUR, Every(HOUR), ledger)
    assert await run_due(pool, clock, job, worker="0") == 1
    assert (await run_by_hand(pool, clock, job, by="alice")).scheduled_for == clock.at
    clock.at += 2 * HOUR
    assert await run_due(pool, clock, job, worker="0") == 1
    assert ledger.tries == [BEGIN, BEGIN + timedelta(minutes=20), BEGIN + 2 * HOUR]


FIRST, SECOND, THIRD = (datetime(2026, month, 1, tzinfo=UTC) for month in (2, 3, 4))


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (FIRST, "was run for 2026-02-01T00:00:00.00:00 already, at .* by alice: a time is run once"),
        (THIRD, "has to be run for 2026-03-01T00:00:00.00:00 first"),
        (datetime(2026, 2, 14, tzinfo=UTC), "was never scheduled for 2026-02-14.*; the next time is 2026-03-01"),
        (datetime(2026, 5, 1, tzinfo=UTC), "has not come yet"),
    ],
)
async def test_a_run_that_makes_no_sense_is_refused(pool: Pool, at: datetime, why: str) -> None:
    ledger, clock = Ledger(pool, random.Random(), faults=0), FixedClock(datetime(2026, 4, 2, tzinfo=UTC))
    job = Job("months", HOUR, Monthly(), ledger, since=_begin)
    await run_by_hand(pool, clock, job, by="alice", at=FIRST)
    with pytest.raises(JobRefused, match=why):
        await run_by_hand(pool, clock, job, by="bob", at=at)
    assert ledger.tries == [FIRST]


async def test_nothing_to_do_and_somebody_at_it_are_said(pool: Pool) -> None:
    clock = FixedClock(BEGIN)
    job = Job("months", HOUR, Monthly(), _failing, since=_begin)
    with pytest.raises(JobRefused, match="nothing to do now; the next time is 2026-02-01"):
        await run_by_hand(pool, clock, job, by="alice")

    async def ask_again(_scheduled_for: datetime) -> Mapping[str, Any]:
        with pytest.raises(JobRefused, match="a worker is running 'look' at this moment"):
            await run_by_hand(pool, clock, look, by="bob")
        return {}

    look = Job("look", HOUR, Every(HOUR), ask_again)
    assert (await run_by_hand(pool, clock, look, by="alice")).finished


@pytest.mark.parametrize(
    ("schedule", "ahead", "overdue"),
    [
        (Monthly(), timedelta(hours=1), False),
        (Monthly(), timedelta(hours=3), True),
        (Every(DAY), timedelta(hours=1), False),
    ],
)
async def test_a_job_that_was_looked_after_twice_in_vain_is_overdue(
    pool: Pool, schedule: Schedule, ahead: timedelta, overdue: bool
) -> None:
    job = Job("months", HOUR, schedule, _failing, since=_begin)
    clock = FixedClock(FIRST + ahead)
    (state,) = await _states(pool, job, clock)
    assert (state.next_due, state.overdue, state.last) == (FIRST, overdue, None)
    await run_due(pool, clock, job, worker="0")
    (state,) = await _states(pool, job, clock)
    assert state.last is not None
    assert state.last.result == {"error": "RuntimeError('no disk')"}
    assert state.overdue is overdue  # a run that fails is none


async def _states(pool: Pool, job: Job, clock: FixedClock) -> Any:
    async with with_role(pool, BILLING).acquire() as connection:
        return await states(connection, [job], clock.now())


@pytest.mark.parametrize("connections", [2, 3, 8])
async def test_jobs_that_are_due_together_do_not_wait_for_each_other_for_ever(database: str, connections: int) -> None:
    pool, done, all_done = await create_pool(database, max_size=connections), set[str](), asyncio.Event()
    jobs: list[Job] = []
    for number in range(9):

        async def effect(_scheduled_for: datetime, name: str = f"job {number}") -> Mapping[str, Any]:
            await pool.execute("SELECT 1")
            done.add(name)
            if len(done) == len(jobs):
                all_done.set()
            return {}

        jobs.append(Job(f"job {number}", HOUR, Every(HOUR), effect))
    timer = Timer(pool, FixedClock(BEGIN), jobs, worker="0")
    await timer.keep_running()
    await asyncio.wait_for(all_done.wait(), timeout=30)
    await timer.stop()
    await pool.close()

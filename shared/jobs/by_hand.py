"""Runs a job because a person asks for it: for a time that is due, under the same lock and in the same record as the timer's runs."""

from __future__ import annotations

from datetime import datetime, timedelta

from shared.clock import Clock
from shared.errors import TallystickError
from shared.jobs.run import BY_HAND, SQL, Job, Outcome, lock, looks_at_the_present, run_locked, waiting
from shared.postgres import Connection, Pool, transaction


class JobRefused(TallystickError):
    """A run that a person asked for is not made; the message says why and what to do."""


async def run_by_hand(pool: Pool, clock: Clock, job: Job, *, by: str, at: datetime | None = None) -> Outcome:
    """Run a job for the time `at`; without one for the earliest that is due, or at once where the job looks at the present.

    Raises `JobRefused` for a time that is in the future, not scheduled, or was run already, before an earlier one that is due,
    when nothing is due, and while another worker is at it.
    """
    async with transaction(pool) as connection:
        began = await lock(connection, job)
        if began is None:
            raise JobRefused(f"a worker is running '{job.name}' at this moment: see 'tallystick jobs list'")
        scheduled_for = await _choose(connection, job, clock.now(), at)
        await connection.execute(SQL["act_as"], by)
        return await run_locked(connection, job, scheduled_for, began, worker=BY_HAND, asked_by=by)


async def _choose(connection: Connection, job: Job, now: datetime, at: datetime | None) -> datetime:
    ahead = await waiting(connection, job, now)
    if at is None:
        if ahead:
            return ahead[0]
        if looks_at_the_present(job):
            return now.replace(microsecond=0)
        raise JobRefused(
            f"'{job.name}' has nothing to do now{_next(job, now)}. Name a time that it was scheduled for with --at"
        )
    await _check_time(connection, job, now, at)
    if ahead and ahead[0] < at and not looks_at_the_present(job):
        raise JobRefused(f"'{job.name}' has to be run for {ahead[0].isoformat()} first: its runs are made in order")
    return at


async def _check_time(connection: Connection, job: Job, now: datetime, at: datetime) -> None:
    if at > now:
        raise JobRefused(f"{at.isoformat()} has not come yet: '{job.name}' cannot be run ahead of its time")
    if not looks_at_the_present(job) and at not in job.due(now, at - timedelta(microseconds=1)):
        raise JobRefused(f"'{job.name}' was never scheduled for {at.isoformat()}{_next(job, at)}")
    run = await connection.fetchrow(SQL["run_of"], job.name, at)
    if run is not None and run["finished_at"] is not None:
        who = run["asked_by"] or f"worker {run['worker']}"
        raise JobRefused(
            f"'{job.name}' was run for {at.isoformat()} already, at {run['finished_at']:%Y-%m-%d %H:%M:%S} UTC by {who}: "
            "a time is run once"
        )


def _next(job: Job, after: datetime) -> str:
    following = getattr(job.due, "next", None)
    return f"; the next time is {following(after).isoformat()}" if following else ""

"""Runs what is due of a job, one scheduled time after the other."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from shared.clock import Clock
from shared.jobs.schedules import Schedule
from shared.postgres import Connection, Pool, transaction
from shared.sql import Queries

log = structlog.get_logger("jobs")

SQL = Queries.load("shared.jobs")
KEEP_LOOKS = timedelta(days=7)
"""How long runs of jobs that look at the present are kept: some look every minute. Other runs, and those by hand, are kept for ever."""
RUNS_A_LOOK = 24
"""Most runs of one job in one look: after a long downtime the rest follows with the next."""

BY_HAND = "by hand"
"""The worker of a run that a person asked for: the audit trail has it."""

DETAILS = "details"
"""The part of a result that a report of the run shows, and no list."""

Effect = Callable[[datetime], Awaitable[Mapping[str, Any]]]


class Unfinished(Exception):
    """A run did what it could, and has to be made again for the rest. `result` says what it came to."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        super().__init__(str(result))
        self.result = result


@dataclass(frozen=True, slots=True)
class Job:
    """A scheduled job. `due(now, last)` says which times are due after the last recorded one.

    `effect(scheduled_for)` works in transactions of its own and may run again after a crash, so it is idempotent by itself; what it
    returns is kept with the run, `details` for a report. `since` says from when on there is anything to do, while no run is recorded.
    """

    name: str
    look_every: timedelta
    due: Schedule
    effect: Effect
    description: str = ""
    since: Callable[[Connection], Awaitable[datetime | None]] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to; its details are in the record of the run alone."""

    job: str
    scheduled_for: datetime
    result: Mapping[str, Any]
    finished: bool


Observe = Callable[[Outcome], None]


def log_outcome(outcome: Outcome) -> None:
    """Tell the log."""
    facts = {"job": outcome.job, "scheduled_for": outcome.scheduled_for.isoformat(), "result": dict(outcome.result)}
    if outcome.finished:
        log.info("job_done", **facts)
    else:
        log.error("job_failed", then="it is tried again", **facts)


async def run_due(pool: Pool, clock: Clock, job: Job, *, worker: str, observe: Observe = log_outcome) -> int:
    """Make the runs of a job that are due or unfinished, in order; return how many. Another worker that is at it ends this one's look.

    Each run has a transaction around its effect that holds the job's lock and records it at the end. A run whose worker died is not
    recorded, one that failed is recorded as unfinished; both are made again, the latter once in a look.
    """
    made: list[datetime] = []
    while len(made) < RUNS_A_LOOK:
        async with transaction(pool) as connection:
            began = await lock(connection, job)
            times = await waiting(connection, job, clock.now()) if began else []
            ahead = [at for at in times if at not in made]
            if began is None or not ahead:
                break
            outcome = await run_locked(connection, job, ahead[0], began, worker=worker)
        observe(outcome)
        made.append(outcome.scheduled_for)
    return len(made)


async def lock(connection: Connection, job: Job) -> datetime | None:
    """Take the lock of a job for this transaction; return the time, or None if another worker is at it."""
    row = await connection.fetchrow(SQL["lock_job"], job.name)
    return row["at"] if row["free"] else None


async def waiting(connection: Connection, job: Job, now: datetime) -> list[datetime]:
    """Return the times that a job has to be run for, in order: those that are due, and those whose run did not end.

    Of a job that looks at the present only the latest: a look that failed is made up for by the next.
    """
    last = await connection.fetchval(SQL["last_scheduled"], job.name)
    if last is None and job.since:
        last = await job.since(connection)
    due = set(job.due(now, last))
    done = {row["scheduled_for"] for row in await connection.fetch(SQL["finished_among"], job.name, list(due))}
    present = looks_at_the_present(job)
    unfinished = {row["scheduled_for"] for row in await connection.fetch(SQL["unfinished_runs"], job.name, present)}
    times = sorted((due - done) | unfinished)
    return times[-1:] if present else times


def looks_at_the_present(job: Job) -> bool:
    """Tell whether what a job does depends on when it runs rather than on the time it was scheduled for."""
    return bool(getattr(job.due, "looks_at_the_present", False))


async def run_locked(
    connection: Connection,
    job: Job,
    scheduled_for: datetime,
    began: datetime,
    *,
    worker: str,
    asked_by: str | None = None,
) -> Outcome:
    """Run the effect and record what it came to, in the transaction that holds the job's lock since `began`."""
    try:
        result, finished = await job.effect(scheduled_for), True
    except Unfinished as unfinished:
        result, finished = unfinished.result, False
    except Exception as error:
        result, finished = {"error": repr(error)}, False
    told = json.dumps(result, default=str)
    await connection.execute(SQL["record_run"], job.name, scheduled_for, began, finished, worker, asked_by, told)
    if looks_at_the_present(job):
        await connection.execute(SQL["forget_looks"], job.name, scheduled_for - KEEP_LOOKS)
    brief = {name: value for name, value in result.items() if name != DETAILS}
    return Outcome(job.name, scheduled_for, brief, finished)

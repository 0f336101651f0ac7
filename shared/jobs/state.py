"""How jobs stand: what an operator wants to know of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.jobs.run import SQL, Job, waiting
from shared.postgres import Connection

OVERDUE_LOOKS = 2
"""A job is overdue when it was looked after so often, by its timer's interval, and still has not been run."""


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last recorded run of a job. `finished_at` None: it failed, `attempts` times by now."""

    scheduled_for: datetime
    started_at: datetime
    finished_at: datetime | None
    worker: str | None
    asked_by: str | None
    attempts: int
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobState:
    """One job. `waiting` are the times that have come and are not done; `next_due` the first of them, else the next to come.

    `running`: somebody is at it at this moment, a worker or the API.
    """

    name: str
    description: str
    last: LastRun | None
    waiting: Sequence[datetime]
    next_due: datetime | None
    overdue: bool
    running: bool


async def states(connection: Connection, jobs: Sequence[Job], now: datetime) -> list[JobState]:
    """Return how each of `jobs` stands at `now`."""
    rows = await connection.fetch(SQL["last_runs"], [job.name for job in jobs])
    last = {row["job"]: _last(row) for row in rows}
    running = await being_run(connection, jobs)
    return [
        _state(job, last.get(job.name), await waiting(connection, job, now), now, running=job.name in running)
        for job in jobs
    ]


async def being_run(connection: Connection, jobs: Sequence[Job]) -> set[str]:
    """Return the names of those jobs that somebody is at right now."""
    return {row["job"] for row in await connection.fetch(SQL["being_run"], [job.name for job in jobs])}


async def recent_runs(connection: Connection, job: str, most: int) -> list[LastRun]:
    """Return the last runs of a job, the newest first, without their details."""
    return [_last(row) for row in await connection.fetch(SQL["recent_runs"], job, most)]


async def details_of_run(connection: Connection, job: str, at: datetime | None = None) -> tuple[datetime, Any] | None:
    """Return what a run that ended left for a report, with the time that it was scheduled for: the run for `at`, or the last one.

    None where there is no such run. The details are None where the run left none.
    """
    row = await connection.fetchrow(SQL["details_of_run"], job, at)
    return (row["scheduled_for"], json.loads(row["details"]) if row["details"] else None) if row else None


def _state(job: Job, last: LastRun | None, ahead: Sequence[datetime], now: datetime, *, running: bool) -> JobState:
    following = getattr(job.due, "next", None)
    next_due = ahead[0] if ahead else following(now) if following else None
    overdue = bool(ahead) and now - ahead[0] > OVERDUE_LOOKS * job.look_every
    return JobState(job.name, job.description, last, ahead, next_due, overdue, running)


def _last(row: Mapping[str, Any]) -> LastRun:
    facts = {name: row[name] for name in LastRun.__dataclass_fields__}
    return LastRun(**facts | {"result": json.loads(row["result"])})


async def last_result(connection: Connection, job: str) -> tuple[datetime, Mapping[str, Any]] | None:
    """Return when the last run of a job that ended did so, and what it came to; None before there was one."""
    row = await connection.fetchrow(SQL["last_result"], job)
    return (row["finished_at"], json.loads(row["result"])) if row else None

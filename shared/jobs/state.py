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
    """One job. `waiting` are the times that have come and are not done; `next_due` the first of them, else the next to come."""

    name: str
    description: str
    last: LastRun | None
    waiting: Sequence[datetime]
    next_due: datetime | None
    overdue: bool


async def states(connection: Connection, jobs: Sequence[Job], now: datetime) -> list[JobState]:
    """Return how each of `jobs` stands at `now`."""
    rows = await connection.fetch(SQL["last_runs"], [job.name for job in jobs])
    last = {row["job"]: _last(row) for row in rows}
    return [_state(job, last.get(job.name), await waiting(connection, job, now), now) for job in jobs]


def _state(job: Job, last: LastRun | None, ahead: Sequence[datetime], now: datetime) -> JobState:
    following = getattr(job.due, "next", None)
    next_due = ahead[0] if ahead else following(now) if following else None
    overdue = bool(ahead) and now - ahead[0] > OVERDUE_LOOKS * job.look_every
    return JobState(job.name, job.description, last, ahead, next_due, overdue)


def _last(row: Mapping[str, Any]) -> LastRun:
    facts = {name: row[name] for name in LastRun.__dataclass_fields__}
    return LastRun(**facts | {"result": json.loads(row["result"])})


async def last_result(connection: Connection, job: str) -> tuple[datetime, Mapping[str, Any]] | None:
    """Return when the last run of a job that ended did so, and what it came to; None before there was one."""
    row = await connection.fetchrow(SQL["last_result"], job)
    return (row["finished_at"], json.loads(row["result"])) if row else None

"""What billing does by the clock: how it stands, and runs by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from services.api.auth.asking import Administrator
from services.api.auth.principal import Principal
from services.api.database import BILLING
from services.api.fields import Answer, Body, Instant
from services.api.problems import NOT_FOUND, Problem
from services.api.state import State, state_of
from services.billing.jobs import all_jobs
from shared.jobs import Job, run_by_hand, states

router = APIRouter(prefix="/api/v1/admin/jobs", tags=["admin: jobs"])


class Run(Answer):
    """The last recorded run of a job. `finished_at` null: it failed."""

    scheduled_for: Instant
    started_at: Instant
    finished_at: Instant | None
    worker: str | None
    asked_by: str | None
    attempts: int
    result: dict[str, Any]


class JobState(Answer):
    """How a job stands. `waiting` are the times that have come and are not done."""

    name: str
    description: str
    last: Run | None
    waiting: list[Instant]
    next_due: Instant | None
    overdue: bool
    running: bool = Field(description="Whether somebody is at it at this moment.")


class RunWish(Body):
    """The run that is wanted."""

    at: Instant | None = Field(None, description="The scheduled time to run it for; else the earliest that is due.")


class Outcome(Answer):
    """What a run came to. A run that failed is tried again by the timer."""

    job: str
    scheduled_for: Instant
    finished: bool
    result: dict[str, Any]


@router.get("")
async def list_jobs(request: Request, principal: Administrator) -> list[JobState]:
    """Show every job of billing: its last run, when it is due next, and whether it is overdue."""
    state = state_of(request)
    jobs = await _jobs(state)
    async with state.database.reading(principal) as connection:
        found = await states(connection, jobs, state.clock.now())
    return [JobState.model_validate(one, from_attributes=True) for one in found]


@router.post("/{name}/run")
async def run_job(request: Request, principal: Administrator, name: str, body: RunWish) -> Outcome:
    """Run a job now, for one scheduled time; hyphens may stand for the spaces of its name. What was run already is refused."""
    return await _run(state_of(request), principal, await _named(state_of(request), name), body)


async def begin_job(request: Request, principal: Administrator, name: str, body: RunWish) -> Outcome | None:
    """The same, but without waiting for one that takes longer than two seconds: it goes on, and None is returned."""
    state = state_of(request)
    job = await _named(state, name)
    return await state.capabilities.background.begin(_run(state, principal, job, body))


async def _run(state: State, principal: Principal, job: Job, body: RunWish) -> Outcome:
    pool = await state.capabilities.pool(BILLING)
    done = await run_by_hand(pool, state.clock, job, by=principal.name, at=body.at)
    return Outcome(job=done.job, scheduled_for=done.scheduled_for, finished=done.finished, result=dict(done.result))


async def _named(state: State, name: str) -> Job:
    jobs = {job.name.replace(" ", "-"): job for job in await _jobs(state)}
    job = jobs.get(name.strip().replace(" ", "-"))
    if job is None:
        raise Problem(NOT_FOUND, f"there is no job '{name}': there are {', '.join(jobs)}")
    return job


async def _jobs(state: State) -> Sequence[Job]:
    return all_jobs(state.capabilities.billing, await state.capabilities.pool(BILLING), state.clock)

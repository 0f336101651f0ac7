"""Looks after jobs by the clock. APScheduler is a timer only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from shared.clock import Clock
from shared.jobs.run import Job, Observe, log_outcome, run_due
from shared.postgres import Pool

log = structlog.get_logger("jobs")

LOOKS_AT_ONCE = 2
CONNECTIONS_A_LOOK = 4
"""Connections of the pool that there are for each look at once: its lock's, its work's, and some for everybody else."""


class Timer:
    """Looks after each job as often as it says, a few looks at a time, none skipped for being late.

    A look holds a connection, for the lock of its job, while the job's work takes others: as many looks as the pool has connections would
    wait for each other for ever, and everything else with them. All jobs are due together when a worker starts. More than one look, so
    that a long run, of closing a month for instance, does not hold up what is done every minute.
    """

    def __init__(
        self, pool: Pool, clock: Clock, jobs: Sequence[Job], *, worker: str, observe: Observe = log_outcome
    ) -> None:
        self._pool, self._clock, self._worker, self._observe = pool, clock, worker, observe
        self._places = asyncio.Semaphore(max(1, min(LOOKS_AT_ONCE, pool.get_max_size() // CONNECTIONS_A_LOOK)))
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        for job in jobs:
            self._scheduler.add_job(
                self._look,
                IntervalTrigger(seconds=max(1, int(job.look_every.total_seconds())), timezone=UTC),
                args=[job],
                id=job.name,
                next_run_time=datetime.now(UTC),
                misfire_grace_time=None,
                coalesce=True,
                max_instances=1,
            )

    async def _look(self, job: Job) -> None:
        try:
            async with self._places:
                await run_due(self._pool, self._clock, job, worker=self._worker, observe=self._observe)
        except Exception as error:  # the database is away, perhaps: the next look comes
            log.warning("job_not_looked_after", job=job.name, error=repr(error))

    async def keep_running(self) -> None:
        """Start the timer unless it runs."""
        if not self._scheduler.running:
            self._scheduler.start()

    async def stop(self) -> None:
        """Look no more. A run that is under way dies with its transaction, and is made again."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

"""Looks after jobs by the clock. APScheduler is a timer only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from shared.clock import Clock
from shared.jobs.run import Job, Observe, log_outcome, run_due
from shared.postgres import Pool

log = structlog.get_logger("jobs")


class Timer:
    """Looks after each job as often as it says, one look at a time, none skipped for being late."""

    def __init__(
        self, pool: Pool, clock: Clock, jobs: Sequence[Job], *, worker: str, observe: Observe = log_outcome
    ) -> None:
        self._pool, self._clock, self._worker, self._observe = pool, clock, worker, observe
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

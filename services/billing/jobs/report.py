"""What jobs and their runs are as metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.billing import metrics
from shared.clock import Clock
from shared.jobs import Job, Outcome, states
from shared.jobs.run import log_outcome
from shared.postgres import Pool


def observe_run(outcome: Outcome) -> None:
    """Count a recorded run, and tell the log."""
    metrics.JOB_RUNS.labels(outcome.job, "done" if outcome.finished else "failed").inc()
    if outcome.finished:
        metrics.JOB_FINISHED.labels(outcome.job).set_to_current_time()
        metrics.JOB_OVERDUE.labels(outcome.job).set(0)  # until somebody looks again
    log_outcome(outcome)


@dataclass(frozen=True, slots=True)
class JobStanding:
    """Makes it a metric of every worker how jobs stand, whoever runs them, and also after a restart."""

    pool: Pool
    clock: Clock
    jobs: Sequence[Job]

    async def __call__(self) -> None:
        """Report all jobs, as `tallystick jobs list` shows them."""
        async with self.pool.acquire() as connection:
            standing = await states(connection, self.jobs, now := self.clock.now())
        for job in standing:
            if job.last and job.last.finished_at:
                metrics.JOB_FINISHED.labels(job.name).set(job.last.finished_at.timestamp())
            late = (now - job.waiting[0]).total_seconds() if job.overdue else 0.0
            metrics.JOB_OVERDUE.labels(job.name).set(late)

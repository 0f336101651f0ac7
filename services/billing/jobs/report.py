"""What the runs of jobs are as metrics."""

from __future__ import annotations

from services.billing import metrics
from shared.jobs import Outcome
from shared.jobs.run import log_outcome


def observe_run(outcome: Outcome) -> None:
    """Count a recorded run, and tell the log."""
    metrics.JOB_RUNS.labels(outcome.job, "done" if outcome.finished else "failed").inc()
    if outcome.finished:
        metrics.JOB_FINISHED.labels(outcome.job).set_to_current_time()
    log_outcome(outcome)

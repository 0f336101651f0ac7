"""Billing's scheduled jobs: which there are (registry), and what their runs are as metrics."""

from services.billing.jobs.registry import all_jobs
from services.billing.jobs.report import observe_run

__all__ = ["all_jobs", "observe_run"]

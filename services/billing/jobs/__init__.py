"""Billing's scheduled jobs: which there are (registry), and what they and their runs are as metrics."""

from services.billing.jobs.registry import all_jobs
from services.billing.jobs.report import JobStanding, observe_run

__all__ = ["JobStanding", "all_jobs", "observe_run"]

"""Scheduled jobs: each scheduled time is run once, whatever the number of workers, and made up for after a downtime.

A timer only says when to look. What is due follows from the schedule and from job_runs; a lock in the database lets one worker at a time
be at a job. Knows nothing of what jobs do.
"""

from shared.jobs.by_hand import JobRefused, run_by_hand
from shared.jobs.run import DETAILS, Job, Outcome, Unfinished, run_due
from shared.jobs.schedules import Every, Monthly, Schedule
from shared.jobs.state import JobState, LastRun, being_run, details_of_run, last_result, recent_runs, states
from shared.jobs.timer import Timer

__all__ = [
    "DETAILS",
    "Every",
    "Job",
    "JobRefused",
    "JobState",
    "LastRun",
    "Monthly",
    "Outcome",
    "Schedule",
    "Timer",
    "Unfinished",
    "being_run",
    "details_of_run",
    "last_result",
    "recent_runs",
    "run_by_hand",
    "run_due",
    "states",
]

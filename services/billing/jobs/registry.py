"""All of billing's jobs. Each capability makes its own (its `jobs.py`); this is the one place that knows the settings they run with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from services.billing.credits.jobs import credit_jobs
from services.billing.invoices.jobs import closing_job, drafting_job
from services.billing.invoices.terms import Terms
from services.billing.notices.jobs import forget_deliveries_job, make_watch, watch_job
from services.billing.payments.jobs import payment_jobs
from services.billing.provider_keys.jobs import provider_keys_job
from services.billing.reconciliation.jobs import reconciliation_job
from services.billing.subscriptions.jobs import subscriptions_job
from shared.clock import Clock
from shared.jobs import Job
from shared.postgres import Pool

if TYPE_CHECKING:
    from services.billing.settings import Settings


COUNT_PROVIDER_KEYS = timedelta(minutes=15)


def all_jobs(settings: Settings, pool: Pool, clock: Clock) -> list[Job]:
    """Return the jobs that are switched on, with names that are unique: a name is the key of a job's runs for ever."""
    jobs = [
        *_closing(settings, pool, clock),
        subscriptions_job(pool, clock),
        *credit_jobs(pool, clock),
        *payment_jobs(pool, clock, settings=settings),
        *_reconciliation(settings, pool),
        *_notices(settings, pool, clock),
        provider_keys_job(pool, clock, every=COUNT_PROVIDER_KEYS),
    ]
    names = [job.name for job in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two jobs are called {', '.join(twice)}")
    return jobs


def _closing(settings: Settings, pool: Pool, clock: Clock) -> Sequence[Job]:
    if not settings.billing_close_periods:
        return ()
    terms = Terms(settings.billing_entity, timedelta(days=settings.billing_payment_days))
    grace = timedelta(hours=settings.billing_grace_hours)
    return drafting_job(pool, clock, grace=grace, terms=terms), closing_job(pool, clock, grace=grace, terms=terms)


def _reconciliation(settings: Settings, pool: Pool) -> Sequence[Job]:
    if not settings.billing_reconcile_minutes:
        return ()
    return (reconciliation_job(pool, every=timedelta(minutes=settings.billing_reconcile_minutes)),)


def _notices(settings: Settings, pool: Pool, clock: Clock) -> Sequence[Job]:
    jobs = [forget_deliveries_job(pool, clock, keep=timedelta(days=settings.billing_webhook_keep_days))]
    if settings.billing_watch_minutes:
        every = timedelta(minutes=settings.billing_watch_minutes)
        jobs.append(watch_job(make_watch(pool, clock, settings), every=every))
    return jobs

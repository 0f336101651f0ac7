"""The scheduled work of payments. Each look does what is due at that moment, so that missed ones need no making up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from services.billing.payments.charging import resolve_open
from services.billing.payments.collection import Collecting
from services.billing.payments.providers import Providers
from services.billing.payments.refunds import resolve_refunds
from services.billing.payments.settings import PaymentSettings
from services.billing.payments.topups import execute_topups
from shared.clock import Clock
from shared.jobs import Every, Job, Unfinished
from shared.postgres import Pool

HOUR, FIVE_MINUTES, MINUTE = timedelta(hours=1), timedelta(minutes=5), timedelta(minutes=1)


def payment_jobs(pool: Pool, clock: Clock, *, settings: PaymentSettings) -> list[Job]:
    """Return the jobs of payments: dun, mark overdue, resolve open payments, execute top-ups."""
    providers = Providers(settings)
    return [
        dunning_job(pool, clock, providers),
        overdue_job(pool, clock, providers),
        resolving_job(pool, clock, providers),
        topup_payment_job(pool, clock, providers),
    ]


def dunning_job(pool: Pool, clock: Clock, providers: Providers) -> Job:
    """Charge and remind by the schedule, and suspend at its end."""
    collecting = _collecting(pool, clock, providers)
    return _job(
        "dun", HOUR, collecting.dun, "charges unpaid invoices again, or reminds, by the schedule; suspends at its end"
    )


def overdue_job(pool: Pool, clock: Clock, providers: Providers) -> Job:
    """Mark invoices that are past their due date."""
    collecting = _collecting(pool, clock, providers)
    return _job("mark overdue", HOUR, collecting.mark_overdue, "marks invoices past their due date as overdue")


def resolving_job(pool: Pool, clock: Clock, providers: Providers) -> Job:
    """Ask providers about payments and refunds that have no end yet."""

    async def resolve() -> dict[str, int]:
        payments = await resolve_open(pool, providers, clock=clock)
        refunds = await resolve_refunds(pool, providers, clock=clock)
        return {
            "payments": payments["ended"],
            "refunds": refunds["ended"],
            "open": payments["asked"] - payments["ended"],
        }

    return _job(
        "resolve payments", FIVE_MINUTES, resolve, "asks providers about payments and refunds without an answer"
    )


def topup_payment_job(pool: Pool, clock: Clock, providers: Providers) -> Job:
    """Charge automatic top-ups."""

    async def execute() -> dict[str, int]:
        return await execute_topups(pool, providers, clock=clock)

    return _job("pay top-ups", MINUTE, execute, "charges automatic top-ups of prepaid credits")


def _collecting(pool: Pool, clock: Clock, providers: Providers) -> Collecting:
    settings = providers.settings
    return Collecting(pool, providers, clock, settings.dunning_schedule, settings.dunning_suspends)


def _job(name: str, every: timedelta, work: Callable[[], Awaitable[dict[str, int]]], description: str) -> Job:
    async def effect(_scheduled_for: datetime) -> Mapping[str, Any]:
        result = await work()
        if result.get("failed") and name in ("dun", "mark overdue"):
            raise Unfinished(result)
        return result

    return Job(name, min(every, FIVE_MINUTES), Every(every), effect, description=description)

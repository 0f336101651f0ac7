"""The scheduled work of prepaid credits. Each look does what is due at that moment, so that missed ones need no making up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from services.billing.credits import topups
from services.billing.credits.fees import charge_fees
from services.billing.credits.upkeep import Upkeep, expire_credits, renew_allowances
from shared.clock import Clock
from shared.jobs import Every, Job, Unfinished
from shared.outbox import Outbox
from shared.postgres import Pool, transaction

MINUTE = timedelta(minutes=1)
FEES_EVERY = timedelta(minutes=10)


def credit_jobs(pool: Pool, clock: Clock) -> list[Job]:
    """Return the jobs of credits: expire, renew, charge fees, ask for top-ups."""
    return [expiry_job(pool, clock), renewal_job(pool, clock), fees_job(pool, clock), topup_job(pool, clock)]


def expiry_job(pool: Pool, clock: Clock) -> Job:
    """Take expired credits out of balances. Whoever uses credits does so as well: this is for those who do not."""

    async def expire(_scheduled_for: datetime) -> Mapping[str, Any]:
        return _result(await expire_credits(pool, clock.now()))

    return Job("expire credits", MINUTE, Every(MINUTE), expire, description="takes expired credits out of balances")


def renewal_job(pool: Pool, clock: Clock) -> Job:
    """Grant allowances as billing cycles begin."""

    async def renew(_scheduled_for: datetime) -> Mapping[str, Any]:
        return _result(await renew_allowances(pool, clock.now()))

    return Job(
        "renew allowances", MINUTE, Every(MINUTE), renew, description="grants the allowance of new billing cycles"
    )


def fees_job(pool: Pool, clock: Clock) -> Job:
    """Charge flat fees of prepaid subscriptions to credits, soon after they fall due."""
    outbox = Outbox("billing_outbox")

    async def charge(_scheduled_for: datetime) -> Mapping[str, Any]:
        done = await charge_fees(pool, outbox, now=clock.now())
        result = {"fees": done.fees, "waiting": done.waiting, "failed": done.failed}
        if done.waiting or done.failed:
            raise Unfinished(result)
        return result

    return Job(
        "charge prepaid fees",
        FEES_EVERY,
        Every(FEES_EVERY),
        charge,
        description="charges fees of prepaid subscriptions to credits",
    )


def topup_job(pool: Pool, clock: Clock) -> Job:
    """Ask for top-ups of balances that are below their threshold. A settlement asks at once: this is for all other causes."""
    outbox = Outbox("billing_outbox")

    async def ask(_scheduled_for: datetime) -> Mapping[str, Any]:
        async with transaction(pool) as connection:
            return {"requested": len(await topups.request(connection, outbox, clock.now()))}

    return Job("request top-ups", MINUTE, Every(MINUTE), ask, description="asks for top-ups of low balances")


def _result(done: Upkeep) -> Mapping[str, Any]:
    result = {"accounts": done.accounts, "postings": done.postings, "failed": len(done.failed)}
    if done.failed:
        raise Unfinished(result)
    return result

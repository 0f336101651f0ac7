"""Scheduled jobs. APScheduler is a timer only: it says when to look. What is due, and that each run happens once whatever the
number of replicas, follows from job_runs, written in the transaction that holds the job's lock."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from services.billing import metrics
from services.billing.invoices.closing import Terms, close_period
from services.billing.reconciliation import reconcile
from shared.clock import Clock
from shared.period import Period, month_start, next_month
from shared.postgres import Connection, Pool, transaction
from shared.sql import Queries

log = structlog.get_logger("billing.jobs")

SQL = Queries.load("services.billing")
RECONCILE = "reconcile"
CATCH_UP_RUNS = 24
"""Missed runs of one job that are made up for, the latest ones."""

Due = Callable[[datetime, datetime | None], Sequence[datetime]]
Effect = Callable[[datetime], Awaitable[Mapping[str, Any]]]


class Unfinished(Exception):
    """A run did what it could, and has to be made again for the rest. `result` says what it came to."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        super().__init__(str(result))
        self.result = result


@dataclass(frozen=True, slots=True)
class Job:
    """A scheduled job. `due(now, last)` says which times are due after the last recorded one, or after the first usage was
    rated if none is; `effect(scheduled_for)` may run again after a crash, so it is idempotent by itself; what it returns is
    kept with the run."""

    name: str
    look_every: timedelta
    due: Due
    effect: Effect


async def run_due(pool: Pool, clock: Clock, job: Job, *, worker: str) -> int:
    """Make the runs of a job that are due or unfinished; return how many. Another worker that is at it makes it none.

    The lock is held, and the runs recorded, by a transaction around the effects: a run whose worker died is not recorded,
    one that failed is recorded as unfinished, and both are made again.
    """
    async with transaction(pool) as connection:
        if not await connection.fetchval(SQL["lock_job"], f"tallystick.job.{job.name}"):
            return 0
        unfinished = [row["scheduled_for"] for row in await connection.fetch(SQL["unfinished_runs"], job.name)]
        last = await connection.fetchval(SQL["last_run"], job.name)
        due = unfinished + list(job.due(clock.now(), last))[-CATCH_UP_RUNS:]
        for scheduled_for in due:
            await _run(connection, job, scheduled_for, worker)
        return len(due)


async def _run(connection: Connection, job: Job, scheduled_for: datetime, worker: str) -> None:
    await connection.execute(SQL["begin_job"], job.name, scheduled_for, worker)
    result, finished = await _effect(job, scheduled_for)
    await connection.execute(SQL["end_job"], job.name, scheduled_for, json.dumps(result, default=str), finished)
    metrics.JOB_RUNS.labels(job.name, "done" if finished else "failed").inc()
    if finished:
        metrics.JOB_FINISHED.labels(job.name).set_to_current_time()
        log.info("job_done", job=job.name, scheduled_for=scheduled_for.isoformat(), **result)
    else:
        log.error(
            "job_failed", job=job.name, scheduled_for=scheduled_for.isoformat(), then="it is tried again", **result
        )


async def _effect(job: Job, scheduled_for: datetime) -> tuple[Mapping[str, Any], bool]:
    """Return what a run came to, and whether it is finished. Its work is in transactions of its own."""
    try:
        return await job.effect(scheduled_for), True
    except Unfinished as unfinished:
        return unfinished.result, False
    except Exception as error:
        return {"error": repr(error)}, False


def closing_job(pool: Pool, clock: Clock, *, grace: timedelta, terms: Terms) -> Job:
    """Close each month when its grace is over. Months that were missed are closed in order."""

    async def close(scheduled_for: datetime) -> Mapping[str, Any]:
        month = Period.month_of(scheduled_for - grace - timedelta(microseconds=1))
        closing = await close_period(pool, month, clock=clock, grace=grace, terms=terms)
        result = {
            "period": f"{month.start:%Y-%m}",
            "invoices": len(closing.invoices),
            "failures": len(closing.failures),
        }
        if closing.failures:
            raise Unfinished(result)
        return result

    def due(now: datetime, last: datetime | None) -> Sequence[datetime]:
        return months_due(now, last, grace)

    return Job("close period", timedelta(minutes=10), due, close)


def months_due(now: datetime, last: datetime | None, grace: timedelta) -> list[datetime]:
    """Return the ends of months plus `grace` that have passed since `last`; none before there was anything to bill.

    So months from before the pipeline ran are not closed by themselves: whoever imports them closes them.
    """
    if last is None:
        return []
    latest, ends, end = month_start(now - grace), [], next_month(last - grace)
    while end <= latest:
        ends.append(end + grace)
        end = next_month(end)
    return ends


def reconciliation_job(pool: Pool, *, every: timedelta) -> Job:
    """Prove the books every so often. The verdict is kept with the run; `LastReconciliation` makes it a metric."""

    async def prove(_scheduled_for: datetime) -> Mapping[str, Any]:
        async with pool.acquire() as connection:
            checks = await reconcile(connection)
        broken = [check for check in checks if not check.holds]
        return {
            "checks": len(checks),
            "differing": [check.name for check in broken if not check.eventual],
            "under_way": [check.name for check in broken if check.eventual],
        }

    def due(now: datetime, last: datetime | None) -> Sequence[datetime]:
        slot = datetime.fromtimestamp(now.timestamp() // every.total_seconds() * every.total_seconds(), UTC)
        return [slot] if last is not None and slot > last else []

    return Job(RECONCILE, min(every, timedelta(minutes=1)), due, prove)


@dataclass(frozen=True, slots=True)
class LastReconciliation:
    """Makes the last verdict a metric of every worker, whoever ran it, and also after a restart."""

    pool: Pool

    async def __call__(self) -> None:
        """Report the last run that ended; nothing before there was one."""
        row = await self.pool.fetchrow(SQL["last_result"], RECONCILE)
        if row is not None:
            result = json.loads(row["result"])
            metrics.report_reconciliation(row["finished_at"], result["differing"], result.get("under_way", ()))


class Timer:
    """Looks after jobs: each as often as it says, one look at a time, none skipped for being late."""

    def __init__(self, pool: Pool, clock: Clock, jobs: Sequence[Job], *, worker: str) -> None:
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        for job in jobs:
            self._scheduler.add_job(
                run_due,
                IntervalTrigger(seconds=int(job.look_every.total_seconds()), timezone=UTC),
                args=[pool, clock, job],
                kwargs={"worker": worker},
                id=job.name,
                next_run_time=datetime.now(UTC),
                misfire_grace_time=None,
                coalesce=True,
                max_instances=1,
            )

    async def keep_running(self) -> None:
        """Start the timer unless it runs."""
        if not self._scheduler.running:
            self._scheduler.start()

    async def stop(self) -> None:
        """Look no more. A run that is under way dies with its transaction, and is made again."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

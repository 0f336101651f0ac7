"""Jobs: each scheduled run happens once, whatever the number of workers, and is made up for after a downtime."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from services.billing.invoices.jobs import closing_job
from services.billing.invoices.terms import Terms
from services.billing.jobs import JobStanding
from services.billing.reconciliation.jobs import LastReconciliation, reconciliation_job
from services.billing.reconciliation.statements import STATEMENTS
from shared.clock import FixedClock
from shared.jobs import Job, Timer, run_due
from shared.postgres import Pool
from tests.integration.billing_facts import Desk, make_customer, make_price, usage

DAY = timedelta(days=1)


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool)
    desk = Desk(database_pool)
    customer = await make_customer(database_pool)
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    await database_pool.execute("UPDATE rating_runs SET rated_at = '2026-10-14Z'")
    return desk


async def test_each_month_is_closed_once_by_whoever_comes_first(desk: Desk) -> None:
    desk.clock.at = datetime(2026, 11, 2, tzinfo=UTC)
    job = closing_job(desk.pool, desk.clock, grace=DAY, terms=Terms())
    runs = await asyncio.gather(*(run_due(desk.pool, desk.clock, job, worker=str(n)) for n in range(4)))
    assert sum(runs) == 1
    assert await run_due(desk.pool, desk.clock, job, worker="later") == 0
    assert await desk.value("SELECT count(*) FROM invoices") == 1
    run = (await desk.fetch("SELECT * FROM job_runs"))[0]
    assert (run["job"], run["scheduled_for"]) == ("close period", datetime(2026, 11, 2, tzinfo=UTC))
    assert run["finished_at"] is not None


async def test_nothing_is_due_before_the_grace_is_over(desk: Desk) -> None:
    desk.clock.at = datetime(2026, 11, 1, 23, 59, tzinfo=UTC)
    job = closing_job(desk.pool, desk.clock, grace=DAY, terms=Terms())
    assert await run_due(desk.pool, desk.clock, job, worker="0") == 0


async def test_months_that_were_missed_are_closed_in_order(desk: Desk) -> None:
    desk.clock.at = datetime(2027, 1, 20, tzinfo=UTC)
    job = closing_job(desk.pool, desk.clock, grace=DAY, terms=Terms())
    assert await run_due(desk.pool, desk.clock, job, worker="0") == 3
    assert await desk.fetch("SELECT period_start FROM invoices") == [(datetime(2026, 10, 1, tzinfo=UTC),)]
    assert await desk.value("SELECT max(scheduled_for) FROM job_runs") == datetime(2027, 1, 2, tzinfo=UTC)


async def test_a_run_that_fails_is_recorded_as_unfinished_and_made_again(desk: Desk) -> None:
    attempts: list[datetime] = []

    async def effect(scheduled_for: datetime) -> Mapping[str, Any]:
        attempts.append(scheduled_for)
        if len(attempts) == 1:
            raise RuntimeError("no disk")
        return {}

    job = Job("fragile", DAY, lambda now, last: [now] if last is None or last < now else [], effect)
    assert await run_due(desk.pool, desk.clock, job, worker="0") == 1
    assert await desk.fetch("SELECT finished_at, result ->> 'error' FROM job_runs") == [
        (None, "RuntimeError('no disk')")
    ]
    assert await run_due(desk.pool, desk.clock, job, worker="0") == 1
    assert await run_due(desk.pool, desk.clock, job, worker="0") == 0
    assert attempts == [desk.clock.now()] * 2
    assert await desk.value("SELECT finished_at IS NOT NULL FROM job_runs")


async def test_a_worker_that_dies_in_a_run_leaves_no_record_of_it(desk: Desk) -> None:
    async def effect(_scheduled_for: datetime) -> Mapping[str, Any]:
        raise asyncio.CancelledError

    job = Job("fatal", DAY, lambda now, _last: [now], effect)
    with pytest.raises(asyncio.CancelledError):
        await run_due(desk.pool, desk.clock, job, worker="0")
    assert await desk.value("SELECT count(*) FROM job_runs") == 0


async def test_a_month_with_a_customer_who_could_not_be_invoiced_is_closed_again(desk: Desk) -> None:
    desk.clock.at = datetime(2026, 11, 2, tzinfo=UTC)
    job = closing_job(desk.pool, desk.clock, grace=DAY, terms=Terms())
    await desk.pool.execute("ALTER TABLE invoices ADD CONSTRAINT broken CHECK (status = 'draft')")
    assert await run_due(desk.pool, desk.clock, job, worker="0") == 1
    assert await desk.value("SELECT result ->> 'failures' FROM job_runs WHERE finished_at IS NULL") == "1"
    await desk.pool.execute("ALTER TABLE invoices DROP CONSTRAINT broken")
    assert await run_due(desk.pool, desk.clock, job, worker="1") == 1
    assert await desk.value("SELECT number FROM invoices") == "INV-2026-000001"
    assert await run_due(desk.pool, desk.clock, job, worker="1") == 0


async def test_the_books_are_proved_once_in_every_slot(desk: Desk) -> None:
    clock = FixedClock(datetime(2026, 11, 3, 10, 20, tzinfo=UTC))
    job = reconciliation_job(desk.pool, every=timedelta(hours=1))
    assert await run_due(desk.pool, clock, job, worker="0") == 1
    assert await run_due(desk.pool, clock, job, worker="0") == 0
    clock.at += timedelta(hours=1)
    assert await run_due(desk.pool, clock, job, worker="0") == 1
    assert await desk.value("SELECT result ->> 'differing' FROM job_runs LIMIT 1") == "[]"


async def test_the_timer_runs_what_is_due(desk: Desk) -> None:
    done = asyncio.Event()

    async def effect(_scheduled_for: datetime) -> Mapping[str, Any]:
        done.set()
        return {}

    job = Job("timed", timedelta(seconds=60), lambda now, last: [now] if last is None or last < now else [], effect)
    timer = Timer(desk.pool, desk.clock, [job], worker="0")
    await timer.keep_running()
    await timer.keep_running()
    await asyncio.wait_for(done.wait(), timeout=10)
    await timer.stop()


async def test_the_last_verdict_is_a_metric_of_every_worker(desk: Desk) -> None:
    desk.clock.at = datetime(2026, 10, 15, tzinfo=UTC)
    report = LastReconciliation(desk.pool)
    await report()  # nothing to say yet
    job = reconciliation_job(desk.pool, every=timedelta(hours=1))
    await desk.pool.execute("UPDATE usage_summaries SET error_count = 1, request_count = 2 WHERE period_type = 'day'")
    await run_due(desk.pool, desk.clock, job, worker="another")
    await report()
    verdicts = {statement.name: _gauge("usage_billing_check_differs", check=statement.name) for statement in STATEMENTS}
    assert {name for name, verdict in verdicts.items() if verdict} == {"hours = days"}
    assert _gauge("usage_billing_differing_checks") == 2  # requests and errors
    finished_at = await desk.value("SELECT finished_at FROM job_runs")
    assert _gauge("usage_billing_reconciled_timestamp_seconds") == finished_at.timestamp()


def _gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


async def test_a_job_that_is_not_run_is_told_as_overdue_by_every_worker(desk: Desk) -> None:
    desk.clock.at = datetime(2026, 11, 2, 12, tzinfo=UTC)
    job = closing_job(desk.pool, desk.clock, grace=DAY, terms=Terms())
    standing, label = JobStanding(desk.pool, desk.clock, [job]), {"job_name": job.name}

    await standing()
    assert REGISTRY.get_sample_value("usage_billing_job_overdue_seconds", label) == 12 * 3600

    await run_due(desk.pool, desk.clock, job, worker="another")
    await standing()
    assert REGISTRY.get_sample_value("usage_billing_job_overdue_seconds", label) == 0
    finished = await desk.value("SELECT extract(epoch FROM finished_at)::float8 FROM job_runs")
    told = REGISTRY.get_sample_value("usage_billing_job_finished_timestamp_seconds", label)
    assert told == pytest.approx(finished)

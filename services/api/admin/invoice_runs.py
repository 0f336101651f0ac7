"""Runs of invoices: the months that wait, what a month would be invoiced at, and issuing it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Request
from pydantic import Field

from services.api.admin.jobs import Run
from services.api.auth.asking import Finance
from services.api.auth.principal import Principal
from services.api.database import BILLING
from services.api.fields import Answer, Exact, Instant
from services.api.problems import CONFLICT, INVALID_REQUEST, Problem
from services.api.state import State, state_of
from services.billing.invoices.jobs import closing_job
from services.billing.invoices.preview import preview_run
from services.billing.invoices.terms import Terms
from shared.jobs import Job, Outcome, recent_runs, run_by_hand, states
from shared.money import exact
from shared.period import Period

router = APIRouter(prefix="/api/v1/admin/invoice-runs", tags=["admin: money"])

RUNS = 20
"""Most runs that are listed."""
Month = Annotated[str, Path(pattern=r"^\d{4}-(0[1-9]|1[0-2])$", examples=["2026-10"])]


class Runs(Answer):
    """The runs of invoices: by the clock where `by_itself`, else by a person's word alone."""

    by_itself: bool
    grace_hours: float = Field(description="How long late events are waited for, after the end of a month.")
    waiting: list[str] = Field(description="Months whose time has come and that were not invoiced yet.")
    running: bool = Field(description="Whether somebody is at it at this moment.")
    runs: list[Run] = Field(description="The last ones, the newest first.")


class Total(Answer):
    """What invoices come to in a currency."""

    currency: str
    invoices: int
    subtotal: Exact
    tax: Exact
    total: Exact


class Expected(Answer):
    """An invoice that a run would issue."""

    user_id: UUID
    name: str
    currency: str
    lines: int
    subtotal: Exact
    tax: Exact
    total: Exact
    credit_notes: Exact = Field(description="What would be given back by credit notes at the same time, with tax.")


class PreviewedRun(Answer):
    """What a run would issue now. Of more than 500 invoices the first 500 are computed; `invoices` counts all."""

    month: str
    closes_at: Instant = Field(description="When it can be issued: the end of the month and of its grace.")
    can_be_issued: bool
    invoices: int
    totals: list[Total] = Field(description="Of those that are computed.")
    items: list[Expected] = Field(description="Those that are computed, the largest first.")


class Issued(Answer):
    """A run that was begun. `state` running: it goes on, and is in the list of runs when it has ended; failed: some have no invoice yet."""

    month: str
    state: Literal["done", "failed", "running"]
    invoices: int | None
    failures: int | None


@router.get("")
async def list_invoice_runs(request: Request, principal: Finance) -> Runs:
    """Which months wait for their invoices, and what the last runs came to."""
    state = state_of(request)
    billing = state.capabilities.billing
    job = await _job(state)
    async with state.database.reading(principal) as connection:
        [standing] = await states(connection, [job], state.clock.now())
        runs = await recent_runs(connection, job.name, RUNS)
    return Runs(
        by_itself=billing.billing_close_periods,
        grace_hours=billing.billing_grace_hours,
        waiting=[f"{_ended_before(state, at).start:%Y-%m}" for at in standing.waiting],
        running=standing.running,
        runs=[Run.model_validate(one, from_attributes=True) for one in runs],
    )


@router.get("/{month}")
async def preview_invoice_run(request: Request, principal: Finance, month: Month) -> PreviewedRun:
    """What a month would be invoiced at, customer by customer, if it were issued now. Changes nothing."""
    state, period = state_of(request), _period(month)
    now, closes_at = state.clock.now(), _closes_at(state, period)
    async with state.database.reading(principal) as connection:
        found = await preview_run(connection, period, now=now, terms=_terms(state))
    items = [
        Expected(
            user_id=each.invoice.user_id,
            name=each.invoice.buyer.name,
            currency=each.invoice.currency,
            lines=len(each.invoice.lines),
            subtotal=each.invoice.subtotal,
            tax=each.invoice.tax,
            total=each.invoice.total,
            credit_notes=each.credit_notes,
        )
        for each in found.previews
    ]
    return PreviewedRun(
        month=month,
        closes_at=closes_at,
        can_be_issued=now >= closes_at,
        invoices=found.customers,
        totals=_totals(items),
        items=sorted(items, key=lambda item: -item.total),
    )


@router.post("/{month}")
async def issue_invoice_run(request: Request, principal: Finance, month: Month) -> Issued:
    """Issue the invoices of a month, once: the run is recorded under your name like those of the clock, and is refused a second time.

    What takes longer than two seconds goes on: `state` is running then.
    """
    state, period = state_of(request), _period(month)
    if (closes_at := _closes_at(state, period)) > state.clock.now():
        raise Problem(CONFLICT, f"{month} cannot be issued before {closes_at.isoformat()}: late events are expected")
    done = await state.capabilities.background.begin(_run(state, principal, closes_at))
    if done is None:
        return Issued(month=month, state="running", invoices=None, failures=None)
    if "error" in done.result:
        raise Problem(CONFLICT, f"the run failed, and can be made again: {done.result['error']}")
    came = {name: done.result.get(name) for name in ("invoices", "failures")}
    return Issued(month=month, state="done" if done.finished else "failed", **came)


async def _run(state: State, principal: Principal, at: datetime) -> Outcome:
    pool = await state.capabilities.pool(BILLING)
    return await run_by_hand(pool, state.clock, await _job(state), by=principal.name, at=at)


async def _job(state: State) -> Job:
    """Return the job of the clock: the same lock and the same record, also where the setting switches the clock off."""
    pool = await state.capabilities.pool(BILLING)
    return closing_job(pool, state.clock, grace=_grace(state), terms=_terms(state))


def _terms(state: State) -> Terms:
    billing = state.capabilities.billing
    return Terms(billing.billing_entity, timedelta(days=billing.billing_payment_days))


def _grace(state: State) -> timedelta:
    return timedelta(hours=state.capabilities.billing.billing_grace_hours)


def _closes_at(state: State, period: Period) -> datetime:
    return period.end + _grace(state)


def _ended_before(state: State, at: datetime) -> Period:
    return Period.month_of(at - _grace(state) - timedelta(microseconds=1))


def _period(month: str) -> Period:
    try:
        return Period.parse_month(month)
    except ValueError as error:
        raise Problem(INVALID_REQUEST, str(error)) from None


def _totals(items: Sequence[Expected]) -> list[Total]:
    found = []
    for currency in sorted({item.currency for item in items}):
        mine = [item for item in items if item.currency == currency]
        with exact():
            sums = [sum((getattr(i, n) for i in mine), Decimal(0)) for n in ("subtotal", "tax", "total")]
        found.append(Total(currency=currency, invoices=len(mine), subtotal=sums[0], tax=sums[1], total=sums[2]))
    return found

"""Runs of invoices: the months that wait, what one would be invoiced at, and issuing it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from services.api.admin.invoice_runs import issue_invoice_run, list_invoice_runs, preview_invoice_run
from services.api.admin.jobs import Run
from services.api.console.cells import amount, badge, moment, number, table_of, text
from services.api.console.forms import Form, read_form
from services.api.console.listing import customer_page
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import flash, page
from services.api.console.signed_in import Finance
from services.api.console.wording import N_, words_of
from services.api.problems import Problem
from services.api.state import state_of
from shared.errors import TallystickError
from shared.period import Period, month_start

router = APIRouter(route_class=PageRoute)
LIST: Final = "/console/finance/runs"
NAV: Final = NavItem(LIST, N_("Invoice runs"), "finance", 15)
SHOWN: Final = 100
Month = Annotated[str, Path(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]
Asked = Annotated[str, Query(pattern=r"^(\d{4}-(0[1-9]|1[0-2]))?$")]


@router.get("/finance/runs")
async def show_runs(request: Request, session: Finance, month: Asked = "") -> Response:
    """Which months wait, and what the last runs came to; with a month: to its preview."""
    if month:
        return redirect(request, f"{LIST}/{month}")
    found = await list_invoice_runs(request, session.principal)
    runs = table_of(
        N_("Runs"),
        found.runs,
        (N_("Month"), lambda one: text(one.result.get("period"), f"{LIST}/{one.result.get('period')}")),
        (N_("Made at"), lambda one: moment(one.started_at)),
        (N_("By"), lambda one: text(one.asked_by or N_("the clock"))),
        (N_("Invoices"), lambda one: number(one.result.get("invoices"))),
        (N_("Failures"), lambda one: number(one.result.get("failures"))),
        (N_("State"), lambda one: badge(_state(one))),
        empty=N_("No month was invoiced so far."),
    )
    last = _last_month(state_of(request).clock.now())
    return await page(
        request, session, "operator/invoice_runs.html", found=found, runs=runs, form=Form({"month": last})
    )


@router.get("/finance/runs/{month}")
async def show_run(request: Request, session: Finance, month: Month) -> Response:
    """What a month would be invoiced at now. Looking at it changes nothing."""
    found = await preview_invoice_run(request, session.principal, month)
    runs = await list_invoice_runs(request, session.principal)
    items = table_of(
        N_("By customer"),
        found.items[:SHOWN],
        (N_("Customer"), lambda one: text(one.name, customer_page(one.user_id, session))),
        (N_("Lines"), lambda one: number(one.lines)),
        (N_("Net"), lambda one: amount(one.subtotal, one.currency)),
        (N_("Tax"), lambda one: amount(one.tax, one.currency)),
        (N_("Total"), lambda one: amount(one.total, one.currency)),
        (N_("Given back"), lambda one: amount(one.credit_notes, one.currency)),
        empty=N_("Nothing is to be invoiced: everybody has an invoice for this month, or nothing to pay."),
    )
    return await page(
        request, session, "operator/invoice_run.html", found=found, items=items, running=runs.running, form=Form.fresh(),
        shown=min(SHOWN, len(found.items)),
    )  # fmt: skip


@router.post("/finance/runs/{month}")
async def issue(request: Request, session: Finance, month: Month) -> Response:
    """Issue the invoices of a month. Sent twice, it is done once: the second is told that it was done."""
    await read_form(request)
    _ = words_of(session.language)
    try:
        done = await issue_invoice_run(request, session.principal, month)
    except (Problem, TallystickError) as refused:
        flash(request, refused.detail if isinstance(refused, Problem) else str(refused), "bad")
        return redirect(request, LIST)
    if done.state == "running":
        flash(request, _("The invoices of {month} are being issued.", month=month))
    elif done.state == "failed":
        flash(request, _("{count} customers have no invoice yet: issue the month again.", count=done.failures), "bad")
    else:
        flash(request, _("{count} invoices of {month} are issued.", count=done.invoices, month=month))
    return redirect(request, LIST)


def _state(one: Run) -> str:
    return "failed" if one.finished_at is None else "completed"


def _last_month(now: datetime) -> str:
    return f"{Period.month_of(month_start(now) - timedelta(microseconds=1)).start:%Y-%m}"

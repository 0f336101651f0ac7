"""The proof of the books: who made it and when, each check with both its sides, and a proof that is made now, beside requests."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.jobs import Run, list_jobs
from services.api.admin.reconciliation import read_reconciliation
from services.api.console.cells import Cell, age, badge, moment, number, table_of, text
from services.api.console.navigation import NavItem, sees
from services.api.console.page_route import PageRoute
from services.api.console.rendering import page
from services.api.console.signed_in import Finance
from services.api.console.wording import N_
from services.api.fields import Instant
from services.billing.reconciliation.report import RECONCILE

router = APIRouter(route_class=PageRoute)
PAGE: Final = "/console/reconciliation"
NAV: Final = NavItem(PAGE, N_("Reconciliation"), "finance", 60)


@router.get("/reconciliation")
async def show_reconciliation(
    request: Request, session: Finance, run: Annotated[Instant | None, Query()] = None
) -> Response:
    """The report of a proof, the last one unless another is named, and the proofs before it."""
    report = await read_reconciliation(request, session.principal, run)
    runs = table_of(
        N_("Proofs"),
        report.runs,
        (N_("Made at"), _link),
        (N_("By"), lambda one: text(one.asked_by or N_("the clock"))),
        (N_("Took"), lambda one: text(_seconds(one.started_at, one.finished_at))),
        (N_("Checks"), lambda one: number(one.result.get("checks"))),
        (N_("Verdict"), lambda one: badge(_verdict(one))),
        (N_("Age"), lambda one: age(one.finished_at)),
        empty=N_("The books were not proved yet."),
    )
    shown = next((one for one in report.runs if one.scheduled_for == report.scheduled_for), None)
    job = await _job(request, session)
    return await page(
        request, session, "operator/reconciliation.html", report=report, runs=runs, shown=shown, job=job, verdict=shown and _verdict(shown),
    )  # fmt: skip


async def _job(request: Request, session: Finance) -> object:
    """Return how the job stands, for who may run it."""
    if not sees(session.principal, "operator"):
        return None
    return next((job for job in await list_jobs(request, session.principal) if job.name == RECONCILE), None)


def _link(one: Run) -> Cell:
    when = one.scheduled_for.isoformat().replace("+00:00", "Z")
    return Cell(one.started_at, "moment", f"{PAGE}?run={when}") if one.finished_at else moment(one.started_at)


def _verdict(one: Run) -> str:
    if one.finished_at is None:
        return "failed"
    if one.result.get("differing"):
        return "bad"
    return "under_way" if one.result.get("under_way") else "good"


def _seconds(begun: datetime, ended: datetime | None) -> str:
    return "–" if ended is None else f"{(ended - begun).total_seconds():,.1f} s"

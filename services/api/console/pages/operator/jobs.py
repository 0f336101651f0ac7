"""Jobs of billing: when they ran, when they are due, and a run by hand, the run of invoices among them."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from services.api.admin.jobs import RunWish, begin_job, list_jobs
from services.api.console.forms import Form
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import confirm, flash, page
from services.api.console.signed_in import Operator
from services.api.console.wording import N_, words_of
from services.api.problems import NOT_FOUND, Problem
from shared.errors import TallystickError

router = APIRouter(route_class=PageRoute)
LIST: Final = "/console/jobs"
NAV: Final = NavItem(LIST, N_("Jobs"), "operator", 70)
Name = Annotated[str, Path(pattern="^[a-z-]{1,60}$")]


@router.get("/jobs")
async def show_jobs(request: Request, session: Operator) -> Response:
    """Every job, and how it stands."""
    return await page(
        request, session, "operator/jobs.html", jobs=await list_jobs(request, session.principal), dashed=_dashed
    )


@router.get("/jobs/{name}/run")
async def ask_to_run(request: Request, session: Operator, name: Name) -> Response:
    """What a run by hand will do."""
    jobs, _ = await list_jobs(request, session.principal), words_of(session.language)
    job = next((job for job in jobs if _dashed(job.name) == name), None)
    if job is None:
        raise Problem(NOT_FOUND, f"there is no job {name}")
    return await confirm(
        request,
        session,
        Form.fresh(),
        title=_("Run a job now"),
        facts=[(_("Job"), job.name), (_("What it does"), job.description), (_("Times that wait"), str(len(job.waiting)))],
        warning=_("It runs for the earliest time that is due. What was run already is not run again."),
        action=f"{LIST}/{name}/run",
        button=_("Run it"),
        back=LIST,
    )  # fmt: skip


@router.post("/jobs/{name}/run")
async def run(request: Request, session: Operator, name: Name) -> Response:
    """Run a job for the earliest time that is due; each time is run once, by whomever."""
    _ = words_of(session.language)
    try:
        done = await begin_job(request, session.principal, name, RunWish())
    except (Problem, TallystickError) as refused:
        flash(request, refused.detail if isinstance(refused, Problem) else str(refused), "bad")
        return redirect(request, LIST)
    if done is None:
        flash(request, _("{job} is being run: this page shows it when it is done.", job=name))
        return redirect(request, LIST)
    if not done.finished:
        flash(
            request, _("{job} failed, and is tried again: {why}", job=done.job, why=done.result.get("error", "")), "bad"
        )
        return redirect(request, LIST)
    said = ", ".join(f"{what}: {value}" for what, value in done.result.items())
    flash(request, _("{job} is done. {said}", job=done.job, said=said))
    return redirect(request, LIST)


def _dashed(name: str) -> str:
    return name.replace(" ", "-")

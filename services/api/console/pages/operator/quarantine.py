"""What ingest refused: why, its bytes, and another try."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.repair import (
    ReplayWish,
    count_quarantined,
    list_quarantined,
    replay_quarantined,
    show_quarantined,
)
from services.api.console.cells import Filter, any_of, badge, code, moment, number, table_of, text
from services.api.console.forms import Form, read_form
from services.api.console.listing import show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.payloads import readable
from services.api.console.rendering import confirm, flash, page
from services.api.console.signed_in import Operator, Session
from services.api.console.wording import N_, words_of
from services.api.paging import Paging

router = APIRouter(route_class=PageRoute)
LIST: Final = "/console/quarantine"
NAV: Final = NavItem(LIST, N_("Quarantine"), "operator", 30)
STATES: Final = ("open", "replayed", "discarded")


@router.get("/quarantine")
async def show_refused(
    request: Request,
    session: Operator,
    reason: Annotated[str, Query(max_length=100)] = "",
    resolution: Annotated[str, Query(pattern="^(|open|replayed|discarded)$")] = "open",
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """Records that were refused, how many by reason, and each of them."""
    who = session.principal
    reasons = await count_quarantined(request, who)
    found = await list_quarantined(
        request,
        who,
        Paging(50, cursor=cursor),
        reason=reason or None,
        resolution=resolution or None,  # type: ignore[arg-type]  # its pattern allows nothing else
    )
    counts = table_of(
        N_("Open, by reason"),
        reasons,
        (N_("Reason"), lambda one: text(one.reason, f"{LIST}?reason={one.reason}")),
        (N_("Records"), lambda one: number(one.records)),
        (N_("Since"), lambda one: moment(one.since)),
        empty=N_("Nothing is refused and open."),
    )
    records = table_of(
        N_("Records"),
        found.items,
        (N_("Refused"), lambda one: moment(one.quarantined_at)),
        (N_("Reason"), lambda one: text(one.reason, f"{LIST}/{one.id}")),
        (N_("Detail"), lambda one: text(one.detail)),
        (N_("State"), lambda one: badge(one.resolution or "open")),
        (N_("Topic"), lambda one: code(one.topic)),
        (N_("Partition"), lambda one: number(one.partition)),
        (N_("Offset"), lambda one: number(one.record_offset)),
        cursor=found.next_cursor,
        filters=(Filter("reason", N_("Reason")), Filter("resolution", N_("State"), any_of(*STATES))),
    )
    return await show_list(request, session, N_("Quarantine"), counts, records)


@router.get("/quarantine/{record_id}")
async def show_record(request: Request, session: Operator, record_id: UUID) -> Response:
    """One record: what is wrong with it, and its bytes."""
    return await _shown(request, session, record_id, Form.fresh())


@router.post("/quarantine/{record_id}/replay/preview")
async def show_replay(request: Request, session: Operator, record_id: UUID) -> Response:
    """What another try will do."""
    form, _ = await read_form(request), words_of(session.language)
    if _wish(form, record_id) is None:
        return await _shown(request, session, record_id, form, status=422)
    record = await show_quarantined(request, session.principal, record_id)
    return await confirm(
        request,
        session,
        form,
        title=_("Send it through ingest once more"),
        facts=[
            (_("Reason"), record.reason),
            (_("Detail"), record.detail),
            (_("Why"), form.values["why"]),
            (_("Also if it is too late"), _("yes") if form.values.get("accept_late") else _("no")),
        ],
        warning=_("If it is accepted now it is counted and billed, once. If it is refused again it stays open."),
        action=f"{LIST}/{record_id}/replay",
        button=_("Replay"),
        back=f"{LIST}/{record_id}",
    )


@router.post("/quarantine/{record_id}/replay")
async def replay(request: Request, session: Operator, record_id: UUID) -> Response:
    """Try it once more. A record counts once, however often it is replayed."""
    form, _ = await read_form(request), words_of(session.language)
    record = await show_quarantined(request, session.principal, record_id)
    if record.resolution is None:
        wish = _wish(form, record_id)
        if wish is None:
            return await _shown(request, session, record_id, form, status=422)
        done = await replay_quarantined(request, session.principal, wish)
        if done.refused_again:
            flash(request, _("It was refused again: {reasons}", reasons=", ".join(done.refused_again)), "bad")
            return redirect(request, f"{LIST}/{record_id}")
    flash(request, _("It is accepted. Summaries and bills follow within a minute."))
    return redirect(request, f"{LIST}/{record_id}")


def _wish(form: Form, record_id: UUID) -> ReplayWish | None:
    if not form.values.get("why"):
        form.errors["why"] = N_("Please fill this in.")
        return None
    return form.read_into(ReplayWish, ids=[record_id], accept_late=bool(form.values.get("accept_late")))


async def _shown(request: Request, session: Session, record_id: UUID, form: Form, *, status: int = 200) -> Response:
    record = await show_quarantined(request, session.principal, record_id)
    return await page(
        request, session, "operator/record.html", status=status, record=record, form=form, payload=readable(record.content)
    )  # fmt: skip

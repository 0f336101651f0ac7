"""Alerts, and which of them somebody wants."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.alerts.routes import ReadUntil, list_alerts, mark_alert_read, mark_alerts_read
from services.api.console.forms import Form, read_form
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import flash, page
from services.api.console.signed_in import Session, Tenant
from services.api.console.wording import N_, words_of
from services.api.database import BILLING
from services.api.paging import Paging
from services.api.problems import MALFORMED, Problem
from services.api.state import state_of
from services.billing.notices.alerts import MEASURED, AlertRefused, choices, choose

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/alerts", N_("Alerts"), "tenant", 80)
PAGE: Final = "/console/alerts"
KINDS: Final = {
    "usage_threshold": N_("A quota is used up to a share"),
    "spend": N_("Usage of a month comes to an amount"),
    "low_balance": N_("Credits run low"),
    "credits_exhausted": N_("Credits are used up"),
    "payment_failed": N_("A payment failed"),
    "payment_disputed": N_("A payment is disputed"),
    "invoice_overdue": N_("An invoice is overdue"),
    "subscription_expiring": N_("A subscription ends soon"),
    "unrated_usage": N_("Usage waits for a price"),
    "webhook_disabled": N_("A webhook was disabled"),
    "provider_key_due": N_("A provider key is to be replaced"),
}
HINTS: Final = {
    "usage_threshold": N_("per cent, such as 80, 100"),
    "spend": N_("amounts, such as 100, 500"),
    "subscription_expiring": N_("days ahead, such as 30, 7"),
}


@router.get("/alerts")
async def show_alerts(request: Request, session: Tenant, cursor: str | None = None) -> Response:
    """What was told, and what is to be told."""
    return await _shown(request, session, Form(), cursor=cursor)


@router.post("/alerts/{alert_id}/read")
async def mark_read(request: Request, session: Tenant, alert_id: UUID) -> Response:
    """An alert was read."""
    await mark_alert_read(request, session.principal, alert_id)
    return redirect(request, PAGE)


@router.post("/alerts/read")
async def mark_all_read(request: Request, session: Tenant) -> Response:
    """What was shown was read; what has come since was not."""
    body = (await read_form(request)).read_into(ReadUntil)
    if body is None:
        raise Problem(MALFORMED, "this form does not say what was read: load the page again")
    marked = (await mark_alerts_read(request, session.principal, body)).marked
    flash(request, words_of(session.language)("Marked as read: {count}.", count=marked))
    return redirect(request, PAGE)


@router.post("/alerts/settings")
async def choose_alerts(request: Request, session: Tenant) -> Response:
    """Keep what somebody wants to be told. The same again changes nothing."""
    form = await read_form(request)
    wanted = {kind: _thresholds(form, kind) for kind in KINDS}
    if form.errors:
        return await _shown(request, session, form, status=422)
    user = session.principal.user_id
    try:
        async with state_of(request).database.writing(session.principal, role=BILLING) as connection:
            for kind, thresholds in wanted.items():
                await choose(connection, user, kind, enabled=f"on_{kind}" in form.values, thresholds=thresholds)
    except AlertRefused as refusal:
        form.problem = str(refusal)
        return await _shown(request, session, form, status=422)
    flash(request, words_of(session.language)("Your choice is kept."))
    return redirect(request, PAGE)


async def _shown(
    request: Request, session: Session, form: Form, *, status: int = 200, cursor: str | None = None
) -> Response:
    who = session.principal
    alerts = await list_alerts(request=request, principal=who, user=who.user_id, paging=Paging(25, cursor=cursor))
    if not form.values:
        async with state_of(request).database.reading(who) as connection:
            chosen = {choice.kind: choice for choice in await choices(connection, who.user_id)}
        for kind in KINDS:
            if kind not in chosen or chosen[kind].enabled:
                form.values[f"on_{kind}"] = "on"
            if kind in chosen and chosen[kind].thresholds:
                form.values[f"at_{kind}"] = ", ".join(f"{each.normalize():f}" for each in chosen[kind].thresholds or ())
    return await page(
        request, session, "tenant/alerts.html", status=status, form=form, alerts=alerts.items, cursor=alerts.next_cursor, kinds=KINDS,
        hints=HINTS, some_unread=not all(alert.is_read for alert in alerts.items),
    )  # fmt: skip


def _thresholds(form: Form, kind: str) -> list[Decimal] | None:
    text = form.values.get(f"at_{kind}", "")
    if kind not in MEASURED or not text:
        return None
    try:
        return [Decimal(part.strip()) for part in text.split(",") if part.strip()]
    except InvalidOperation:
        form.errors[f"at_{kind}"] = N_("Please write numbers with commas between them, such as 80, 100.")
        return None

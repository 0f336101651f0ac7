"""Dunning: who has not paid, at which step they are, what comes next and when; a dispute pauses it, settling that resumes it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from services.api.admin.corrections import Reason, dispute_invoice, settle_dispute
from services.api.admin.dunning import list_overdue, show_dunning
from services.api.console.cells import Filter, amount, badge, moment, table_of, text
from services.api.console.forms import Form, read_form
from services.api.console.listing import customer_page, invoice_page, show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import confirm, flash, page
from services.api.console.signed_in import Finance, Session
from services.api.console.wording import N_, words_of
from services.api.invoices.routes import Reference, read_invoice
from services.api.paging import Paging

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/finance/dunning", N_("Dunning"), "finance", 30)
Turn = Annotated[Literal["pause", "resume"], Path()]
TITLES: Final = {"pause": N_("Pause dunning"), "resume": N_("Resume dunning")}
EFFECTS: Final = {
    "pause": N_(
        "The invoice counts as disputed: nobody is reminded, charged or suspended for it until that is settled."
    ),
    "resume": N_("The dispute is settled: the steps that are due are made within the hour."),
}


@router.get("/finance/dunning")
async def show_overdue(
    request: Request,
    session: Finance,
    disputed: Annotated[str, Query(pattern="^(|yes|no)$")] = "",
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """Invoices that are due and not paid, the longest due first."""
    found = await list_overdue(
        request, session.principal, Paging(50, cursor=cursor), disputed={"yes": True, "no": False}.get(disputed)
    )
    _ = words_of(session.language)
    options = (("", N_("Any")), ("yes", N_("disputed")), ("no", N_("not disputed")))
    table = table_of(
        N_("Dunning"),
        found.items,
        (N_("Number"), lambda one: text(one.number, f"{invoice_page(one.id)}/dunning")),
        (N_("Customer"), lambda one: text(one.email, customer_page(one.user_id, session))),
        (
            N_("State"),
            lambda one: badge("disputed" if one.disputed_at else "suspended" if one.suspended else one.status),
        ),
        (N_("Due date"), lambda one: moment(one.due_date)),
        (N_("Unpaid"), lambda one: amount(one.outstanding, one.currency)),
        (N_("Last step"), lambda one: text(f"{one.last_step}: {_(one.last_action)}" if one.last_action else "")),
        (N_("Next step"), lambda one: text(_("paused") if one.disputed_at else _(one.next_action or ""))),
        (N_("Next on"), lambda one: moment(None if one.disputed_at else one.next_at)),
        empty=N_("Nothing is overdue."),
        cursor=found.next_cursor,
        filters=(Filter("disputed", N_("Dispute"), options),),
    )
    return await show_list(request, session, N_("Dunning"), table)


@router.get("/finance/invoices/{reference}/dunning")
async def show_history(request: Request, session: Finance, reference: Reference) -> Response:
    """What was done about an invoice, and what comes next."""
    return await _shown(request, session, reference, Form.fresh())


@router.post("/finance/invoices/{reference}/dunning/{turn}/preview")
async def show_effect(request: Request, session: Finance, reference: Reference, turn: Turn) -> Response:
    """What pausing or resuming will do."""
    form = await read_form(request)
    if (wish := form.read_into(Reason)) is None:
        return await _shown(request, session, reference, form, status=422)
    invoice, _ = await read_invoice(request, session.principal, reference), words_of(session.language)
    return await confirm(
        request, session, form, title=_(TITLES[turn]), warning=_(EFFECTS[turn]), button=_(TITLES[turn]),
        facts=[(_("Invoice"), invoice.number or ""), (_("Customer"), invoice.buyer.name), (_("Why"), wish.why)],
        action=f"{invoice_page(invoice.id)}/dunning/{turn}", back=f"{invoice_page(invoice.id)}/dunning",
    )  # fmt: skip


@router.post("/finance/invoices/{reference}/dunning/{turn}")
async def turn_dunning(request: Request, session: Finance, reference: Reference, turn: Turn) -> Response:
    """Pause or resume. Sent twice, it is done once: what is so already stays."""
    form = await read_form(request)
    if (wish := form.read_into(Reason)) is None:
        return await _shown(request, session, reference, form, status=422)
    invoice = await read_invoice(request, session.principal, reference)
    if turn == "pause" and not invoice.disputed_at:
        await dispute_invoice(request, session.principal, reference, wish)
    elif turn == "resume" and invoice.disputed_at:
        await settle_dispute(request, session.principal, reference, wish)
    _ = words_of(session.language)
    flash(request, _("Dunning is paused.") if turn == "pause" else _("Dunning goes on."))
    return redirect(request, f"{invoice_page(reference)}/dunning")


async def _shown(request: Request, session: Session, reference: str, form: Form, *, status: int = 200) -> Response:
    invoice = await read_invoice(request, session.principal, reference)
    history = await show_dunning(request, session.principal, reference)
    return await page(
        request, session, "operator/dunning.html", status=status, invoice=invoice, history=history, form=form,
        turn="resume" if invoice.disputed_at else "pause", titles=TITLES,
    )  # fmt: skip

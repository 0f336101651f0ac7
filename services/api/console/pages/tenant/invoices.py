"""Invoices: listed, read, as PDF, paid."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.console.formats import Formats
from services.api.console.forms import Form, read_form
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import confirm, flash, page
from services.api.console.signed_in import Session, Tenant
from services.api.console.wording import N_, words_of
from services.api.database import BILLING
from services.api.invoices.answers import Invoice
from services.api.invoices.routes import Reference, list_credit_notes, list_invoices, read_invoice, read_invoice_file
from services.api.paging import Paging
from services.api.problems import NOT_FOUND, Problem
from services.api.scope import whose
from services.api.state import state_of
from services.billing.payments.charging import NothingToCharge, charge_invoice

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/invoices", N_("Invoices"), "tenant", 70)
PAGE: Final = "/console/invoices"
ROWS: Final = 50


@router.get("/invoices")
async def show_invoices(request: Request, session: Tenant, cursor: str | None = None) -> Response:
    """The invoices, the newest first."""
    who = session.principal
    found = await list_invoices(request=request, principal=who, user=who.user_id, paging=Paging(ROWS, cursor=cursor))
    return await page(
        request, session, "tenant/invoices.html", invoices=found.items, cursor=found.next_cursor
    )  # fmt: skip


@router.get("/invoices/{reference}")
async def show_invoice(request: Request, session: Tenant, reference: Reference) -> Response:
    """An invoice with its lines."""
    who = session.principal
    invoice = await read_invoice(request, who, reference)
    whose(who, invoice.user_id)
    notes = await list_credit_notes(
        request=request, principal=who, user=invoice.user_id, paging=Paging(50), invoice_id=invoice.id
    )
    return await page(request, session, "tenant/invoice.html", invoice=invoice, notes=notes.items)


@router.get("/invoices/{reference}/pdf")
async def download_invoice(request: Request, session: Tenant, reference: Reference) -> Response:
    """An invoice as PDF."""
    return await read_invoice_file(request=request, principal=session.principal, reference=reference, form="pdf")


@router.post("/invoices/{reference}/pay/preview")
async def preview_payment(request: Request, session: Tenant, reference: Reference) -> Response:
    """Say what is paid, and how."""
    words, formats = words_of(session.language), Formats(session.language)
    invoice = await _own(request, session, reference)
    facts = [
        (words("Invoice number"), invoice.number or "–"),
        (words("To pay"), formats.money(invoice.amount_due, invoice.currency)),
        (words("By"), words("your stored payment method")),
    ]
    return await confirm(
        request, session, Form.fresh(), title=words("Pay the invoice?"), facts=facts,
        action=f"{PAGE}/{quote(reference)}/pay", back=f"{PAGE}/{quote(reference)}",
        button=words("Pay {amount}", amount=formats.money(invoice.amount_due, invoice.currency)),
    )  # fmt: skip


@router.post("/invoices/{reference}/pay")
async def pay_invoice(request: Request, session: Tenant, reference: Reference) -> Response:
    """Charge the stored payment method, once for each form."""
    state, words = state_of(request), words_of(session.language)
    form = await read_form(request)
    invoice = await _own(request, session, reference)
    pool = await state.capabilities.pool(BILLING)
    try:
        paid = await charge_invoice(
            pool, state.capabilities.providers, str(invoice.id), key=f"console-{form.key}", clock=state.clock, actor=session.principal.name
        )  # fmt: skip
    except NothingToCharge as refusal:
        flash(request, str(refusal), "bad")
    else:
        if paid.status == "completed":
            flash(request, words("Thank you: the invoice is paid."))
        elif paid.status == "failed":
            flash(request, words("The payment was declined. Nothing was charged."), "bad")
        else:
            flash(request, words("The payment has begun: it is {status}.", status=words(paid.status)))
    return redirect(request, f"{PAGE}/{quote(reference)}")


async def _own(request: Request, session: Session, reference: str) -> Invoice:
    """Return an invoice of who is signed in. Also who reads everybody's pays only their own: the method that is charged is its customer's."""
    invoice = await read_invoice(request, session.principal, reference)
    if invoice.user_id != session.principal.user_id:
        raise Problem(NOT_FOUND, f"there is no invoice {reference} of yours")
    return invoice

"""Writing a credit note: lines and amounts are chosen, what it will do is shown, then it is issued."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.admin.corrections import NotePreview, NoteWish, preview_credit_note, write_credit_note
from services.api.console.forms import Form, read_form
from services.api.console.listing import invoice_page
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import flash, page
from services.api.console.signed_in import Finance, Session
from services.api.console.wording import N_, words_of
from services.api.invoices.routes import Reference, read_invoice
from services.api.problems import CONFLICT, Problem
from services.billing.invoices.crediting import CreditRefused

router = APIRouter(route_class=PageRoute)
_LINE: Final = "line-"


@router.get("/finance/invoices/{reference}/credit-note")
async def choose_lines(request: Request, session: Finance, reference: Reference) -> Response:
    """The lines of an invoice, with what is left of each."""
    return await _asked(request, session, reference, Form.fresh())


@router.post("/finance/invoices/{reference}/credit-note/preview")
async def show_effect(request: Request, session: Finance, reference: Reference) -> Response:
    """What the note would do to lines, tax and what is due. Nothing is written."""
    form = await read_form(request)
    wish = _wish(form)
    if wish is None:
        return await _asked(request, session, reference, form, status=422)
    try:
        found = await _preview(request, session, reference, wish)
    except (CreditRefused, Problem) as refused:
        form.refuse(refused if isinstance(refused, Problem) else Problem(CONFLICT, str(refused)))
        return await _asked(request, session, reference, form, status=409)
    invoice = await read_invoice(request, session.principal, reference)
    return await page(
        request, session, "operator/credit_note_preview.html", invoice=invoice, note=found, form=form, wish=wish
    )


@router.post("/finance/invoices/{reference}/credit-note")
async def issue(request: Request, session: Finance, reference: Reference) -> Response:
    """Issue the note. Sent twice, it is one note: the key of the form sees to it."""
    form = await read_form(request)
    wish = _wish(form)
    if wish is None:
        return await _asked(request, session, reference, form, status=422)
    try:
        note = await write_credit_note(request, session.principal, reference, form.key, wish)
    except CreditRefused as refused:  # somebody else was quicker
        form.refuse(Problem(CONFLICT, str(refused)))
        return await _asked(request, session, reference, form, status=409)
    flash(request, words_of(session.language)("Credit note {number} is issued.", number=note.number))
    return redirect(request, invoice_page(reference))


def _wish(form: Form) -> NoteWish | None:
    """Return what a form asks for; None where something is wrong, which is beside its field then."""
    whole = form.values.get("whole") == "on"
    typed = {name: text for name, text in form.values.items() if name.startswith(_LINE) and text and not whole}
    lines = []
    for name, text in typed.items():
        position = name.removeprefix(_LINE)
        if not position.isdecimal() or len(position) > 6:
            continue
        try:
            amount = Decimal(text.replace(",", "."))
        except ArithmeticError:
            form.errors[name] = N_("Please write a number, such as 12.50.")
            continue
        if not amount.is_finite() or amount == 0:
            form.errors[name] = N_("Please write a number, such as 12.50.")
        lines.append({"position": int(position), "amount": f"{amount:f}" if amount.is_finite() else "0"})
    if not lines and not whole and not form.errors:
        form.problem = N_("Write what is to be taken back of at least one line, or choose all that is left.")
    given = {"lines": None if whole else lines or [{"position": 1}], "goodwill": form.values.get("goodwill") == "on"}
    wish = form.read_into(NoteWish, **given)
    return None if form.errors or form.problem else wish


async def _preview(request: Request, session: Session, reference: str, wish: NoteWish | None) -> NotePreview:
    lines = None if wish is None or wish.lines is None else [f"{line.position}={line.amount}" for line in wish.lines]
    goodwill = wish is not None and wish.goodwill
    return await preview_credit_note(request, session.principal, reference, lines, goodwill=goodwill)


async def _asked(request: Request, session: Session, reference: str, form: Form, *, status: int = 200) -> Response:
    invoice = await read_invoice(request, session.principal, reference)
    try:
        rest = await _preview(request, session, reference, None)
        left = {line.position: line.amount for line in rest.lines}
        nothing = "" if any(left.values()) else N_("Nothing is left of this invoice that could be taken back.")
    except CreditRefused as refused:
        left, nothing = {}, str(refused)
    return await page(
        request,
        session,
        "operator/credit_note.html",
        status=status,
        invoice=invoice,
        form=form,
        left=left,
        nothing=nothing,
    )

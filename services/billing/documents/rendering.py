"""Renders invoices and credit notes: as they were issued, so that the same one always gives the same bytes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal, assert_never

from services.billing.documents.einvoice import einvoice, missing
from services.billing.documents.html import render_html
from services.billing.documents.pdf import render_pdf, render_png
from services.billing.documents.view import View, credit_note_view, invoice_view
from services.billing.invoices.document import CreditNoteDocument, InvoiceDocument

Document = InvoiceDocument | CreditNoteDocument
Form = Literal["pdf", "html", "xml", "png"]
FORMS: Final[tuple[Form, ...]] = ("pdf", "html", "xml", "png")


def render(document: Document, form: Form, *, logo: Path | None = None, current: bool = False) -> list[bytes]:
    """Return a document in a form: one file, but a picture for each page.

    A PDF holds the e-invoice if the document has all that one needs (`einvoice.missing`). An invoice is shown as it was issued, with
    `current` as it is now: paid, credited, cancelled. Raises `EInvoiceIncomplete` for XML of a document that lacks something.
    """
    shown = document if current else as_issued(document)
    match form:
        case "xml":
            return [einvoice(shown)]
        case "html":
            return [render_html(view_of(shown)).encode()]
        case "pdf":
            xml = None if missing(shown) else einvoice(shown)
            return [render_pdf(view_of(shown), at=made_at(shown), einvoice=xml, logo=logo)]
        case "png":
            return render_png(view_of(shown), at=made_at(shown))
        case _:
            assert_never(form)


def as_issued(document: Document) -> Document:
    """Return a document without what happened to it since it was issued."""
    if isinstance(document, CreditNoteDocument) or document.number is None:
        return document
    return replace(document, status="sent", amount_paid=Decimal(0), amount_credited=Decimal(0))


def view_of(document: Document) -> View:
    """Return what is printed."""
    return credit_note_view(document) if isinstance(document, CreditNoteDocument) else invoice_view(document)


def made_at(document: Document) -> datetime:
    """Return the time that a file states as its making: of the issue; of a draft the end of its period."""
    if isinstance(document, CreditNoteDocument):
        return document.issued_at
    return document.issue_date or document.period_end

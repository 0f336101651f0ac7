"""How invoices and credit notes are shown to a person, and as JSON: every field of the document, amounts as text with all digits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer

from services.cli.operator import harmless

if TYPE_CHECKING:
    from services.billing.invoices.document import CreditNoteDocument, DocumentLine, InvoiceDocument, Party
    from services.billing.invoices.preview import Preview


def to_json(document: Any) -> str:
    """Return documents as JSON."""
    import msgspec  # noqa: PLC0415 (slow to import)

    return msgspec.json.encode(document).decode()


def plain(value: Any) -> str:
    """Return what JSON has no form for as text: decimals with all their digits, times in ISO 8601."""
    return (
        value.isoformat() if isinstance(value, datetime) else f"{value:f}" if isinstance(value, Decimal) else str(value)
    )


def print_list(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print a line for each invoice."""
    found = False
    for row in rows:
        found = True
        marks = f"{row['status']}, disputed" if row["disputed"] else row["status"]
        name = row["number"] or f"draft {row['id']}"
        due = (
            f"  {row['amount_due']:f} to be paid by {row['due_date']:%Y-%m-%d}"
            if row["amount_due"] > 0 and row["due_date"]
            else ""
        )
        typer.echo(
            f"{name:20} {row['period_start']:%Y-%m-%d} to before {row['period_end']:%Y-%m-%d}  {marks:15} "
            f"{row['total']:>12f} {row['currency']}  {harmless(row['email'])}{due}"
        )
    if not found:
        typer.echo("no invoices")


def print_document(document: InvoiceDocument | CreditNoteDocument) -> None:
    """Print a document whole."""
    if hasattr(document, "reason"):
        _print_note_head(document)
    else:
        _print_invoice_head(document)
    typer.echo(f"{'from':10} {_party(document.seller)}")
    typer.echo(f"{'to':10} {_party(document.buyer)}")
    typer.echo("")
    for line in document.lines:
        _print_line(line)
    typer.echo("")
    typer.echo(f"{'net':>84} {document.subtotal:>14f} {document.currency}")
    for tax in document.taxes:
        what = (
            f"tax {(tax.rate * 100).normalize():f} % of {tax.taxable:f}"
            if tax.category == "S"
            else tax.reason or "no tax"
        )
        typer.echo(f"{what:>84} {tax.tax:>14f} {document.currency}")
    typer.echo(f"{'total':>84} {document.total:>14f} {document.currency}")
    for name in ("amount_credited", "amount_paid", "amount_due"):
        if document.number is not None and (amount := getattr(document, name, None)) is not None:
            typer.echo(f"{name.removeprefix('amount_'):>84} {amount:>14f} {document.currency}")


def print_preview(preview: Preview) -> None:
    """Print an invoice that is not issued, and the forecast."""
    print_document(preview.invoice)
    if preview.credit_notes:
        typer.echo(f"{'given back by credit notes':>84} {preview.credit_notes:>14f} {preview.invoice.currency}")
    if preview.forecast is not None:
        typer.echo(f"{'forecast for the whole period, net':>84} {preview.forecast:>14f} {preview.invoice.currency}")
        typer.echo(f"({preview.method})")


def _print_invoice_head(invoice: Any) -> None:
    typer.echo(f"invoice {invoice.number or '(not issued)'}, {invoice.status}, {invoice.id}")
    typer.echo(f"{'period':10} {invoice.period_start:%Y-%m-%d} to before {invoice.period_end:%Y-%m-%d}")
    if invoice.issue_date:
        typer.echo(f"{'issued':10} {invoice.issue_date:%Y-%m-%d}, due {invoice.due_date:%Y-%m-%d}")
    if invoice.disputed_at:
        typer.echo(f"{'disputed':10} since {invoice.disputed_at:%Y-%m-%d}: {harmless(invoice.dispute_reason)}")
    if invoice.cancelled_at:
        again = "; billed again" if invoice.rebilled else ""
        typer.echo(f"{'void':10} since {invoice.cancelled_at:%Y-%m-%d}: {harmless(invoice.cancel_reason)}{again}")
    if invoice.credit_notes:
        typer.echo(f"{'credited':10} by {', '.join(invoice.credit_notes)}")


def _print_note_head(note: Any) -> None:
    typer.echo(f"credit note {note.number} for {note.invoice_number}, {note.kind}, {note.id}")
    typer.echo(f"{'issued':10} {note.issued_at:%Y-%m-%d} by {harmless(note.actor)}: {harmless(note.reason)}")


def _party(party: Party) -> str:
    place = " ".join(part for part in (party.postal_code, party.city) if part)
    parts = (party.name, party.line1, party.line2, place, party.country, party.vat_id)
    return harmless(", ".join(part for part in parts if part))


def _print_line(line: DocumentLine) -> None:
    typer.echo(
        f"{line.position:4} {harmless(line.description)[:60]:60} {line.quantity:>13,f} {line.unit[:10]:10} {line.amount:>9f}"
    )
    if line.reduced:
        typer.echo(f"     less {line.reduced:f} that were given back already, as usage of it was taken back")

"""`tallystick invoice list | show | preview`."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator
from services.cli.invoices import printing

if TYPE_CHECKING:
    from services.billing.invoices.document import CreditNoteDocument, InvoiceDocument
    from services.billing.invoices.terms import Terms
    from shared.period import Period

User = Annotated[
    str | None, typer.Option("--user", metavar="USER", help="Only of this user: an id or an e-mail address.")
]
Month = Annotated[str | None, typer.Option("--period", metavar="MONTH", help="The month, such as 2026-10.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Status(StrEnum):
    """What an invoice can be."""

    draft = "draft"
    sent = "sent"
    partially_paid = "partially_paid"
    paid = "paid"
    overdue = "overdue"
    cancelled = "cancelled"


def the_month(text: str) -> Period:
    """Return the month that was named. Raises `ConfigurationError`."""
    from shared.errors import ConfigurationError  # noqa: PLC0415
    from shared.period import Period  # noqa: PLC0415

    try:
        return Period.parse_month(text)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def terms_of(settings: Any) -> Terms:
    """Return the terms that billing's settings say."""
    from services.billing.invoices.terms import Terms  # noqa: PLC0415

    return Terms(settings.billing_entity, timedelta(days=settings.billing_payment_days))


def list_invoices(
    *,
    user: User = None,
    status: Annotated[Status | None, typer.Option(help="Only of this status.")] = None,
    disputed: Annotated[bool, typer.Option("--disputed", help="Only disputed ones.")] = False,
    period: Month = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most invoices to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List invoices, the newest first."""
    from services.billing.invoices.desk.parties import SQL, find_user  # noqa: PLC0415 (slow to import)

    begins = the_month(period) if period else None

    async def read(connection: Any) -> Any:
        user_id = (await find_user(connection, user))["id"] if user else None
        start = begins.start if begins else None
        return await connection.fetch(SQL["find_invoices"], user_id, status and status.value, disputed, start, limit)

    rows = operator.with_database(read)
    if as_json:
        typer.echo(json.dumps([dict(row) for row in rows], default=printing.plain))
    else:
        printing.print_list(rows)


def show(
    number: Annotated[
        str, typer.Argument(metavar="NUMBER", help="Of an invoice or a credit note; an id does as well.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show an invoice or a credit note whole. A draft shows what it comes to at present."""

    async def work(settings: Any, pool: Any) -> Any:
        async with pool.acquire() as connection:
            return await _read(connection, number, terms_of(settings))

    document = operator.with_billing(work)
    if as_json:
        typer.echo(printing.to_json(document))
    else:
        printing.print_document(document)


async def _read(connection: Any, number: str, terms: Terms) -> InvoiceDocument | CreditNoteDocument:
    from services.billing.invoices.preview import preview as previewed  # noqa: PLC0415
    from services.billing.invoices.reading import InvoiceNotFound, read_credit_note, read_invoice  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415
    from shared.period import Period  # noqa: PLC0415

    try:
        invoice = await read_invoice(connection, number)
    except InvoiceNotFound as missing:
        try:
            return await read_credit_note(connection, number)
        except InvoiceNotFound:
            raise missing from None
    if invoice.number is not None:
        return invoice
    period = Period(invoice.period_start, invoice.period_end)
    found = await previewed(connection, invoice.user_id, period, now=SystemClock().now(), terms=terms)
    return next((replace(p.invoice, id=invoice.id) for p in found if p.invoice.currency == invoice.currency), invoice)


def preview(
    *,
    user: Annotated[str, typer.Option("--user", metavar="USER", help="An id or an e-mail address.")],
    period: Month = None,
    as_json: AsJson = False,
) -> None:
    """Show what a month would cost if it were closed now, and what it is likely to come to. Changes nothing.

    The running month unless another is named. The forecast lets usage go on at its average rate of the month so far.
    """
    from services.billing.invoices.desk.parties import find_user  # noqa: PLC0415
    from services.billing.invoices.preview import preview as previewed  # noqa: PLC0415
    from shared.clock import SystemClock  # noqa: PLC0415
    from shared.period import Period  # noqa: PLC0415

    wanted = the_month(period) if period else None

    async def work(settings: Any, pool: Any) -> Any:
        now = SystemClock().now()
        async with pool.acquire() as connection:
            who = await find_user(connection, user)
            period = wanted or Period.month_of(now)
            return await previewed(connection, who["id"], period, now=now, terms=terms_of(settings))

    previews = operator.with_billing(work)
    if as_json:
        typer.echo(printing.to_json(previews))
    elif not previews:
        typer.echo(
            f"nothing is to be invoiced to {user}, or it has been invoiced already: `tallystick invoice list --user {user}`"
        )
    for found in () if as_json else previews:
        printing.print_preview(found)

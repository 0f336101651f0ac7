"""Pages that are a list, or several."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse

from services.api.console.cells import Table
from services.api.console.navigation import sees
from services.api.console.rendering import page
from services.api.console.signed_in import Session


async def show_list(
    request: Request,
    session: Session,
    title: str,
    *tables: Table,
    hint: str = "",
    actions: Sequence[tuple[str, str]] = (),
) -> HTMLResponse:
    """Return a page with a title, what it is about, and its tables. `actions` are links beside the title: label and address."""
    return await page(request, session, "operator/list.html", title=title, tables=tables, hint=hint, actions=actions)


def customer_page(user_id: object, session: Session | None = None) -> str:
    """Return the address of a customer's page; nothing for a `session` that may not see it."""
    shown = session is None or sees(session.principal, "operator")
    return f"/console/customers/{user_id}" if shown else ""


def invoice_page(reference: object) -> str:
    """Return the address of an invoice's page for finance."""
    return f"/console/finance/invoices/{quote(str(reference), safe='')}"

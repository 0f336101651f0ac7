"""Customers: finding one, and everything about one on a page."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.credits import list_payments
from services.api.admin.people import NoteWish, list_notes, write_note
from services.api.admin.subscriptions import Subscription, list_all_subscriptions
from services.api.admin.users import list_users, show_user
from services.api.alerts.routes import list_alerts
from services.api.api_keys.routes import list_api_keys
from services.api.console.cells import Filter, any_of, badge, moment, table_of, text
from services.api.console.forms import Form, read_form
from services.api.console.listing import customer_page, show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import flash, page
from services.api.console.signed_in import Operator, Session
from services.api.console.wording import N_
from services.api.credits.reading import read_balance
from services.api.invoices.answers import CurrentCost
from services.api.invoices.routes import list_invoices, read_current_cost
from services.api.paging import Paging
from shared.errors import TallystickError

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/customers", N_("Customers"), "operator", 10)
Cursor = Annotated[str | None, Query(max_length=2_000)]
SHOWN: Final = 50


@router.get("/customers")
async def show_customers(
    request: Request,
    session: Operator,
    search: Annotated[str, Query(max_length=320)] = "",
    state: Annotated[str, Query(pattern="^(|active|inactive)$")] = "",
    cursor: Cursor = None,
) -> Response:
    """Find customers by a part of their e-mail address or name."""
    found = await list_users(
        request,
        session.principal,
        Paging(SHOWN, cursor=cursor),
        search=search or None,
        active=None if not state else state == "active",
    )
    table = table_of(
        N_("Customers"),
        found.items,
        (N_("Name"), lambda user: text(user.full_name or user.email, customer_page(user.id))),
        (N_("E-mail"), lambda user: text(user.email)),
        (N_("Roles"), lambda user: text(", ".join(user.roles))),
        (N_("State"), lambda user: badge("active" if user.is_active else "inactive")),
        (N_("Last seen"), lambda user: moment(user.last_login_at)),
        (N_("Since"), lambda user: moment(user.created_at)),
        empty=N_("Nobody is found."),
        cursor=found.next_cursor,
        filters=(Filter("search", N_("Name or e-mail")), Filter("state", N_("State"), any_of("active", "inactive"))),
    )
    return await show_list(request, session, N_("Customers"), table)


@router.get("/customers/{user_id}")
async def show_customer(request: Request, session: Operator, user_id: UUID) -> Response:
    """Everything about a customer."""
    return await _shown(request, session, user_id, Form.fresh())


@router.post("/customers/{user_id}/notes")
async def add_note(request: Request, session: Operator, user_id: UUID) -> Response:
    """Write something down about a customer."""
    form = await read_form(request)
    wish = form.read_into(NoteWish, is_flagged=form.values.get("is_flagged") == "on")
    if wish is None:
        return await _shown(request, session, user_id, form, status=422)
    await write_note(request, session.principal, user_id, wish)
    flash(request, "The note is written.")
    return redirect(request, customer_page(user_id))


async def _shown(request: Request, session: Session, user_id: UUID, form: Form, *, status: int = 200) -> Response:
    who, few = session.principal, Paging(20)
    user = await show_user(request, who, user_id)
    subscriptions = await list_all_subscriptions(request, who, few, user=str(user_id))
    facts: dict[str, Any] = {
        "balance": await read_balance(request, who, user_id),
        "invoices": (await list_invoices(request=request, principal=who, user=user_id, paging=few, status=None)).items,
        "payments": (await list_payments(request, who, few, user=str(user_id))).items,
        "cost": await _cost(request, session, user_id),
        "keys": (await list_api_keys(request, who, few, user_id=user_id)).items,
        "alerts": (
            await list_alerts(request=request, principal=who, user=user_id, paging=Paging(10), unread=False)
        ).items,
        "notes": (await list_notes(request, who, few, user=user_id, flagged=None)).items,
    }
    return await page(
        request, session, "operator/customer.html", status=status, user=user, form=form, steps=steps_of, subscriptions=subscriptions.items, **facts
    )  # fmt: skip


async def _cost(request: Request, session: Session, user_id: UUID) -> list[CurrentCost]:
    """Return what the month comes to so far, by currency; nothing where it cannot be said, such as without an issuer of invoices."""
    try:
        return (await read_current_cost(request, session.principal, user_id)).items
    except TallystickError:
        return []


def steps_of(subscription: Subscription) -> list[tuple[str, str]]:
    """Return what a person may do with a subscription as it stands: the step, and what its button says."""
    if subscription.status == "active":
        return [("suspend", N_("Suspend"))]
    if subscription.status == "suspended" and "admin" in subscription.suspended_reasons:
        return [("reactivate", N_("Reactivate"))]
    return []

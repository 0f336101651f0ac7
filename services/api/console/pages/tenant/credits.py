"""Prepaid credits: balance, packages to buy, grants, the ledger."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.console.formats import Formats
from services.api.console.forms import Form, read_form
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.rendering import confirm, page
from services.api.console.signed_in import Session, Tenant
from services.api.console.wording import N_, words_of
from services.api.credits.reading import Package, list_grants, list_packages, list_transactions, read_balance
from services.api.credits.writing import Purchase, purchase_credits
from services.api.paging import Paging
from services.api.problems import NOT_FOUND, Problem

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/credits", N_("Credits"), "tenant", 60)
PAGE: Final = "/console/credits"
ROWS: Final = 25


@router.get("/credits")
async def show_credits(request: Request, session: Tenant, cursor: str | None = None) -> Response:
    """What is left, where it came from, and what was done with it."""
    who = session.principal
    ledger = await list_transactions(
        request=request, principal=who, user=who.user_id, paging=Paging(ROWS, cursor=cursor)
    )
    grants = await list_grants(request=request, principal=who, user=who.user_id, paging=Paging(50), only_open=True)
    packages = await list_packages(request, who)
    return await page(
        request, session, "tenant/credits.html", balance=await read_balance(request, who, who.user_id), grants=grants.items,
        packages=packages.items, entries=ledger.items, cursor=ledger.next_cursor,
    )  # fmt: skip


@router.post("/credits/buy/preview")
async def preview_purchase(request: Request, session: Tenant) -> Response:
    """Say what is bought, and for how much."""
    package = await _package(request, session, (await read_form(request)).values.get("package", ""))
    words, formats = words_of(session.language), Formats(session.language)
    facts = [
        (words("Package"), package.name),
        (words("Credits"), formats.credits(package.credits)),
        (words("Price"), formats.money(package.price, package.currency)),
        (words("Valid"), words("{days} days", days=package.valid_days) if package.valid_days else words("for good")),
    ]
    return await confirm(
        request, session, Form.fresh(package=package.id), title=words("Buy credits?"), facts=facts, action=f"{PAGE}/buy",
        button=words("Buy for {price}", price=formats.money(package.price, package.currency)), back=PAGE,
        warning=words("The credits are added once the payment has come."),
    )  # fmt: skip


@router.post("/credits/buy")
async def buy_credits(request: Request, session: Tenant) -> Response:
    """Begin the payment, once for each form, and say how to pay."""
    form = await read_form(request)
    body = Purchase(package=str((await _package(request, session, form.values.get("package", ""))).id))
    checkout = await purchase_credits(request, session.principal, f"console-{form.key}", body)
    return await page(request, session, "tenant/checkout.html", status=201, checkout=checkout)


async def _package(request: Request, session: Session, id_: str) -> Package:
    packages = await list_packages(request, session.principal)
    found = next((each for each in packages.items if str(each.id) == id_), None)
    if found is None:
        raise Problem(NOT_FOUND, "this package is not for sale (any more)")
    return found

"""Prices: what is in force, the timeline of a subject, and a new version, tried on what was really used before it is set."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.prices import PricesWish, PriceWish, list_all_prices, set_all_prices
from services.api.admin.users import names_of
from services.api.console.cells import amount, code, moment, number, table_of, text, word
from services.api.console.forms import Form, read_form
from services.api.console.listing import show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import flash, page
from services.api.console.signed_in import Operator, Session
from services.api.console.wording import N_, words_of
from services.api.database import BILLING
from services.api.problems import Problem
from services.api.state import state_of
from services.billing.reprice import Preview, preview
from services.billing.reprice.changes import totals
from shared.errors import TallystickError
from shared.period import Period, hour_start

router = APIRouter(route_class=PageRoute)
LIST: Final = "/console/prices"
NAV: Final = NavItem(LIST, N_("Prices"), "operator", 50)
Kind = Literal["model", "tool", "feature"]
Subject = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
HISTORY_DAYS: Final = 30
SHOWN: Final = 100


@router.get("/prices")
async def show_prices(request: Request, session: Operator) -> Response:
    """The prices that are in force."""
    return await _listed(request, session, N_("Prices"), await list_all_prices(request, session.principal))


@router.get("/prices/of/{kind}")
async def show_timeline(request: Request, session: Operator, kind: Kind, subject: Subject) -> Response:
    """Every version of a subject's price, past and to come."""
    found = await list_all_prices(request, session.principal, kind=kind, subject=subject, every=True)
    return await _listed(request, session, subject, sorted(found, key=lambda one: (one.currency, one.valid_from)))


@router.get("/prices/new")
async def ask_for_price(request: Request, session: Operator, model: Subject = "", currency: Subject = "") -> Response:
    """The form of a new price."""
    return await _asked(request, session, Form.fresh(model=model, currency=currency))


@router.post("/prices/new/preview")
async def try_price(request: Request, session: Operator) -> Response:
    """What the price would have come to, customer by customer, over what was really used. Nothing is changed."""
    form = await read_form(request)
    wish = form.read_into(PriceWish)
    if wish is None:
        return await _asked(request, session, form, status=422)
    state = state_of(request)
    end = hour_start(state.clock.now())
    pool = await state.capabilities.pool(BILLING)
    wanted = replace(wish.wanted(), valid_from=None, valid_to=None)
    try:
        async with pool.acquire() as connection:
            seen = await preview(connection, Period(end - timedelta(days=HISTORY_DAYS), end), [wanted])
    except TallystickError as error:
        form.problem = str(error)
        return await _asked(request, session, form, status=422)
    return await _tried(request, session, form, seen)


@router.post("/prices/new")
async def set_price(request: Request, session: Operator) -> Response:
    """Set the price, from the hour that was asked for, or the next. Sent twice, it is set once: the second overlaps the first."""
    form, _ = await read_form(request), words_of(session.language)
    wish = form.read_into(PriceWish)
    if wish is None:
        return await _asked(request, session, form, status=422)
    try:
        [done] = await set_all_prices(request, session.principal, PricesWish(prices=[wish], replace=True))
    except (Problem, TallystickError) as error:
        form.problem = error.detail if isinstance(error, Problem) else str(error)
        return await _asked(request, session, form, status=409)
    flash(request, _("The price of {subject} is set.", subject=done.subject))
    return redirect(request, f"{LIST}/of/{done.kind}?{urlencode({'subject': done.subject})}")


async def _tried(request: Request, session: Session, form: Form, seen: Preview) -> Response:
    changes = sorted(seen.changes, key=lambda change: -abs(change.difference))
    names = await names_of(request, session.principal, (change.user_id for change in changes[:SHOWN]))
    return await page(
        request, session, "operator/price_trial.html", form=form, days=HISTORY_DAYS, changes=changes[:SHOWN], count=len(changes),
        customers=len({change.user_id for change in changes}), totals=totals(changes), waiting=seen.waiting,
        names=names,
    )  # fmt: skip


async def _asked(request: Request, session: Session, form: Form, *, status: int = 200) -> Response:
    return await page(request, session, "operator/price.html", status=status, form=form)


async def _listed(request: Request, session: Session, title: str, found: list[Any]) -> Response:
    table = table_of(
        N_("Prices"),
        found,
        (N_("Of"), lambda one: text(one.subject, f"{LIST}/of/{one.kind}?{urlencode({'subject': one.subject})}")),
        (N_("Kind"), lambda one: word(one.kind)),
        (N_("Currency"), lambda one: code(one.currency)),
        (N_("From"), lambda one: moment(one.valid_from)),
        (N_("To"), lambda one: moment(one.valid_to)),
        (N_("Input per 1,000"), lambda one: amount(one.input_per_1k, one.currency)),
        (N_("Cached per 1,000"), lambda one: amount(one.cached_input_per_1k, one.currency)),
        (N_("Output per 1,000"), lambda one: amount(one.output_per_1k, one.currency)),
        (N_("Per request"), lambda one: amount(one.per_request, one.currency)),
        (N_("Revision"), lambda one: number(one.revision)),
        empty=N_("No price so far."),
    )
    return await show_list(request, session, title, table, actions=[(N_("New price"), f"{LIST}/new")])

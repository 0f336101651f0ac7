"""Plans: what there is, every version of one, who is on it; a new version, or closing one, after a look at what that does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from services.api.admin.plans import (
    Opening,
    Plan,
    PlanWish,
    Version,
    list_all_plans,
    open_plan,
    publish_plan,
    show_plan,
)
from services.api.admin.subscriptions import list_all_subscriptions
from services.api.console.cells import amount, badge, code, moment, number, table_of, text
from services.api.console.forms import Form, read_form
from services.api.console.listing import customer_page, show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import confirm, flash, page
from services.api.console.signed_in import Operator, Session
from services.api.console.wording import N_, words_of
from services.api.paging import Paging
from services.api.problems import NOT_FOUND, Problem
from services.api.state import state_of
from shared.errors import TallystickError

router = APIRouter(route_class=PageRoute)
LIST: Final = "/console/plans"
NAV: Final = NavItem(LIST, N_("Plans"), "operator", 55)
PlanId = Annotated[str, Path(max_length=200, pattern=r"^[^\x00]+$")]
Change = Annotated[Literal["close", "open"], Path()]
CHANGES: Final = {
    "close": (N_("Close a plan"), N_("Close it"), N_("Nobody can begin it any more. Its subscriptions go on as they are.")),
    "open": (N_("Open a plan"), N_("Open it"), N_("Customers can begin it again.")),
}  # fmt: skip
WORDS: Final = {
    "name": N_("Name"), "description": N_("Description"), "amount": N_("Fee"), "interval": N_("Interval"), "interval_count": N_("Intervals"),
    "billing_periods": N_("Billing periods"), "fee_timing": N_("Fee is due"), "trial_days": N_("Trial days"),
    "requestsPerMonth": N_("Requests per month"), "tokensPerMonth": N_("Tokens per month"), "hard_limits": N_("Limits suspend"),
    "usage": N_("Usage"), "minimum": N_("Minimum"), "meters": N_("Meters"), "valid_from": N_("In force since"), "note": N_("Why"),
}  # fmt: skip
"""What the parts of a plan are called, in the order in which a change of them is told."""


@router.get("/plans")
async def show_plans(request: Request, session: Operator) -> Response:
    """Every plan, with those that are closed."""
    plans = await list_all_plans(request, session.principal)
    now = state_of(request).clock.now()
    table = table_of(
        N_("Plans"),
        plans,
        (N_("Plan"), lambda plan: text(plan.name, _page(plan.id))),
        (N_("Id"), lambda plan: code(plan.id)),
        (N_("State"), lambda plan: badge("active" if plan.is_active else "closed")),
        (N_("Fee"), lambda plan: amount(_in_force(plan, now).amount, _in_force(plan, now).currency)),
        (N_("Months"), lambda plan: number(_in_force(plan, now).months)),
        (N_("Subscriptions"), lambda plan: number(plan.subscriptions)),
        (N_("Versions"), lambda plan: number(len(plan.versions))),
        empty=N_("No plan so far."),
    )
    return await show_list(request, session, N_("Plans"), table, actions=[(N_("New plan"), f"{LIST}/new")])


@router.get("/plans/new")
async def ask_for_plan(
    request: Request, session: Operator, plan: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")] = ""
) -> Response:
    """The form of a plan, or of a new version of one, with what it asks for now."""
    form = Form.fresh(hard_limits="on")
    if plan:
        found = await show_plan(request, session.principal, plan)
        form = Form.fresh(**_values(found, _in_force(found, state_of(request).clock.now())))
    return await _asked(request, session, form)


@router.post("/plans/new/preview")
async def try_plan(request: Request, session: Operator) -> Response:
    """What would change, and for how many. It is made and undone, so that what cannot be made is told here."""
    form, _ = await read_form(request), words_of(session.language)
    wish = read_wish(form)
    if wish is None:
        return await _asked(request, session, form, status=422)
    try:
        before = await _existing(request, session, wish.id)
        made = await publish_plan(request, session.principal, wish, dry_run=True)
    except (Problem, TallystickError) as refused:
        return await _refused(request, session, form, refused)
    now = state_of(request).clock.now()
    current = _values(before, _in_force(before, now)) if before else {}
    facts = [(_("Plan"), wish.id), *((_(what), change) for what, change in changes(current, form.values))]
    if before:
        facts.append((_("Subscriptions to it"), str(before.subscriptions)))
    if made.valid_from:
        facts.append((_("In force since"), f"{made.valid_from:%Y-%m-%d %H:%M} UTC"))
    return await confirm(
        request,
        session,
        form,
        title=_("New version of a plan") if before else _("New plan"),
        facts=facts,
        warning=_("Subscriptions go by it from their next billing interval on; what was charged stands. A version is never changed.")
        if before else "",
        action=f"{LIST}/new",
        button=_("Publish it"),
        back=_page(wish.id) if before else LIST,
    )  # fmt: skip


@router.post("/plans/new")
async def publish(request: Request, session: Operator) -> Response:
    """Publish it. Sent twice, it is published once: the version that is there already is shown."""
    form, _ = await read_form(request), words_of(session.language)
    wish = read_wish(form)
    if wish is None:
        return await _asked(request, session, form, status=422)
    try:
        before = await _existing(request, session, wish.id)
        if before is None or changes(_values(before, before.versions[-1]), form.values):
            await publish_plan(request, session.principal, wish)
    except (Problem, TallystickError) as refused:
        return await _refused(request, session, form, refused)
    flash(request, _("{plan} is published.", plan=wish.name))
    return redirect(request, _page(wish.id))


@router.get("/plans/{plan_id}")
async def show_one_plan(
    request: Request,
    session: Operator,
    plan_id: PlanId,
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """A plan with every version of it, and who is on it."""
    plan = await show_plan(request, session.principal, plan_id)
    found = await list_all_subscriptions(request, session.principal, Paging(50, cursor=cursor), to=plan_id)
    subscribers = table_of(
        N_("Who is on it"),
        found.items,
        (N_("Customer"), lambda one: text(one.email, customer_page(one.user_id))),
        (N_("State"), lambda one: badge(one.status)),
        (N_("Requests"), lambda one: number(one.used_requests)),
        (N_("Tokens"), lambda one: number(one.used_tokens)),
        (N_("Period ends"), lambda one: moment(one.current_period_end)),
        (N_("Since"), lambda one: moment(one.created_at)),
        empty=N_("Nobody is on it."),
        cursor=found.next_cursor,
    )
    now = state_of(request).clock.now()
    return await page(
        request, session, "operator/plan.html", plan=plan, current=_in_force(plan, now), subscribers=subscribers,
        versions=list(reversed(plan.versions)),
    )  # fmt: skip


@router.get("/plans/{plan_id}/{change}")
async def show_change(request: Request, session: Operator, plan_id: PlanId, change: Change) -> Response:
    """What closing or opening a plan will do."""
    plan, _ = await show_plan(request, session.principal, plan_id), words_of(session.language)
    title, button, effect = CHANGES[change]
    return await confirm(
        request,
        session,
        Form.fresh(),
        title=_(title),
        facts=[(_("Plan"), plan.name), (_("Subscriptions to it"), str(plan.subscriptions))],
        warning=_(effect),
        action=f"{_page(plan_id)}/{change}",
        button=_(button),
        back=_page(plan_id),
        danger=change == "close",
    )  # fmt: skip


@router.post("/plans/{plan_id}/{change}")
async def change_plan(request: Request, session: Operator, plan_id: PlanId, change: Change) -> Response:
    """Close or open a plan. Sent twice, it changes once."""
    plan, _ = await show_plan(request, session.principal, plan_id), words_of(session.language)
    if plan.is_active != (change == "open"):
        await open_plan(request, session.principal, plan_id, Opening(is_active=change == "open"))
    flash(request, _("The plan is open.") if change == "open" else _("The plan is closed."))
    return redirect(request, _page(plan_id))


def read_wish(form: Form) -> PlanWish | None:
    """Return the plan that a form asks for; None where a field is wrong: `form.errors` has it then."""
    values = form.values
    limits = {name: values[name] or None for name in ("requestsPerMonth", "tokensPerMonth") if name in values}
    try:
        meters = json.loads(values.get("meters") or "[]", parse_float=str)
        if not isinstance(meters, list):
            raise ValueError
    except ValueError:
        form.errors["meters"] = N_("This is not a list in JSON.")
        meters = []
    wish = form.read_into(PlanWish, limits=limits, hard_limits=values.get("hard_limits") == "on", meters=meters)
    return None if form.errors else wish


def changes(before: Mapping[str, Any], after: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what a form changes of a plan: what it is, and its value before and after; of a new plan every value (pure).

    What a plan is called is no part of its versions.
    """
    found = []
    for name, what in WORDS.items():
        if name in ("valid_from", "note") or (before and name in ("name", "description")):
            continue
        was, becomes = str(before.get(name, "")), after.get(name, "")
        if not _same(was, becomes):
            found.append((what, f"{was or '–'} → {becomes or '–'}" if before else becomes))
    return found


def _same(one: str, other: str) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return one.strip() == other.strip()


def _values(plan: Plan, version: Version) -> dict[str, Any]:
    """Return a version as the fields of the form."""
    years, rest = divmod(version.months, 12)
    return {
        "id": plan.id, "name": plan.name, "description": plan.description or "", "amount": version.amount.normalize().__format__("f"),
        "currency": version.currency, "interval": "month" if rest else "year", "interval_count": version.months if rest else years,
        "billing_periods": version.billing_periods, "fee_timing": version.fee_timing, "trial_days": version.trial_days,
        "usage": version.usage, "hard_limits": "on" if version.hard_limits else "",
        "minimum": "" if version.minimum is None else f"{version.minimum.normalize():f}",
        "meters": json.dumps(version.meter_terms, indent=1, ensure_ascii=False) if version.meter_terms else "",
        **{name: "" if (limit := version.limits.get(name)) is None else str(limit) for name in ("requestsPerMonth", "tokensPerMonth")},
    }  # fmt: skip


async def _existing(request: Request, session: Session, plan_id: str) -> Plan | None:
    try:
        return await show_plan(request, session.principal, plan_id)
    except Problem as problem:
        if problem.kind is NOT_FOUND:
            return None
        raise


async def _refused(request: Request, session: Session, form: Form, refused: Problem | TallystickError) -> Response:
    if isinstance(refused, Problem):
        form.refuse(refused)
    else:
        form.problem = str(refused)
    return await _asked(request, session, form, status=422)


async def _asked(request: Request, session: Session, form: Form, *, status: int = 200) -> Response:
    return await page(request, session, "operator/plan_form.html", status=status, form=form)


def _in_force(plan: Plan, now: Any) -> Version:
    return [one for one in plan.versions if one.valid_from is None or one.valid_from <= now][-1]


def _page(plan_id: str) -> str:
    return f"{LIST}/{quote(plan_id, safe='')}"

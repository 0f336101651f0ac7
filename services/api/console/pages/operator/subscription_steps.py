"""Suspending and reactivating a subscription: why is asked for, and what it will do is shown first."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from services.api.admin.subscription_steps import (
    Reactivation,
    Suspension,
    reactivate_subscription,
    suspend_subscription,
)
from services.api.admin.subscriptions import WholeSubscription, show_subscription
from services.api.console.forms import Form, read_form
from services.api.console.listing import customer_page
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import confirm, flash, page
from services.api.console.signed_in import Operator, Session
from services.api.console.wording import N_, words_of
from services.api.problems import Problem

router = APIRouter(route_class=PageRoute)

Step = Annotated[Literal["suspend", "reactivate"], Path()]
TITLES: Final = {"suspend": N_("Suspend a subscription"), "reactivate": N_("Reactivate a subscription")}
BUTTONS: Final = {"suspend": N_("Suspend"), "reactivate": N_("Reactivate")}
EFFECTS: Final = {
    "suspend": N_("Gateways refuse its requests within seconds. What was used stays billed."),
    "reactivate": N_("Gateways serve its requests again within seconds, unless another reason suspends it."),
}
MODELS: Final[dict[str, type[Suspension | Reactivation]]] = {"suspend": Suspension, "reactivate": Reactivation}


@router.get("/subscriptions/{subscription_id}/{step}")
async def ask_why(request: Request, session: Operator, subscription_id: UUID, step: Step) -> Response:
    """The form of a step."""
    return await _asked(request, session, subscription_id, step, Form.fresh())


@router.post("/subscriptions/{subscription_id}/{step}/preview")
async def show_effect(request: Request, session: Operator, subscription_id: UUID, step: Step) -> Response:
    """What the step will do."""
    form = await read_form(request)
    if not form.values.get("why"):
        form.errors["why"] = N_("Please fill this in.")
    if form.read_into(MODELS[step]) is None or form.errors:
        return await _asked(request, session, subscription_id, step, form, status=422)
    subscription, _ = await show_subscription(request, session.principal, subscription_id), words_of(session.language)
    return await confirm(
        request,
        session,
        form,
        title=_(TITLES[step]),
        facts=[
            (_("Customer"), subscription.email),
            (_("Plan or model"), subscription.plan_id or subscription.model_id or ""),
            (_("State"), _(subscription.status)),
            (_("Why"), form.values["why"]),
        ],
        warning=_(EFFECTS[step]),
        action=f"/console/subscriptions/{subscription_id}/{step}",
        button=_(BUTTONS[step]),
        back=customer_page(subscription.user_id),
        danger=step == "suspend",
    )


@router.post("/subscriptions/{subscription_id}/{step}")
async def take_step(request: Request, session: Operator, subscription_id: UUID, step: Step) -> Response:
    """Take the step. Sent twice, it is taken once: what is done already is shown as done."""
    form, before = await read_form(request), await show_subscription(request, session.principal, subscription_id)
    if not _is_done(before, step):
        try:
            if step == "suspend":
                wish = Suspension.model_validate({"why": form.values.get("why")})
                await suspend_subscription(request, session.principal, subscription_id, wish)
            else:
                again = Reactivation.model_validate({"why": form.values.get("why"), "reason": "admin"})
                await reactivate_subscription(request, session.principal, subscription_id, again)
        except Problem as problem:
            form.refuse(problem)
            return await _asked(request, session, subscription_id, step, form, status=problem.kind.status)
    _ = words_of(session.language)
    flash(request, _("The subscription is suspended.") if step == "suspend" else _("The subscription is reactivated."))
    return redirect(request, customer_page(before.user_id))


def _is_done(subscription: WholeSubscription, step: str) -> bool:
    by_us = subscription.status == "suspended" and "admin" in subscription.suspended_reasons
    return by_us if step == "suspend" else not by_us


async def _asked(
    request: Request, session: Session, subscription_id: UUID, step: str, form: Form, *, status: int = 200
) -> Response:
    subscription = await show_subscription(request, session.principal, subscription_id)
    return await page(
        request, session, "operator/step.html", status=status, form=form, title=TITLES[step], subscription=subscription,
        action=f"/console/subscriptions/{subscription_id}/{step}/preview", back=customer_page(subscription.user_id),
    )  # fmt: skip

"""Events that wait for their subscription, key or original: why, since when, what they hold; and giving up on one."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.repair import Expiry, Held, WaitedFor, count_held, expire_held, list_held, show_held
from services.api.console.cells import Filter, age, any_of, badge, code, moment, number, table_of, word
from services.api.console.forms import Form, read_form
from services.api.console.listing import show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.payloads import readable
from services.api.console.rendering import confirm, flash, page
from services.api.console.signed_in import Operator, Session
from services.api.console.wording import N_, words_of
from services.api.paging import Paging

router = APIRouter(route_class=PageRoute)
LIST: Final = "/console/held"
NAV: Final = NavItem(LIST, N_("Held events"), "operator", 40)
STATES: Final = ("waiting", "attributed", "expired")
REASONS: Final = ("unknown_subscription", "unknown_api_key", "unknown_original")
SHOWN: Final = 20
WHY_HELD: Final = {
    "unknown_subscription": N_("It names a subscription that there is not. It is counted as soon as there is one of that id."),
    "unknown_api_key": N_("It names an API key that there is not. It is counted as soon as there is one."),
    "unknown_original": N_("It corrects an event that has not come. It is applied as soon as that has."),
}  # fmt: skip


@router.get("/held")
async def show_all_held(
    request: Request,
    session: Operator,
    state: Annotated[Literal["", "waiting", "attributed", "expired"], Query()] = "waiting",
    reason: Annotated[str, Query(pattern="^[a-z_]{0,40}$")] = "",
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """Whom events wait for, and the events, the newest first."""
    who = session.principal
    waited_for = await count_held(request, who)
    found = await list_held(request, who, Paging(50, cursor=cursor), state=state or None, reason=reason or None)
    owners = table_of(
        N_("Who is waited for"),
        waited_for[:SHOWN],
        (N_("Why"), lambda one: word(one.reason, f"{LIST}?reason={one.reason}")),
        (N_("Waits for"), lambda one: code(_waits_for(one))),
        (N_("Events"), lambda one: number(one.events)),
        (N_("Since"), lambda one: age(one.since)),
        empty=N_("No event waits."),
    )
    events = table_of(
        N_("Held events"),
        found.items,
        (N_("Held"), lambda one: moment(one.held_at)),
        (N_("Age"), lambda one: age(one.held_at)),
        (N_("Why"), lambda one: word(one.reason, f"{LIST}/{one.id}")),
        (N_("Waits for"), lambda one: code(_waits_for(one))),
        (N_("State"), lambda one: badge(_state(one.attributed_at, one.expired_at))),
        (N_("Happened"), lambda one: moment(one.occurred_at)),
        empty=N_("No event waits."),
        cursor=found.next_cursor,
        filters=(Filter("state", N_("State"), any_of(*STATES)), Filter("reason", N_("Why"), any_of(*REASONS))),
    )
    hint = N_("They are counted by themselves as soon as their subscription or key is there.")
    return await show_list(request, session, N_("Held events"), owners, events, hint=hint)


@router.get("/held/{event_id}")
async def show_one_held(request: Request, session: Operator, event_id: UUID) -> Response:
    """One event: what it waits for, whether that is there by now, and its bytes."""
    return await _shown(request, session, event_id, Form.fresh())


@router.post("/held/{event_id}/expire/preview")
async def show_expiry(request: Request, session: Operator, event_id: UUID) -> Response:
    """What giving up will do."""
    form, _ = await read_form(request), words_of(session.language)
    if _wish(form, event_id) is None:
        return await _shown(request, session, event_id, form, status=422)
    event = await show_held(request, session.principal, event_id)
    return await confirm(
        request,
        session,
        form,
        title=_("Give an event up"),
        facts=[
            (_("Waits for"), _waits_for(event) or "–"),
            (_("Why it is held"), _(event.reason.replace("_", " "))),
            (_("Why"), form.values["why"]),
        ],
        warning=_("It is kept with its bytes, but never counted as usage, even if its subscription appears. This cannot be taken back."),
        action=f"{LIST}/{event_id}/expire",
        button=_("Give it up"),
        back=f"{LIST}/{event_id}",
        danger=True,
    )  # fmt: skip


@router.post("/held/{event_id}/expire")
async def give_up(request: Request, session: Operator, event_id: UUID) -> Response:
    """Give up on it. Sent twice, it is given up once."""
    form, _ = await read_form(request), words_of(session.language)
    wish = _wish(form, event_id)
    if wish is None:
        return await _shown(request, session, event_id, form, status=422)
    await expire_held(request, session.principal, wish)
    flash(request, _("The event is given up: it is kept, and not counted."))
    return redirect(request, f"{LIST}/{event_id}")


def _wish(form: Form, event_id: UUID) -> Expiry | None:
    form.values.setdefault("why", "")
    return form.read_into(Expiry, ids=[event_id])


async def _shown(request: Request, session: Session, event_id: UUID, form: Form, *, status: int = 200) -> Response:
    event = await show_held(request, session.principal, event_id)
    return await page(
        request, session, "operator/held.html", status=status, event=event, form=form, payload=readable(event.content),
        state=_state(event.attributed_at, event.expired_at), why_held=WHY_HELD.get(event.reason, ""), waits_for=_waits_for(event),
    )  # fmt: skip


def _waits_for(one: WaitedFor | Held) -> str:
    found = {"subscription": one.subscription_id, "key": one.api_key_id, "original": one.original_id}
    return ", ".join(f"{what} {id_}" for what, id_ in found.items() if id_)


def _state(attributed_at: object, expired_at: object) -> str:
    return "attributed" if attributed_at else "expired" if expired_at else "waiting"

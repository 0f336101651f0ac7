"""API keys: made, replaced, revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.answering import problem_of
from services.api.api_keys.routes import (
    Key,
    MadeKey,
    NewKey,
    Rotation,
    list_api_keys,
    make_api_key,
    revoke_api_key,
    rotate_api_key,
)
from services.api.console.forms import Form, read_form
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.pages.tenant.overview import name_of
from services.api.console.rendering import confirm, flash, page
from services.api.console.signed_in import Session, Tenant
from services.api.console.wording import N_, words_of
from services.api.paging import Paging
from services.api.problems import NOT_FOUND, Problem
from services.api.subscriptions.routes import read_quotas

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/keys", N_("API keys"), "tenant", 40)
PAGE: Final = "/console/keys"
OVERLAP: Final = timedelta(days=1)


@router.get("/keys")
async def show_keys(request: Request, session: Tenant, cursor: str | None = None) -> Response:
    """The keys, and a form for a new one."""
    return await _shown(request, session, Form.fresh(), cursor=cursor)


@router.post("/keys")
async def make_key(request: Request, session: Tenant) -> Response:
    """Make a key, and show it this once."""
    form = await read_form(request)
    body = form.read_into(NewKey)
    if body is None:
        return await _shown(request, session, form, status=422)
    try:
        made = await make_api_key(request, session.principal, body, id_=UUID(form.key))
    except Exception as error:
        if (problem := problem_of(error)) is None:
            raise
        form.refuse(problem)
        return await _shown(request, session, form, status=problem.kind.status)
    return await _made(request, session, made)


@router.post("/keys/{key_id}/rotate/preview")
async def preview_rotation(request: Request, session: Tenant, key_id: UUID) -> Response:
    """Say what replacing a key does."""
    words, key = words_of(session.language), await _key(request, session, key_id)
    return await confirm(
        request, session, Form.fresh(),
        title=words("Replace the key?"),
        facts=[*_facts(session, key), (words("The old key stays valid"), words("for one day"))],
        action=f"{PAGE}/{key_id}/rotate", button=words("Replace the key"), back=PAGE,
    )  # fmt: skip


@router.post("/keys/{key_id}/rotate")
async def rotate_key(request: Request, session: Tenant, key_id: UUID) -> Response:
    """Replace a key. A second time is refused: it was replaced already."""
    rotation = Rotation(overlap_seconds=int(OVERLAP.total_seconds()))
    return await _made(request, session, await rotate_api_key(request, session.principal, key_id, rotation))


@router.post("/keys/{key_id}/revoke/preview")
async def preview_revocation(request: Request, session: Tenant, key_id: UUID) -> Response:
    """Say what revoking a key does."""
    words, key = words_of(session.language), await _key(request, session, key_id)
    return await confirm(
        request, session, Form.fresh(),
        title=words("Revoke the key?"), facts=_facts(session, key), action=f"{PAGE}/{key_id}/revoke",
        button=words("Revoke the key"), back=PAGE, danger=True,
        warning=words("Requests with this key are refused within seconds. This cannot be taken back."),
    )  # fmt: skip


@router.post("/keys/{key_id}/revoke")
async def revoke_key(request: Request, session: Tenant, key_id: UUID) -> Response:
    """Revoke a key; one that is revoked stays so."""
    await revoke_api_key(request, session.principal, key_id)
    flash(request, words_of(session.language)("The key is revoked."))
    return redirect(request, PAGE)


async def _shown(
    request: Request, session: Session, form: Form, *, status: int = 200, cursor: str | None = None
) -> Response:
    who = session.principal
    keys = await list_api_keys(request, who, Paging(50, cursor=cursor), who.user_id, None, False)
    quotas = await read_quotas(request=request, principal=who, user=who.user_id)
    return await page(
        request, session, "tenant/keys.html", status=status, form=form, keys=keys.items, cursor=keys.next_cursor,
        subscriptions=[(str(each.subscription_id), name_of(each)) for each in quotas.items],
    )  # fmt: skip


async def _made(request: Request, session: Session, made: MadeKey) -> Response:
    return await page(request, session, "tenant/key_made.html", status=201, made=made)


async def _key(request: Request, session: Session, key_id: UUID) -> Key:
    who = session.principal
    keys = await list_api_keys(request, who, Paging(500), who.user_id, None, False)
    found = next((key for key in keys.items if key.id == key_id), None)
    if found is None:
        raise Problem(NOT_FOUND, f"there is no API key {key_id}")
    return found


def _facts(session: Session, key: Key) -> list[tuple[str, str]]:
    words = words_of(session.language)
    return [(words("Name"), key.name or "–"), (words("Begins with"), key.key_prefix)]

"""The tenant's own keys at providers."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.answering import problem_of
from services.api.console.forms import Form, read_form
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute, redirect
from services.api.console.rendering import confirm, flash, page
from services.api.console.signed_in import Session, Tenant
from services.api.console.wording import N_, words_of
from services.api.paging import Paging
from services.api.problems import NOT_FOUND, Problem
from services.api.provider_keys.routes import (
    NewProviderKey,
    NewSecret,
    StoredProviderKey,
    delete_provider_key,
    list_provider_keys,
    make_provider_key_default,
    rotate_provider_key,
    store_provider_key,
)

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/provider-keys", N_("Provider keys"), "tenant", 50)
PAGE: Final = "/console/provider-keys"


@router.get("/provider-keys")
async def show_provider_keys(request: Request, session: Tenant) -> Response:
    """The keys, and a form for one more."""
    return await _shown(request, session, Form.fresh())


@router.post("/provider-keys")
async def add_provider_key(request: Request, session: Tenant) -> Response:
    """Store a key. One with the same provider and name is refused, so that a second click adds nothing."""
    form = await read_form(request)
    body = form.read_into(NewProviderKey)
    if body is None:
        return await _shown(request, session, form, status=422)
    try:
        await store_provider_key(request, session.principal, body)
    except Exception as error:
        if (problem := problem_of(error)) is None:
            raise
        form.refuse(problem)
        return await _shown(request, session, form, status=problem.kind.status)
    return _done(request, session, N_("The key is stored, encrypted."))


@router.get("/provider-keys/{key_id}/replace")
async def show_replacing(request: Request, session: Tenant, key_id: UUID) -> Response:
    """A form for the key that takes the place of another."""
    key = await _key(request, session, key_id)
    return await page(request, session, "tenant/provider_key_replace.html", form=Form.fresh(), key=key)


@router.post("/provider-keys/{key_id}/replace")
async def replace_provider_key(request: Request, session: Tenant, key_id: UUID) -> Response:
    """Put a new key into the place of another."""
    form = await read_form(request)
    body = form.read_into(NewSecret)
    if body is None:
        key = await _key(request, session, key_id)
        return await page(request, session, "tenant/provider_key_replace.html", status=422, form=form, key=key)
    await rotate_provider_key(request, session.principal, key_id, body)
    return _done(request, session, N_("The key is replaced."))


@router.post("/provider-keys/{key_id}/default")
async def use_provider_key(request: Request, session: Tenant, key_id: UUID) -> Response:
    """Let a key be the one that is used."""
    await make_provider_key_default(request, session.principal, key_id)
    return _done(request, session, N_("This key is used from now on."))


@router.post("/provider-keys/{key_id}/forget/preview")
async def preview_forgetting(request: Request, session: Tenant, key_id: UUID) -> Response:
    """Say what forgetting a key does."""
    words, key = words_of(session.language), await _key(request, session, key_id)
    return await confirm(
        request, session, Form.fresh(),
        title=words("Forget the key?"), facts=[(words("Provider"), key.provider), (words("Name"), key.key_name)],
        action=f"{PAGE}/{key_id}/forget", button=words("Forget the key"), back=PAGE, danger=True,
        warning=words("Requests are made without it from now on. It stays valid at the provider until you revoke it there."),
    )  # fmt: skip


@router.post("/provider-keys/{key_id}/forget")
async def forget_provider_key(request: Request, session: Tenant, key_id: UUID) -> Response:
    """Forget a key."""
    await delete_provider_key(request, session.principal, key_id)
    return _done(request, session, N_("The key is forgotten."))


def _done(request: Request, session: Session, said: str) -> Response:
    flash(request, words_of(session.language)(said))
    return redirect(request, PAGE)


async def _shown(request: Request, session: Session, form: Form, *, status: int = 200) -> Response:
    keys = await list_provider_keys(request, session.principal, Paging(200))
    return await page(request, session, "tenant/provider_keys.html", status=status, form=form, keys=keys.items)


async def _key(request: Request, session: Session, key_id: UUID) -> StoredProviderKey:
    keys = await list_provider_keys(request, session.principal, Paging(200))
    found = next((key for key in keys.items if key.id == key_id), None)
    if found is None:
        raise Problem(NOT_FOUND, f"there is no key {key_id}")
    return found

"""Signing in, with a password or at an identity provider, and out."""

from __future__ import annotations

import json
from datetime import timedelta
from ipaddress import ip_address
from typing import Annotated, Any, Final
from urllib.parse import quote, unquote

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from services.accounts.sessions.desk import LoginRefused, SessionOver
from services.api.auth.session_routes import Login, Refreshing, log_in, log_out, refresh_session
from services.api.console.code_flow import Begun, Refused
from services.api.console.cookies import base_url, jar_of
from services.api.console.forms import Form, read_form
from services.api.console.page_route import HOME, SIGN_IN, PageRoute, redirect, safe_path
from services.api.console.rendering import page
from services.api.console.signed_in import Tenant, check_csrf, keep_token, keep_tokens
from services.api.console.wording import N_, language_of, words_of
from services.api.problems import FORBIDDEN, NOT_FOUND, Problem
from services.api.state import state_of

router = APIRouter(route_class=PageRoute)

CALLBACK: Final = "/console/sign-in/callback"
BEGUN_FOR: Final = timedelta(minutes=10)
"""How long somebody may take at the identity provider."""
Next = Annotated[str, Query(alias="next", max_length=2_000)]


@router.get("/sign-in")
async def show_sign_in(request: Request, next_: Next = HOME) -> Response:
    """The ways to sign in."""
    return await _shown(request, Form.fresh(next=safe_path(next_)))


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Sign in with an e-mail address and a password."""
    await check_csrf(request)
    form = await read_form(request)
    login = form.read_into(Login)
    if login is None:
        return await _shown(request, form, status=422)
    try:
        keep_tokens(request, await log_in(request, login))
    except LoginRefused:
        form.problem = N_("The e-mail address or the password is wrong.")
        return await _shown(request, form, status=401)
    except Problem as problem:
        form.problem = problem.detail
        return await _shown(request, form, status=problem.kind.status)
    return _arrived(request, form.values.get("next", ""))


@router.get("/sign-in/provider")
async def begin_at_provider(request: Request, next_: Next = HOME) -> Response:
    """Go to the identity provider."""
    flow = state_of(request).code_flow
    if flow is None:
        raise Problem(NOT_FOUND, "no identity provider is configured for the console: see TALLYSTICK_OIDC_CLIENT_ID")
    address, begun = await flow.begin(base_url(request) + CALLBACK)
    kept = json.dumps({"state": begun.state, "verifier": begun.verifier, "next": safe_path(next_)})
    jar_of(request).put("oidc", quote(kept), BEGUN_FOR)
    return RedirectResponse(address, status_code=303)


@router.get("/sign-in/callback")
async def come_back_from_provider(
    request: Request,
    code: Annotated[str, Query(max_length=4_000)] = "",
    state: Annotated[str, Query(max_length=200)] = "",
    error: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Sign in with the code that the identity provider gave."""
    jar, parts = jar_of(request), state_of(request)
    begun = _begun(jar.get("oidc"))
    jar.forget("oidc")
    form = Form.fresh(next=safe_path(begun.get("next", "")))
    try:
        if error or parts.code_flow is None or not begun:
            raise Refused(error or N_("nothing was begun here"))
        found = await parts.code_flow.finish(
            Begun(begun["state"], begun["verifier"]), code, state, base_url(request) + CALLBACK
        )
        if await parts.tokens.recognise(found.access_token) is None:
            raise Refused(N_("its access token is not valid for this API"))
    except Refused as refusal:
        words = words_of(language_of(request))
        form.problem = words("The identity provider did not sign you in: {why}.", why=words(str(refusal)))
        return await _shown(request, form, status=401)
    keep_token(request, found.access_token, found.expires_in, found.refresh_token)
    return _arrived(request, form.values["next"])


@router.get("/enter")
async def enter_by_link(request: Request, token: Annotated[str, Query(max_length=200)]) -> Response:
    """Sign in by a link, which is good once, for a few minutes, and on this machine: what the demo prints."""
    if not state_of(request).settings.console_links or not _from_here(request):
        raise Problem(FORBIDDEN, "links that sign in are not taken here")
    try:
        keep_tokens(request, await refresh_session(request, Refreshing.model_validate({"refresh_token": token})))
    except SessionOver:
        form = Form.fresh(next=HOME)
        form.problem = N_("This link was used already, or has expired.")
        return await _shown(request, form, status=401)
    return _arrived(request, HOME)


@router.post("/sign-out")
async def sign_out(request: Request, session: Tenant) -> Response:
    """Sign out: the session is over, and not in this browser alone."""
    if session.principal.session_id is not None:
        await log_out(request, session.principal)
    jar_of(request).forget("session", "refresh", "csrf", "flash")
    return redirect(request, SIGN_IN)


async def _shown(request: Request, form: Form, *, status: int = 200) -> Response:
    return await page(
        request, None, "sign_in.html", status=status, form=form, provider=state_of(request).code_flow is not None
    )  # fmt: skip


def _arrived(request: Request, where: str) -> Response:
    jar_of(request).forget("csrf")  # who signs in gets a token that nobody had before
    return redirect(request, safe_path(where))


def _begun(cookie: str) -> dict[str, Any]:
    try:
        found = json.loads(unquote(cookie))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _from_here(request: Request) -> bool:
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False

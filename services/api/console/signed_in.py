"""Who is signed in: `Tenant`, `Finance` and `Operator` in a page's signature."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials

from services.accounts.sessions.desk import SessionOver
from services.accounts.sessions.tokens import REFRESH
from services.api.auth.asking import asking
from services.api.auth.credentials import kind_of
from services.api.auth.principal import Principal
from services.api.auth.session_routes import Refreshing, Tokens, refresh_session
from services.api.console.cookies import Jar, jar_of
from services.api.console.forms import read_form
from services.api.console.navigation import Part, sees
from services.api.console.page_route import SignInNeeded
from services.api.console.wording import language_of
from services.api.problems import FORBIDDEN, UNAUTHENTICATED, Problem
from services.api.state import state_of

SAFE: Final = ("GET", "HEAD")
CSRF_FIELD: Final = "csrf"


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in, and the language that they read."""

    principal: Principal
    language: str
    csrf: str


async def signed_in(request: Request) -> Session:
    """Return who is signed in. Raises `SignInNeeded`, and `Problem` for a form that is not from a page of ours."""
    jar = jar_of(request)
    principal = await _principal(request, jar)
    if request.method not in SAFE:
        await check_csrf(request)
    session = Session(principal, language_of(request), csrf_token(jar))
    request.scope["state"]["console_session"] = session
    return session


def _for(part: Part) -> Callable[[Session], Session]:
    def check(session: Annotated[Session, Depends(signed_in)]) -> Session:
        if not sees(session.principal, part):
            raise Problem(FORBIDDEN, f"this page is for {'finance' if part == 'finance' else 'administrators'}")
        return session

    return check


Tenant = Annotated[Session, Depends(signed_in)]
Finance = Annotated[Session, Depends(_for("finance"))]
Operator = Annotated[Session, Depends(_for("operator"))]


def csrf_token(jar: Jar) -> str:
    """Return the token that forms of this browser carry; a new one if it has none."""
    token = jar.get("csrf")
    if len(token) < 32:
        token = secrets.token_urlsafe(32)
        jar.put("csrf", token)
    return token


async def check_csrf(request: Request) -> None:
    """Raise `Problem` unless a form comes from a page that this server gave to this browser."""
    token, sent = jar_of(request).get("csrf"), (await read_form(request)).values.get(CSRF_FIELD, "")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem(FORBIDDEN, "this form was sent by a page of somebody else: nothing was done")
    if not token or not hmac.compare_digest(token.encode(), sent.encode()):
        raise Problem(FORBIDDEN, "this form is too old, or not from here: go back, load the page again, and repeat it")


def keep_tokens(request: Request, tokens: Tokens) -> None:
    """Sign a browser in with the tokens of a session. The first is forgotten as it expires, so that it is refreshed and not refused."""
    jar, now = jar_of(request), state_of(request).clock.now()
    jar.put("session", tokens.access_token, timedelta(seconds=tokens.expires_in))
    jar.put("refresh", tokens.refresh_token, tokens.session_expires_at - now)


def keep_token(request: Request, access: str, seconds: int, refresh: str) -> None:
    """Sign a browser in with tokens of an identity provider."""
    jar = jar_of(request)
    jar.put("session", access, timedelta(seconds=seconds))
    if refresh:
        jar.put("refresh", refresh, timedelta(days=state_of(request).settings.api_session_days))


async def _principal(request: Request, jar: Jar) -> Principal:
    if principal := await _recognise(request, jar.get("session")):
        return principal
    if refresh := jar.get("refresh"):
        await _refresh(request, refresh)
        if principal := await _recognise(request, jar.get("session")):
            return principal
    jar.forget("session", "refresh")
    raise SignInNeeded


async def _recognise(request: Request, credential: str) -> Principal | None:
    """Return whom a cookie stands for, by the very rules of the API; an API key is no session."""
    if not credential or kind_of(credential) == "api_key":
        return None
    try:
        return await asking(request, HTTPAuthorizationCredentials(scheme="Bearer", credentials=credential), None)
    except Problem as problem:
        if problem.kind is UNAUTHENTICATED:
            return None
        raise


async def _refresh(request: Request, token: str) -> None:
    """Get new tokens for an old one; none where the session is over."""
    if not token.startswith(REFRESH):
        flow = state_of(request).code_flow
        if flow and (found := await flow.refresh(token)):
            keep_token(request, found.access_token, found.expires_in, found.refresh_token)
        return
    try:
        keep_tokens(request, await refresh_session(request, Refreshing.model_validate({"refresh_token": token})))
    except SessionOver:
        return

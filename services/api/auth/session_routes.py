"""Routes by which local users log in and out."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from math import ceil
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field, SecretStr

from services.accounts.passwords import MOST_CHARACTERS
from services.accounts.sessions.desk import LoginRefused, Place, TooManyAttempts
from services.accounts.sessions.tokens import Pair
from services.api import metrics
from services.api.auth.asking import Asking
from services.api.fields import Answer, Body, Instant, Word
from services.api.problems import CONFLICT, RATE_LIMITED, Problem
from services.api.state import state_of

router = APIRouter(prefix="/api/v1/sessions", tags=["account"])

_USER_AGENT_CHARACTERS = 300


class Login(Body):
    """Who somebody is, and how they prove it."""

    email: Word
    password: SecretStr = Field(min_length=1, max_length=MOST_CHARACTERS)


class Refreshing(Body):
    """A token to be exchanged."""

    refresh_token: SecretStr = Field(min_length=1, max_length=200)


class Tokens(Answer):
    """What a session is used by."""

    access_token: str = Field(description="For `Authorization: Bearer`.")
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in: int = Field(description="Seconds that the access token is valid.")
    refresh_token: str = Field(description="To be exchanged, once, for the next tokens.")
    session_expires_at: Instant = Field(description="When to log in again at the latest.")


@router.post("", status_code=201)
async def log_in(request: Request, body: Login) -> Tokens:
    """Log in with an e-mail address and a password. Too many attempts are refused for a while (429)."""
    state = state_of(request)
    try:
        pair = await state.sessions.desk.login(body.email, body.password.get_secret_value(), _place(request))
    except TooManyAttempts as error:
        metrics.LOGINS.labels("limited").inc()
        wait = {"Retry-After": str(ceil(error.wait.total_seconds()))}
        raise Problem(RATE_LIMITED, str(error), headers=wait) from error
    except LoginRefused:
        metrics.LOGINS.labels("refused").inc()
        raise
    metrics.LOGINS.labels("done").inc()
    return _shown(pair, state.clock.now())


@router.post("/refresh")
async def refresh_session(request: Request, body: Refreshing) -> Tokens:
    """Exchange a refresh token for new tokens. One that comes a second time ends the session: somebody else has it."""
    state = state_of(request)
    pair = await state.sessions.desk.refresh(body.refresh_token.get_secret_value(), _place(request))
    return _shown(pair, state.clock.now())


@router.delete("", status_code=204)
async def log_out(
    request: Request,
    principal: Asking,
    everywhere: Annotated[bool, Query(description="All sessions of the user, and not this one alone.")] = False,
) -> None:
    """Log out: the tokens of the session are not valid any more."""
    if principal.session_id is None and not everywhere:
        raise Problem(
            CONFLICT, "this credential belongs to no session: send the session's access token, or everywhere=true"
        )
    session = None if everywhere else principal.session_id
    await state_of(request).sessions.desk.logout(principal.user_id, session, _place(request))


def _place(request: Request) -> Place:
    agent = request.headers.get("user-agent", "")[:_USER_AGENT_CHARACTERS].replace("\x00", "")
    return Place(_address(request), agent or None)


def _address(request: Request) -> str | None:
    try:
        return str(ipaddress.ip_address(request.client.host)) if request.client else None
    except ValueError:  # a socket of this machine has a name
        return None


def _shown(pair: Pair, now: datetime) -> Tokens:
    return Tokens(
        access_token=pair.access_token,
        expires_in=int((pair.access_expires_at - now).total_seconds()),
        refresh_token=pair.refresh_token,
        session_expires_at=pair.expires_at,
    )

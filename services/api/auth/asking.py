"""Finds out who asks, for the routes: `Asking` in a route's signature is the principal behind the request's credential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from services.api import metrics
from services.api.auth.credentials import kind_of
from services.api.auth.principal import Principal, Right
from services.api.auth.tokens import Tokens
from services.api.problems import FORBIDDEN, UNAUTHENTICATED, Problem
from services.api.state import state_of

_bearer: Final = HTTPBearer(auto_error=False, description="An API key, or an access token.")
_REFUSED: Final = {
    "api_key": "this API key is not known, or not valid any more",
    "session": "this access token has expired, or its session is over: refresh it, or log in again",
    "token": "this token is not valid here, or has expired",
}
_header: Final = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key.")


async def asking(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    key: Annotated[str | None, Security(_header)],
) -> Principal:
    """Return who asks. Raises `Problem` (401; 429 for who asks too often)."""
    credential = bearer.credentials.strip() if bearer else key
    if not credential:
        metrics.REFUSED_CREDENTIALS.labels("none").inc()
        raise Problem(UNAUTHENTICATED, "send 'Authorization: Bearer KEY' with an API key or an access token")
    state, kind = state_of(request), kind_of(credential)
    address, now = request.client.host if request.client else "", state.clock.now().timestamp()
    known = kind == "api_key" and state.api_keys.remembers(credential)
    if kind != "token" and not known:  # who is known is not locked out by others at its address
        state.rate_limits.check_address(address, now)
    recognisers: dict[str, Tokens] = {"api_key": state.api_keys, "session": state.sessions, "token": state.tokens}
    principal = await recognisers[kind].recognise(credential)
    if principal is None:
        state.rate_limits.refused(address, now)
        metrics.REFUSED_CREDENTIALS.labels(kind).inc()
        raise Problem(
            UNAUTHENTICATED,
            _REFUSED[kind],
            headers={"WWW-Authenticate": 'Bearer realm="tallystick", error="invalid_token"'},
        )
    request.scope["state"]["who"] = str(principal.key_id or principal.user_id)
    limits = state.rate_limits.admit(principal, now)
    request.scope["state"]["headers"] = [(name.lower().encode(), value.encode()) for name, value in limits.items()]
    return principal


async def asking_of(request: Request) -> Principal:
    """Return who asks, outside of FastAPI's dependencies. Raises as `asking` does."""
    return await asking(request, await _bearer(request), await _header(request))


Asking = Annotated[Principal, Depends(asking)]


def having(*rights: Right) -> Callable[[Principal], Principal]:
    """Return a dependency: who asks, if it has one of these roles (administrators may do all). Raises `Problem` (403) else."""

    def check(principal: Asking) -> Principal:
        if not principal.may(*rights):
            raise Problem(
                FORBIDDEN,
                f"this needs the role {' or '.join((*rights, 'admin')) if 'admin' not in rights else ' or '.join(rights)}",
            )
        return principal

    return check


Administrator = Annotated[Principal, Depends(having("admin"))]
Finance = Annotated[Principal, Depends(having("finance"))]
Gateway = Annotated[Principal, Depends(having("service"))]

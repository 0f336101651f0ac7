"""Finds out who asks, for the routes: `Asking` in a route's signature is the principal behind the request's credential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from services.accounts.api_keys.keys import looks_like_key
from services.api import metrics
from services.api.auth.principal import Principal, Right
from services.api.problems import FORBIDDEN, UNAUTHENTICATED, Problem
from services.api.state import state_of

_bearer: Final = HTTPBearer(auto_error=False, description="An API key, or an access token.")
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
    state = state_of(request)
    is_key = looks_like_key(credential)
    address, now = request.client.host if request.client else "", state.clock.now().timestamp()
    if is_key and not state.api_keys.remembers(credential):  # who is known is not locked out by others at its address
        state.rate_limits.check_address(address, now)
    principal = await (state.api_keys.recognise(credential) if is_key else state.tokens.recognise(credential))
    if principal is None:
        state.rate_limits.refused(address, now)
        metrics.REFUSED_CREDENTIALS.labels("api_key" if is_key else "token").inc()
        said = (
            "this API key is not known, or not valid any more"
            if is_key
            else "this token is not valid here, or has expired"
        )
        raise Problem(
            UNAUTHENTICATED, said, headers={"WWW-Authenticate": 'Bearer realm="tallystick", error="invalid_token"'}
        )
    request.scope["state"]["who"] = str(principal.key_id or principal.user_id)
    limits = state.rate_limits.admit(principal, now)
    request.scope["state"]["headers"] = [(name.lower().encode(), value.encode()) for name, value in limits.items()]
    return principal


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

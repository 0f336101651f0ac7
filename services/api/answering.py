"""Answers errors as problem+json: refusals of routes, errors of capabilities, and our own bugs."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

import asyncpg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.accounts.passwords import PasswordRefused
from services.accounts.provider_keys.desk import NoKey
from services.accounts.provider_keys.keyring import NoSecrets
from services.accounts.sessions.desk import LoginRefused, SessionOver
from services.api.problems import (
    BY_STATUS,
    CONFLICT,
    INSUFFICIENT_CREDITS,
    INTERNAL,
    INVALID_REQUEST,
    KEY_REUSED,
    MALFORMED,
    MEDIA_TYPE,
    NOT_FOUND,
    RATE_LIMITED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    Kind,
    Problem,
)
from services.billing.credits.grants import GrantRefused
from services.billing.payments.provider import NotConfigured, ProviderUnavailable, WebhookRefused
from services.billing.payments.state import AmountRefused
from services.billing.plans.meters import TermsRefused
from services.billing.rating.price_file import PriceRefused
from services.ingest.quarantine import ChoiceRefused
from shared.errors import KeyReused, NotFound, ServiceUnavailable, TallystickError

log = structlog.get_logger("api")

RETRY_SECONDS: Final = 5
"""What Retry-After says where nothing better is known."""

PROBLEM_OF: Final[dict[type[Exception], Kind]] = {
    ServiceUnavailable: UNAVAILABLE,
    NoSecrets: UNAVAILABLE,
    NoKey: INVALID_REQUEST,
    LoginRefused: UNAUTHENTICATED,
    SessionOver: UNAUTHENTICATED,
    ProviderUnavailable: UNAVAILABLE,
    WebhookRefused: MALFORMED,
    NotFound: NOT_FOUND,
    KeyReused: KEY_REUSED,
    NotConfigured: CONFLICT,
    AmountRefused: INVALID_REQUEST,
    GrantRefused: INVALID_REQUEST,
    TermsRefused: INVALID_REQUEST,
    PriceRefused: INVALID_REQUEST,
    ChoiceRefused: INVALID_REQUEST,
    PasswordRefused: INVALID_REQUEST,
}
"""Which kind of problem an error of a capability is; the nearest class counts. A `TallystickError` that is not here is a CONFLICT."""

_OF_SQLSTATE: Final = {
    "TS001": INSUFFICIENT_CREDITS, "TS002": KEY_REUSED, "TS003": CONFLICT, "TS004": INVALID_REQUEST, "TS005": NOT_FOUND,
    "TS010": CONFLICT, "TS011": INVALID_REQUEST, "TS012": CONFLICT, "55P03": UNAVAILABLE, "57014": UNAVAILABLE,
    "25006": UNAVAILABLE,
}  # fmt: skip
_GONE: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError,
                asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError, asyncpg.TargetServerAttributeNotMatched)  # fmt: skip
"""What a database that is away raises."""


def answer(problem: Problem, request_id: str = "") -> Response:
    """Return the answer that says so."""
    headers = dict(problem.headers)
    if problem.kind is UNAUTHENTICATED:
        headers.setdefault("WWW-Authenticate", 'Bearer realm="tallystick"')
    if problem.kind in (UNAVAILABLE, RATE_LIMITED):
        headers.setdefault("Retry-After", str(RETRY_SECONDS))
    return JSONResponse(content_of(problem, request_id), problem.kind.status, headers, MEDIA_TYPE)


def content_of(problem: Problem, request_id: str = "") -> dict[str, Any]:
    """Return the body of the answer that says so."""
    content: dict[str, Any] = {
        "type": problem.kind.type,
        "title": problem.kind.title,
        "status": problem.kind.status,
        "detail": problem.detail,
    }
    if request_id:
        content["instance"] = f"urn:request:{request_id}"
    if problem.errors:
        content["errors"] = problem.errors
    return content | problem.more


def problem_of(error: Exception) -> Problem | None:
    """Return what an error is to who asked; None for a bug of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, TallystickError):
        by_rule = _by_rule(error.__cause__)
        kind = next((PROBLEM_OF[cls] for cls in type(error).__mro__ if cls in PROBLEM_OF), by_rule or CONFLICT)
        return Problem(kind, str(error), more=_missing(error.__cause__))
    if isinstance(error, asyncpg.InterfaceError) and isinstance(
        error, ValueError
    ):  # a value that its parameter cannot be
        return Problem(INVALID_REQUEST, f"a value has not the form that is wanted: {str(error).splitlines()[0]}")
    if isinstance(error, _GONE):
        return Problem(UNAVAILABLE, "the database does not answer: try again")
    if isinstance(error, asyncpg.PostgresError) and (known := _by_rule(error)):
        hint = f": {error.hint}" if getattr(error, "hint", None) else ""
        return Problem(known, f"{str(error).splitlines()[0]}{hint}", more=_missing(error))
    return _unstorable(error)


def _by_rule(error: BaseException | None) -> Kind | None:
    """Return the kind of a rule of the database that was broken."""
    return _OF_SQLSTATE.get(error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else None


def _missing(error: BaseException | None) -> dict[str, Any]:
    """Return the figures of a balance that does not suffice."""
    if _by_rule(error) is not INSUFFICIENT_CREDITS or not (detail := getattr(error, "detail", None)):
        return {}
    figures = json.loads(detail, parse_float=Decimal, parse_int=Decimal)
    return {name: f"{figures[name]:f}" for name in ("needed", "available", "missing", "owed") if name in figures}


def _unstorable(error: Exception) -> Problem | None:
    """Return the refusal of what is there already, or that no column can hold: a character that text has not, a number too large."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return Problem(CONFLICT, "the same was made by somebody else at this moment: look, and try again")
    if isinstance(error, asyncpg.CheckViolationError):
        return Problem(INVALID_REQUEST, f"this breaks the rule {error.constraint_name} of {error.table_name}")
    if isinstance(error, asyncpg.DataError) or (getattr(error, "sqlstate", None) or "").startswith("22"):
        return Problem(INVALID_REQUEST, f"a value cannot be stored: {str(error).splitlines()[0]}")
    return None


def install(app: FastAPI) -> None:
    """Let an application answer every error as a problem."""
    for kind in (Problem, TallystickError, asyncpg.PostgresError, *_GONE):
        app.add_exception_handler(kind, _handle)
    app.add_exception_handler(RequestValidationError, _handle_invalid)
    app.add_exception_handler(HTTPException, _handle_http)


def unexpected(error: Exception, request_id: str) -> Response:
    """Return the answer to a bug of ours, which the log has whole."""
    log.error("request_failed", error=repr(error), exc_info=error)
    return answer(Problem(INTERNAL, f"this is a fault of the server; its log knows it as {request_id}"), request_id)


async def _handle(request: Request, error: Exception) -> Response:
    request_id = _request_id(request)
    problem = problem_of(error)
    return answer(problem, request_id) if problem else unexpected(error, request_id)


async def _handle_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (what it is registered for)
    found = [
        {"field": ".".join(str(part) for part in e["loc"]), "message": e["msg"].removeprefix("Value error, ")}
        for e in error.errors()
    ]
    unreadable = any(e["type"] == "json_invalid" for e in error.errors())
    said = "; ".join(f"{e['field']}: {e['message']}" for e in found[:5])
    return answer(Problem(MALFORMED if unreadable else INVALID_REQUEST, said, errors=found), _request_id(request))


async def _handle_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    kind = BY_STATUS.get(error.status_code, INTERNAL if error.status_code >= 500 else MALFORMED)
    said = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not known at {request.url.path}"}
    detail = said.get(error.status_code, error.detail)
    return answer(Problem(kind, detail, headers=error.headers), _request_id(request))


def _request_id(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))

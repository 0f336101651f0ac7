"""What happens to every request, whatever it asks for: its id, its size, its headers, a line in the access log, metrics.

Plain ASGI, outermost: the answers to errors pass through here as well. Neither bodies nor query strings nor credentials are logged.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api import metrics
from services.api.answering import answer, unexpected
from services.api.caller import CALLER, Caller
from services.api.problems import TOO_LARGE, Problem
from shared.ids import uuid7

log = structlog.get_logger("api.access")

_REQUEST_ID: Final = re.compile(rb"^[A-Za-z0-9._-]{8,128}$")
SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"strict-transport-security", b"max-age=31536000"),
)
"""An answer that sets one of them itself keeps its own."""


class BodyTooLarge(Problem):
    """The body is larger than it may be: found by its announced length, or while it is read."""

    def __init__(self, limit: int) -> None:
        super().__init__(TOO_LARGE, f"the body is larger than {limit:,} bytes: send less at once")


class Boundary:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, *, body_bytes: int) -> None:
        self._app, self._body_bytes = app, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), 500
        given = dict(scope["headers"])
        proposed = given.get(b"x-request-id", b"")
        request_id = proposed.decode() if _REQUEST_ID.match(proposed) else str(uuid7())
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        CALLER.set(Caller.of(scope, request_id))
        begun = False

        async def respond(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                own = {name.lower() for name, _ in message["headers"]}
                of_all = (*SECURITY_HEADERS, *scope["state"].get("headers", ()))
                message["headers"] = [
                    *message["headers"],
                    *(header for header in of_all if header[0] not in own),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        metrics.IN_FLIGHT.inc()
        try:
            announced = given.get(b"content-length", b"0")
            if announced.isdigit() and int(announced) > self._body_bytes:
                await answer(BodyTooLarge(self._body_bytes), request_id)(scope, receive, respond)
            else:
                await self._app(scope, self._counted(receive), respond)
        except Exception as error:
            if begun:  # half an answer is out: all that is left is to cut it off
                log.error("answer_broke_off", error=repr(error), exc_info=error)
                raise
            refusal = answer(error, request_id) if isinstance(error, Problem) else unexpected(error, request_id)
            await refusal(scope, receive, respond)
        finally:
            metrics.IN_FLIGHT.dec()
            self._tell(scope, status, perf_counter() - started)

    def _counted(self, receive: Receive) -> Receive:
        """Return `receive`, but for a body that turns out too large: it is not read on."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._body_bytes:
                raise BodyTooLarge(self._body_bytes)
            return message

        return counted

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        metrics.REQUESTS.labels(scope["method"] if route != "none" else "any", route, str(status)).inc()
        metrics.REQUEST_SECONDS.labels(route).observe(seconds)
        client = scope.get("client") or ("", 0)
        log.info(
            "request",
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 2),
            client=client[0],
            who=scope["state"].get("who"),
        )

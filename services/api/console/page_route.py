"""What all pages have in common: errors are pages, cookies go out, and a policy says what a page may load."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import quote, urlsplit

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute

from services.api.answering import problem_of
from services.api.console.cookies import jar_of
from services.api.problems import INTERNAL, INVALID_REQUEST, Problem

log = structlog.get_logger("api.console")

HOME: Final = "/console/"
SIGN_IN: Final = "/console/sign-in"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing inline, nothing from elsewhere."""


class SignInNeeded(Exception):
    """Nobody is signed in, or not any more."""


class PageRoute(APIRoute):
    """A route whose errors are pages for people."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except SignInNeeded:
                response = redirect(request, f"{SIGN_IN}?next={quote(way_back(request))}")
            except Exception as error:
                response = await _error_page(request, error)
            if response.headers.get("content-type", "").startswith("text/html"):
                response.headers.setdefault("Content-Security-Policy", POLICY)
                response.headers.setdefault("Referrer-Policy", "same-origin")
            jar_of(request).apply(response)
            return response

        return answer


def redirect(request: Request, path: str) -> Response:
    """Send a browser to another page of ours; htmx as well, which would put the page into the place of a fragment else."""
    if request.headers.get("hx-request") == "true":
        return Response(headers={"HX-Redirect": path})
    return RedirectResponse(path, status_code=303)


def safe_path(path: str) -> str:
    """Return a path of the console as it is, the first page in place of anything else: nobody is sent away from here."""
    parts = urlsplit(path)
    inside = not parts.scheme and not parts.netloc and (path == "/console" or path.startswith("/console/"))
    return path if inside and "\\" not in path and path.isprintable() else HOME


def way_back(request: Request) -> str:
    """Return the page to come back to after signing in: this one, or the one with the form that was sent."""
    if request.method == "GET" and request.headers.get("accept") != "text/event-stream":
        query = f"?{request.url.query}" if request.url.query else ""
        return safe_path(request.url.path + query)
    referer = urlsplit(request.headers.get("referer", ""))
    return safe_path(referer.path + (f"?{referer.query}" if referer.query else ""))


async def _error_page(request: Request, error: Exception) -> Response:
    from services.api.console.rendering import error_page  # noqa: PLC0415 (which knows the routes of assets)

    if isinstance(error, RequestValidationError):
        said = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()[:5])
        return await error_page(request, Problem(INVALID_REQUEST, said))
    problem = problem_of(error)
    if problem is None:
        log.error("page_failed", error=repr(error), exc_info=error)
        request_id = request.scope["state"].get("request_id", "")
        problem = Problem(INTERNAL, f"this is a fault of the server; its log knows it as {request_id}")
    return await error_page(request, problem)

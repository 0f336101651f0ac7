"""Routes of the hot path: in the specification as others are, but run without FastAPI's resolution of dependencies.

That costs a third of a millisecond for each request, as much as judging thirty events.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from services.api.auth.asking import asking_of


class RawRoute(APIRoute):
    """A route whose function takes the request and who asks (`principal: Asking`), and nothing else; it returns a response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what runs the route."""
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            response: Response = await endpoint(request, await asking_of(request))
            return response

        return handle

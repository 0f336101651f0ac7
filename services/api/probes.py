"""What operators and Kubernetes ask the API: /metrics, /livez and /readyz, on a port of their own.

*Ready* does not depend on Postgres: entitlements are answered without it, and what needs it says 503 itself. /readyz tells of it.
"""

from __future__ import annotations

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from shared.postgres import Pool
from shared.probes import not_writable


def probes_app(api: uvicorn.Server, pool: Pool) -> Starlette:
    """Return the application that answers for `api`."""

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok\n")  # whoever answers this has an event loop that runs

    async def readyz(_request: Request) -> Response:
        if not api.started or api.should_exit:
            return PlainTextResponse("it does not listen\n", 503)
        return PlainTextResponse(f"ok{', but ' + problem if (problem := await not_writable(pool)) else ''}\n")

    return Starlette(routes=[Route("/metrics", metrics), Route("/livez", livez), Route("/readyz", readyz)])

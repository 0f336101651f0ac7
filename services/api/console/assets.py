"""Files of pages: style, scripts, the pinned libraries. Their addresses hold a hash of their content, so browsers keep them for good."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response

from services.api.console.page_route import PageRoute
from services.api.problems import NOT_FOUND, Problem

router = APIRouter(route_class=PageRoute)

FILES: Final = {
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "theme.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "vendor/htmx.min.js": "text/javascript; charset=utf-8",
    "vendor/uPlot.iife.min.js": "text/javascript; charset=utf-8",
    "vendor/uPlot.min.css": "text/css; charset=utf-8",
}
"""All that is served, and as what."""


@cache
def content_of(name: str) -> bytes:
    """Read a file."""
    return files("services.api.console").joinpath("static", *name.split("/")).read_bytes()


@cache
def asset(name: str) -> str:
    """Return the address of a file."""
    return f"/console/static/{hashlib.sha256(content_of(name)).hexdigest()[:16]}/{name}"


@router.get("/static/{digest}/{name:path}")
async def read_asset(digest: str, name: str) -> Response:
    """A file. An address of an older version gives the present one, which is not kept."""
    if name not in FILES:
        raise Problem(NOT_FOUND, f"there is no file {name}")
    kept = "public, max-age=31536000, immutable" if f"/{digest}/" in asset(name) else "no-cache"
    return Response(content_of(name), media_type=FILES[name], headers={"Cache-Control": kept})

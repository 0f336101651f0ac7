"""All pages of the console. A page module has a `router`; where it is found in the navigation, it says itself."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.console import assets, language, signing_in
from services.api.console.page_route import HOME, PageRoute, redirect
from services.api.problems import NOT_FOUND, Problem

_beyond = APIRouter(route_class=PageRoute)


@_beyond.get("/{path:path}")
async def find_nothing(request: Request, path: str) -> None:  # noqa: ARG001
    """A page that there is not."""
    raise Problem(NOT_FOUND, f"there is no page {request.url.path}")


async def lead_to_first_page(request: Request) -> Response:
    """The address without a slash at its end."""
    return redirect(request, HOME)


def _router() -> APIRouter:
    router = APIRouter(prefix="/console", include_in_schema=False, route_class=PageRoute)
    router.add_api_route("", lead_to_first_page, methods=["GET"])
    router.include_router(assets.router)
    router.include_router(signing_in.router)
    router.include_router(language.router)
    for package in ("tenant", "operator"):
        where = import_module(f"services.api.console.pages.{package}")
        for module in iter_modules(where.__path__, f"{where.__name__}."):
            router.include_router(import_module(module.name).router)
    router.include_router(_beyond)
    return router


ROUTER = _router()

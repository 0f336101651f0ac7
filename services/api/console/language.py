"""The choice of a language."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.console.cookies import jar_of
from services.api.console.forms import read_form
from services.api.console.page_route import PageRoute, redirect, safe_path
from services.api.console.signed_in import check_csrf
from services.api.console.wording import NAMES

router = APIRouter(route_class=PageRoute)


@router.post("/language")
async def choose_language(request: Request) -> Response:
    """Keep the language that was chosen, and go back."""
    await check_csrf(request)
    values = (await read_form(request)).values
    if (chosen := values.get("language")) in NAMES:
        jar_of(request).put("language", str(chosen), timedelta(days=365))
    return redirect(request, safe_path(values.get("next", "")))

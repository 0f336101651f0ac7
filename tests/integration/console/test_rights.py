"""Every page of the console, asked for by those whom it is not for: found by its module, so that no new page is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import httpx
from starlette.routing import Route

from tests.integration.api.facts import Facts
from tests.integration.console.conftest import SignIn, csrf_of

PAGES = Path("services/api/console/pages")
VALUES = {"step": "suspend", "kind": "model", "name": "reconcile", "turn": "pause"}


def pages(part: str) -> Iterator[tuple[str, str]]:
    """Method and address of each page of a part, with some value for what it is about."""
    for file in sorted((PAGES / part).glob("*.py")):
        module = import_module(f"services.api.console.pages.{part}.{file.stem}")
        for route in getattr(getattr(module, "router", None), "routes", ()):
            assert isinstance(route, Route)
            path = re.sub(r"{(\w+)(:\w+)?}", lambda name: VALUES.get(name[1], str(uuid4())), route.path)
            yield from ((method, f"/console{path}") for method in route.methods or () if method != "HEAD")


async def test_a_tenant_gets_no_page_of_operators_and_finance(client: httpx.AsyncClient, sign_in: SignIn) -> None:
    await sign_in()
    asked, form = list(pages("operator")), {"csrf": csrf_of(await client.get("/console/"))}
    assert len(asked) > 20
    got = {
        f"{method} {path}": (await client.request(method, path, data=form if method == "POST" else None)).status_code
        for method, path in asked
    }
    assert {page: status for page, status in got.items() if status != 403} == {}


async def test_an_api_key_is_no_sign_in(client: httpx.AsyncClient, facts: Facts) -> None:
    admin = await facts.customer("admin")
    for method, path in (*pages("operator"), *pages("tenant")):
        answer = await client.request(method, path, headers=admin.headers)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/console/sign-in"), path

"""Every route of the application, tried by somebody with what is somebody else's: nothing of it is told, and nothing of it changes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

import httpx
from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from services.api.app import make_app
from services.api.console.routes import ROUTER as CONSOLE
from shared.ids import uuid7
from tests.integration.api.facts import Customer, Facts
from tests.integration.api.wrong_tenant.stage import Case, Stage, closed

ADMINISTRATION: Final = "/api/v1/admin/"


def modules() -> list[ModuleType]:
    folder = Path(__file__).parent / "wrong_tenant" / "cases"
    return [
        import_module(f"tests.integration.api.wrong_tenant.cases.{file.stem}") for file in sorted(folder.glob("*.py"))
    ]


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for module in modules():
        assert not found.keys() & module.CASES.keys(), f"{module.__name__}: a route has two cases"
        found |= module.CASES
    return found


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every method and path that is answered, whether the specification has it or not."""
    for route in flat(app.routes):
        assert isinstance(route, Route), f"{route}: say here how to try it"
        for method in sorted((route.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)  # as the specification writes it


def flat(found: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes, with those of included routers, but for the pages of the console: tests/integration/console/test_rights.py tries those."""
    for route in found:
        included = getattr(route, "original_router", None)
        if included is not CONSOLE:
            yield from flat(included.routes) if included else (route,)


def test_every_route_has_a_case_and_every_case_a_route() -> None:
    application = make_app()
    there = {f"{method} {path}" for method, path in routes(application)}
    specified = {f"{method.upper()} {path}" for path, of in application.openapi()["paths"].items() for method in of}
    assert specified <= there
    known = cases()
    without = {route for route in there - known.keys() if ADMINISTRATION not in route}
    assert without == set(), "say in tests/integration/api/wrong_tenant/cases how the wrong tenant is kept out"
    assert known.keys() - there == set(), "there is no such route (any more)"


async def test_the_wrong_tenant_gets_nothing_and_changes_nothing(
    app: FastAPI, client: httpx.AsyncClient, facts: Facts
) -> None:
    stage, problems, known = await set_up(facts), [], cases()
    async with facts.pool.acquire() as connection:
        before = await stage.rows(connection)
    assert {"none"} != {before[table] for table in ("users", "subscriptions", "api_keys")}
    for method, path in routes(app):
        case = known.get(f"{method} {path}", closed())
        problem = await attempt(client, stage, method, path, case)
        async with facts.pool.acquire() as connection:
            after = await stage.rows(connection)
        if changed := [table for table in before if before[table] != after[table]]:
            problem, before = f"changes the victim's {', '.join(changed)}", after
        if problem:
            problems.append(f"{method} {path}: {problem}")
    assert problems == []


async def set_up(facts: Facts) -> Stage:
    """Let the victim have one of everything."""
    victim = await facts.customer()
    stage = Stage(facts, victim)
    stage.has("user", victim.user_id)
    stage.has("subscription", victim.subscription_id)
    stage.has("key", victim.key_id)
    stage.has("key_prefix", victim.key[:10])
    stage.has("email", await facts.pool.fetchval("SELECT email FROM users WHERE id = $1", victim.user_id))
    for module in modules():
        if prepare := getattr(module, "prepare", None):
            await prepare(stage)
    return stage


async def attempt(client: httpx.AsyncClient, stage: Stage, method: str, path: str, case: Case) -> str | None:
    """Try a route as somebody else; return what is wrong, None if nothing is."""
    attacker: Customer = await stage.facts.customer()
    url = re.sub(r"\{(\w+)\}", lambda found: filled(stage, case, found[1]), path)
    body = case.json(stage) if case.json else None
    query = case.query(stage) if case.query else None
    headers = {**({} if case.anonymous else attacker.headers), **case.headers}
    answer = await client.request(method, url, json=body, params=query, headers=headers)
    if answer.status_code not in case.expected:
        return f"answers {answer.status_code}: {answer.text[:300]}"
    asked = f"{url} {json.dumps(body)} {query}"
    told = [name for name, thing in stage.things.items() if thing in answer.text and thing not in asked]
    return f"tells the victim's {', '.join(told)}" if told else None


def filled(stage: Stage, case: Case, parameter: str) -> str:
    """What stands in the place of a parameter of the path: the victim's thing that the case names, what it says else, or some id."""
    name = case.path.get(parameter)
    return stage.things.get(name, name) if name else str(uuid7())


async def test_the_sweep_sees_what_is_told_and_what_is_changed(
    app: FastAPI, client: httpx.AsyncClient, facts: Facts
) -> None:
    stage = await set_up(facts)

    @app.get("/leaks")
    async def leaks() -> dict[str, str]:
        return {"whose": stage.things["email"]}

    @app.post("/changes/{key_id}", status_code=404)
    async def changes(key_id: str) -> None:
        await facts.pool.execute("UPDATE api_keys SET name = 'mine' WHERE id = $1", key_id)

    async with facts.pool.acquire() as connection:
        before = await stage.rows(connection)
        told = await attempt(client, stage, "GET", "/leaks", Case(frozenset({200})))
        await attempt(client, stage, "POST", "/changes/{key_id}", Case(frozenset({404}), {"key_id": "key"}))
        after = await stage.rows(connection)
    assert told == "tells the victim's email"
    assert [table for table in before if before[table] != after[table]] == ["api_keys"]

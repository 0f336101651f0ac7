"""The links of the demo: each signs in once, soon, on this machine, and only where that is allowed."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from fastapi import FastAPI

from services.api.state import parts_of
from services.cli.demo.console import LINKS_VALID, console_links
from shared.clock import FixedClock
from shared.postgres import Pool
from tests.integration.api.facts import Facts


@pytest.fixture
def allowed(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let links sign in."""
    monkeypatch.setattr(parts_of(app).settings, "console_links", True)


@pytest.fixture
def made_now(clock: FixedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the links be made at the application's time."""
    monkeypatch.setattr("services.cli.demo.console.SystemClock", lambda: clock)


@pytest.mark.usefixtures("allowed", "made_now")
async def test_a_link_signs_in_once(client: httpx.AsyncClient, database_pool: Pool) -> None:
    [(who, link)] = await console_links(database_pool, "http://tallystick.test")
    assert who.startswith("operator")
    entered = await client.get(link)
    assert entered.status_code == 303
    assert (await client.get("/console/")).status_code == 200
    client.cookies.clear()
    again = await client.get(link)
    assert again.status_code in (303, 401)


@pytest.mark.usefixtures("allowed", "made_now")
async def test_a_link_expires(client: httpx.AsyncClient, database_pool: Pool, clock: FixedClock) -> None:
    [(_, link)] = await console_links(database_pool, "http://tallystick.test")
    clock.at += LINKS_VALID + timedelta(seconds=1)
    late = await client.get(link)
    assert late.status_code == 401
    assert "has expired" in late.text


@pytest.mark.usefixtures("made_now")
async def test_links_are_refused_where_they_are_not_allowed(client: httpx.AsyncClient, database_pool: Pool) -> None:
    [(_, link)] = await console_links(database_pool, "http://tallystick.test")
    assert (await client.get(link)).status_code == 403


@pytest.mark.usefixtures("allowed", "made_now")
async def test_links_are_refused_from_elsewhere(app: FastAPI, database_pool: Pool, facts: Facts) -> None:
    [(_, link)] = await console_links(database_pool, "http://tallystick.test")
    transport = httpx.ASGITransport(app, client=("192.0.2.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://tallystick.test") as elsewhere:
        assert (await elsewhere.get(link)).status_code == 403

"""Signing in at an identity provider: a small issuer on a socket, which checks what a real one checks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from services.api.app import build
from services.api.settings import Settings
from shared.clock import FixedClock
from shared.postgres import create_pool
from tests.integration.api.conftest import WITHOUT_RATE_LIMITS, clock
from tests.integration.api.issuer import AUDIENCE
from tests.integration.console.provider import CLIENT, Provider, running_provider

__all__ = ["clock"]

CALLBACK = "http://tallystick.test/console/sign-in/callback"


@pytest.fixture
def provider(clock: FixedClock) -> Iterator[Provider]:
    """Run one."""
    with running_provider(clock, CALLBACK) as found:
        yield found


@pytest_asyncio.fixture
async def visitor(database: str, clock: FixedClock, provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody at a console that is a client of the issuer."""
    settings: Any = {
        "database_url": database, "kafka_bootstrap_servers": "127.0.0.1:1", "oidc_issuer": provider.url, "oidc_audience": AUDIENCE,
        "oidc_client_id": CLIENT, "oidc_create_users": True, "oidc_roles": "finance=billing-team", **WITHOUT_RATE_LIMITS,
    }  # fmt: skip
    pool = await create_pool(database, application_name="tests", role="tallystick_api")
    application = build(Settings(**settings), pool, clock)
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://tallystick.test") as found:
            yield found
    await pool.close()


async def come_back(visitor: httpx.AsyncClient) -> str:
    """Go to the issuer, and return the address that it sends the browser back to."""
    sent = await visitor.get("/console/sign-in/provider?next=/console/keys")
    assert sent.status_code == 303, sent.text
    async with httpx.AsyncClient() as browser:
        return (await browser.get(sent.headers["location"])).headers["location"]


async def test_somebody_signs_in_with_their_organisation(
    visitor: httpx.AsyncClient, provider: Provider, clock: FixedClock
) -> None:
    assert "Sign in with your organisation" in (await visitor.get("/console/sign-in")).text
    arrived = await visitor.get(await come_back(visitor))
    assert arrived.status_code == 303, arrived.text
    assert arrived.headers["location"] == "/console/keys"
    page = await visitor.get("/console/")
    assert page.status_code == 200
    assert "grace" in page.text
    visitor.cookies.delete("tallystick_session")  # as the browser does when it expires
    assert (await visitor.get("/console/")).status_code == 200, "refreshed at the issuer"


async def test_what_the_issuer_says_of_itself_is_kept_for_an_hour_and_while_it_is_away(
    visitor: httpx.AsyncClient, provider: Provider, clock: FixedClock
) -> None:
    for _ in range(3):
        await come_back(visitor)
    assert provider.discovered == 1
    clock.at += timedelta(hours=1)
    await come_back(visitor)
    assert provider.discovered == 2
    clock.at += timedelta(hours=1)
    provider.is_away = True
    await come_back(visitor)


async def test_an_answer_that_nobody_asked_for_is_refused(visitor: httpx.AsyncClient, provider: Provider) -> None:
    theirs = await come_back(visitor)
    visitor.cookies.clear()
    assert (await visitor.get(theirs)).status_code == 401, "a browser that did not begin this"
    await come_back(visitor)
    assert (await visitor.get(theirs)).status_code == 401, "the answer to another attempt"
    assert (await visitor.get("/console/")).status_code == 303


async def test_a_code_is_good_once_and_for_who_began(visitor: httpx.AsyncClient, provider: Provider) -> None:
    back = await come_back(visitor)
    provider.challenges = dict.fromkeys(provider.challenges, "the challenge of somebody else")
    refused = await visitor.get(back)
    assert refused.status_code == 401
    assert "refused the code" in refused.text


async def test_a_token_for_another_service_signs_nobody_in(visitor: httpx.AsyncClient, provider: Provider) -> None:
    provider.claims = {"aud": "another-service"}
    refused = await visitor.get(await come_back(visitor))
    assert refused.status_code == 401
    assert "not valid for this API" in refused.text
    assert urlsplit(str(refused.url)).path == "/console/sign-in/callback"

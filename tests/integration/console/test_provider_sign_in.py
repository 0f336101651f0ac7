"""Signing in at an identity provider: a small issuer on a socket, which checks what a real one checks."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
import pytest_asyncio

from services.api.app import build
from services.api.settings import Settings
from shared.clock import FixedClock
from shared.postgres import create_pool
from tests.integration.api.conftest import WITHOUT_RATE_LIMITS, clock
from tests.integration.api.issuer import AUDIENCE, Issuer, public_jwk

__all__ = ["clock"]

CLIENT, CALLBACK = "console", "http://tallystick.test/console/sign-in/callback"


@dataclass
class Provider:
    """What it was asked, and what its tokens say beside who it is."""

    clock: FixedClock
    url: str = ""
    challenges: dict[str, str] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)

    def authorize(self, query: dict[str, str]) -> str:
        """Return where the browser is sent: the person is known, and agrees."""
        assert query["client_id"] == CLIENT
        assert query["redirect_uri"] == CALLBACK
        assert query["code_challenge_method"] == "S256"
        code = f"code-{len(self.challenges)}"
        self.challenges[code] = query["code_challenge"]
        return f"{CALLBACK}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: dict[str, str]) -> dict[str, Any] | None:
        """Return tokens for a code, once, and only to who began; or for the refresh token."""
        if form["grant_type"] == "authorization_code":
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = self.challenges.pop(form["code"], None)
            if challenge != base64.urlsafe_b64encode(digest).decode().rstrip("="):
                return None
        elif form["refresh_token"] != "refresh-me":
            return None
        issued = Issuer(self.url).token(
            self.clock.now(), email="grace@example.com", preferred_username="grace", **self.claims
        )
        return {"access_token": issued, "refresh_token": "refresh-me", "expires_in": 300, "token_type": "Bearer"}


@pytest.fixture
def provider(clock: FixedClock) -> Iterator[Provider]:
    """Run one."""
    found = Provider(clock)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/authorize":
                where = found.authorize({name: values[0] for name, values in parse_qs(query).items()})
                self.send_response(302)
                self.send_header("Location", where)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path == "/keys":
                self._say({"keys": [public_jwk("first")]})
            else:
                self._say({
                    "issuer": found.url, "jwks_uri": f"{found.url}/keys", "token_endpoint": f"{found.url}/token",
                    "authorization_endpoint": f"{found.url}/authorize",
                })  # fmt: skip

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._say(found.token({name: values[0] for name, values in parse_qs(body).items()}))

        def _say(self, said: Any) -> None:
            content = json.dumps(said or {"error": "invalid_grant"}).encode()
            self.send_response(200 if said else 400)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


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

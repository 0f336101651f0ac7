"""A small identity provider on a socket, which checks what a real one checks: who asks, where to, and the challenge of PKCE."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode

from shared.clock import Clock
from tests.integration.api.issuer import Issuer, public_jwk

CLIENT = "console"


@dataclass
class Provider:
    """What it was asked, and what its tokens say beside who it is. With `asks` it has a page on which the person agrees."""

    clock: Clock
    callback: str
    asks: bool = False
    url: str = ""
    challenges: dict[str, str] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    discovered: int = 0
    is_away: bool = False

    def authorize(self, query: dict[str, str]) -> str:
        """Return where the browser is sent: the person is known, and agrees."""
        assert query["client_id"] == CLIENT
        assert query["redirect_uri"] == self.callback
        assert query["code_challenge_method"] == "S256"
        code = f"code-{len(self.challenges)}"
        self.challenges[code] = query["code_challenge"]
        return f"{self.callback}?{urlencode({'code': code, 'state': query['state']})}"

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
            self.clock.now(), **{"email": "grace@example.com", "preferred_username": "grace", **self.claims}
        )
        return {"access_token": issued, "refresh_token": "refresh-me", "expires_in": 300, "token_type": "Bearer"}


@contextmanager
def running_provider(clock: Clock, callback: str, *, asks: bool = False) -> Iterator[Provider]:
    """A provider that answers until the end of the block."""
    found = Provider(clock, callback, asks)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/authorize" and found.asks:
                self._answer(
                    f'<title>The organisation</title><h1>The organisation</h1><a href="/agreed?{query}">Continue as Grace</a>',
                    "text/html",
                )
            elif path in ("/authorize", "/agreed"):
                where = found.authorize({name: values[0] for name, values in parse_qs(query).items()})
                self.send_response(302)
                self.send_header("Location", where)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path == "/keys":
                self._say({"keys": [public_jwk("first")]})
            elif found.is_away:
                self._say(None)
            else:
                found.discovered += 1
                self._say({
                    "issuer": found.url, "jwks_uri": f"{found.url}/keys", "token_endpoint": f"{found.url}/token",
                    "authorization_endpoint": f"{found.url}/authorize",
                })  # fmt: skip

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._say(found.token({name: values[0] for name, values in parse_qs(body).items()}))

        def _say(self, said: Any) -> None:
            self._answer(json.dumps(said or {"error": "invalid_grant"}), "application/json", 200 if said else 400)

        def _answer(self, text: str, kind: str, status: int = 200) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()

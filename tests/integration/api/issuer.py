"""A small identity provider on a socket: its discovery document, its keys, and tokens that are signed with them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "tallystick"


@cache
def private_key(name: str) -> Any:
    """A key of this name: RSA, or elliptic if it says so."""
    return ec.generate_private_key(ec.SECP256R1()) if name.startswith("ec") else rsa.generate_private_key(65537, 2048)


def public_jwk(name: str) -> dict[str, Any]:
    """The key as the issuer publishes it."""
    key = private_key(name).public_key()
    algorithm = "ES256" if name.startswith("ec") else "RS256"
    made: Any = (ECAlgorithm if algorithm == "ES256" else RSAAlgorithm).to_jwk(key, as_dict=True)
    return {**made, "kid": name, "use": "sig", "alg": algorithm}


@dataclass(slots=True)
class Issuer:
    """What it publishes can be changed, and it can be away."""

    url: str = ""
    published: list[str] = field(default_factory=lambda: ["first"])
    away: bool = False
    asked: list[str] = field(default_factory=list)

    def token(self, now: datetime, *, key: str = "first", headers: Any = None, **claims: Any) -> str:
        """A token that is valid at `now`, but for what is given; a claim of None is left out."""
        said = {
            "iss": self.url, "aud": AUDIENCE, "sub": "ada-at-the-issuer", "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=5)).timestamp()), **claims,
        }  # fmt: skip
        algorithm = "ES256" if key.startswith("ec") else "RS256"
        return jwt.encode(
            {name: value for name, value in said.items() if value is not None}, private_key(key), algorithm,
            headers={"kid": key, **(headers or {})},
        )  # fmt: skip

    def answer(self, path: str) -> Any:
        """What is there, None for nothing."""
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        return {"keys": [public_jwk(name) for name in self.published]} if path == "/keys" else None


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """An issuer that answers until the end of the block."""
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = None if issuer.away else issuer.answer(self.path)
            body = json.dumps(found).encode()
            self.send_response(503 if issuer.away else 200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

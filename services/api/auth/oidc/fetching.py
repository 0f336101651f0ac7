"""Asks an identity provider for a JSON object, within bounds of time and size."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

import httpcore

FETCH_SECONDS: Final = 5.0
MOST_BYTES: Final = 1_000_000
"""Of an answer."""


AWAY: Final = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)
"""What `fetch_json` raises where the provider cannot be reached; `TimeoutError` is an `OSError`."""


class Unanswered(Exception):
    """The identity provider did not answer with what was asked for."""


async def fetch_json(tls: ssl.SSLContext, url: str, *, form: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the JSON object at an address, or the answer to a form. Raises `Unanswered`, and what `AWAY` names."""
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), FETCH_SECONDS)
    method, content = ("GET", None) if form is None else ("POST", urlencode(form).encode())
    headers: dict[bytes | str, bytes | str] = {"Accept": "application/json"}
    if form is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    async with asyncio.timeout(2 * FETCH_SECONDS), httpcore.AsyncConnectionPool(ssl_context=tls) as network:  # noqa: SIM117
        async with network.stream(
            method, url, headers=headers, content=content, extensions={"timeout": timeouts}
        ) as answer:
            body = bytearray()
            async for part in answer.aiter_stream():
                body += part
                if len(body) > MOST_BYTES:
                    raise Unanswered(f"{url} is larger than {MOST_BYTES:,} bytes")
    if answer.status != 200:
        raise Unanswered(f"{url} answers {answer.status}")
    try:
        document = json.loads(bytes(body))
    except ValueError as error:
        raise Unanswered(f"{url} is no JSON") from error
    if not isinstance(document, dict):
        raise Unanswered(f"{url} is no JSON object")
    return document


async def discover(tls: ssl.SSLContext, issuer: str) -> dict[str, Any]:
    """Return what an issuer says of itself (OpenID Connect Discovery). Raises as `fetch_json` does."""
    return await fetch_json(tls, f"{issuer.rstrip('/')}/.well-known/openid-configuration")

"""HTTP with kept connections, by the standard library: what sends events and asks entitlements. Any thread may use it."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from tallystick.errors import ApiAway, ProducerError

_STALE: Final = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)
_MOST_IDLE: Final = 32


class Answer(NamedTuple):
    """What the server answered: headers by lower-case name; `content` is its JSON, None if it is none."""

    status: int
    headers: Mapping[str, str]
    content: Any


class Web:
    """The HTTP API at `base` (such as https://usage.example.com), as the holder of an API key."""

    def __init__(
        self, base: str, api_key: str, *, timeout_seconds: float = 10.0, context: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(base.rstrip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ProducerError(f"{base!r} is no address of the HTTP API; it looks like https://usage.example.com")
        if not api_key or not api_key.isascii() or any(character.isspace() for character in api_key):
            raise ProducerError(
                "the API key is empty, or contains what no key contains; make one, and pass it without quotes"
            )
        self._parts = parts
        self._timeout = timeout_seconds
        self._context = (context or ssl.create_default_context()) if parts.scheme == "https" else None
        self._headers = {
            "authorization": f"Bearer {api_key}",
            "accept": "application/json",
            "user-agent": "tallystick-producer",
        }
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the answer, whatever its status. Raises `ApiAway` if there is none.

        A request may arrive twice, where a kept connection breaks: what must count once carries its identity.
        """
        while True:
            with self._lock:
                connection, reused = (self._idle.pop(), True) if self._idle else (self._connection(), False)
            try:
                connection.request(method, self._parts.path + path, body, self._headers | dict(headers or {}))
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if reused and isinstance(error, _STALE):
                    continue  # the server had closed it; there are finitely many of these
                raise ApiAway(
                    f"{self._parts.netloc} does not answer ({error or type(error).__name__}); is the address right, and the API up?"
                ) from error
            self._keep(connection)
            return Answer(
                response.status, {name.lower(): value for name, value in response.headers.items()}, _json(content)
            )

    def close(self) -> None:
        """Close the connections that are kept. Later requests open others."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._context is not None:
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
                return
        connection.close()


def retry_after(answer: Answer) -> float | None:
    """Return the seconds that a Retry-After header asks to wait; None without one, or for a date."""
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isdecimal() else None


def explanation(answer: Answer) -> str:
    """Return what a problem+json says, with the fields that it names, else the status."""
    content = answer.content
    if not isinstance(content, dict):
        return f"HTTP {answer.status}"
    said = str(content.get("detail") or content.get("title") or f"HTTP {answer.status}")
    errors = content.get("errors")
    fields = (
        [f"{e['field']}: {e['message']}" for e in errors if isinstance(e, dict) and {"field", "message"} <= e.keys()]
        if isinstance(errors, list)
        else []
    )
    return "; ".join([said, *fields])


def problem(answer: Answer) -> str:
    """Return the slug of a problem's type, such as `limit-exceeded`; empty if it has none."""
    kind = answer.content.get("type") if isinstance(answer.content, dict) else None
    return str(kind or "").rpartition(":")[2]


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None

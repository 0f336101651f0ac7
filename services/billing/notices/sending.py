"""One HTTP request to an endpoint that others chose: bounded in time, to public addresses only, redirects not followed.

Of the answer only the status counts: its body is not read, and so can neither hold us up nor tell anybody what an address of ours said.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from ipaddress import ip_address
from time import monotonic
from typing import Any

import httpcore

from services.billing.notices.addresses import Address, refusal
from services.billing.notices.retrying import Attempted

DETAIL_CHARACTERS = 200
LONGEST_RETRY_AFTER = timedelta(hours=12)
AGENT = "Tallystick-Webhooks/1"

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class ForbiddenAddress(Exception):
    """A host resolves to an address that webhooks do not go to."""


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Ask the system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(info[4][0]) for info in found]


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the very addresses that it has judged: what a name resolves to a moment later does not matter.

    One address that is refused refuses the name: whoever mixes them means no good. TLS still checks the certificate against the name.
    """

    def __init__(self, resolve: Resolve, *, allow_private: bool) -> None:
        self._resolve, self._allow_private = resolve, allow_private
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's interface)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, judge, connect. Raises `ForbiddenAddress`, and what httpcore raises."""
        try:
            addresses = list(dict.fromkeys(await self._resolve(host, port)))
        except OSError as error:
            raise httpcore.ConnectError(f"{host} is not known: {error.strerror or error}") from error
        if not self._allow_private:
            for address in addresses:
                if what := refusal(address):
                    raise ForbiddenAddress(f"{host} leads to {address}, which is {what}")
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Never: no URL means one."""
        raise ForbiddenAddress(f"{path} is no network address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Sender:
    """Posts bodies. A connection for each request: the next one is judged anew."""

    def __init__(
        self,
        *,
        timeout: timedelta,
        allow_private: bool,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout = timeout
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or ssl.create_default_context(),
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=GuardedNetwork(resolve, allow_private=allow_private),
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempted:
        """Post a body; return what came of it. Never raises for what an endpoint or the network does."""
        started = monotonic()
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                status, retry_after = await self._request(url, headers, body)
        except (TimeoutError, httpcore.TimeoutException):
            return _failed("timeout", started, f"no answer within {self._timeout.total_seconds():g} s")
        except ForbiddenAddress as error:
            return _failed("forbidden", started, str(error))
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            return _failed("unreachable", started, str(error) or type(error).__name__)
        return _answered(status, retry_after, started)

    async def _request(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str | None]:
        sent = {"content-type": "application/json", "user-agent": AGENT, **headers}
        async with self._pool.stream("POST", url, headers=list(sent.items()), content=body) as response:
            retry_after = next((value for name, value in response.headers if name.lower() == b"retry-after"), None)
            return response.status, retry_after.decode("latin-1") if retry_after else None


def _failed(outcome: Any, started: float, detail: str) -> Attempted:
    return Attempted(outcome, _since(started), None, _short(detail))


def _answered(status: int, retry_after: str | None, started: float) -> Attempted:
    latency = _since(started)
    if 200 <= status < 300:
        return Attempted("delivered", latency, status)
    if 300 <= status < 400:
        return Attempted("redirected", latency, status, f"HTTP {status}: redirects are not followed")
    asked = None
    if retry_after and retry_after.isascii() and retry_after.isdigit():
        asked = timedelta(seconds=min(int(retry_after[:9]), LONGEST_RETRY_AFTER.total_seconds()))
    return Attempted("refused", latency, status, f"HTTP {status}", asked)


def _since(started: float) -> timedelta:
    return timedelta(seconds=monotonic() - started)


def _short(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:DETAIL_CHARACTERS]

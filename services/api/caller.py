"""From where a request came: what the audit trail keeps of it beside who made it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from starlette.types import Scope

_LONGEST_AGENT: Final = 300
"""Characters of a User-Agent that are kept."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A request's address and program, as far as they are known, and its id."""

    address: str = ""
    user_agent: str = ""
    request_id: str = ""

    @classmethod
    def of(cls, scope: Scope, request_id: str) -> Caller:
        """Read them off a request. The address is that of the connection, or what a trusted proxy forwarded: uvicorn has decided which."""
        client, _ = scope.get("client") or ("", 0)
        agent = dict(scope["headers"]).get(b"user-agent", b"").decode("utf-8", "replace").replace("\x00", "")
        return cls(_address(client), agent[:_LONGEST_AGENT], request_id)


NOBODY: Final = Caller()
CALLER: Final[ContextVar[Caller]] = ContextVar("caller", default=NOBODY)
"""Who calls, while a request is answered."""


def _address(text: str) -> str:
    """Return the address without an IPv6 zone, which Postgres does not know; nothing for what is none, such as a socket's path."""
    try:
        return str(ip_address(text.partition("%")[0]))
    except ValueError:
        return ""

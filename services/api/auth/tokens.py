"""Recognises access tokens."""

from __future__ import annotations

from typing import Protocol

from services.api.auth.principal import Principal


class Tokens(Protocol):
    """Recognises credentials of one kind."""

    async def recognise(self, token: str, /) -> Principal | None:
        """Return whom a credential stands for, None if it is not valid here."""


class NoTokens:
    """Where no identity provider is configured, no token is valid."""

    async def recognise(self, token: str) -> Principal | None:  # noqa: ARG002 (the protocol's)
        return None

"""Recognises access tokens."""

from __future__ import annotations

from typing import Protocol

from services.api.auth.principal import Principal


class Tokens(Protocol):
    """Recognises tokens that are no API keys."""

    async def recognise(self, token: str) -> Principal | None:
        """Return whom a token stands for, None if it is not valid here."""


class NoTokens:
    """Where no identity provider is configured, no token is valid."""

    async def recognise(self, token: str) -> Principal | None:  # noqa: ARG002 (the protocol's)
        return None

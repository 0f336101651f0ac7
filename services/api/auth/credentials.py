"""Tells kinds of credentials apart (pure)."""

from __future__ import annotations

import re
from typing import Final, Literal

from services.accounts.sessions.tokens import ACCESS

Kind = Literal["api_key", "session", "token"]

_TOKEN: Final = re.compile(r"^[\w-]+\.[\w-]+\.[\w-]*$", re.ASCII)


def kind_of(credential: str) -> Kind:
    """Return what a credential looks like: an access token of a session, a token of an identity provider (which has two dots), or an API key."""
    if credential.startswith(ACCESS):
        return "session"
    return "token" if _TOKEN.match(credential) else "api_key"

"""What a token whose signature is right still has to be, and which roles it gives (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.api.auth.principal import ROLES
from shared.errors import ConfigurationError

ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""What a token may be signed with. With a symmetric algorithm whoever can check a token could make one; `none` is no signature."""
_NOT_FOR_ACCESS: Final = frozenset({"id", "refresh", "logout", "offline"})
"""Kinds of tokens, in Keycloak's claim `typ`, that are not for calling an API with."""


class Unfit(Exception):
    """A token is not valid here. The text is for the log: who sent it is not told."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says that we go by."""

    subject: str
    issued_at: datetime
    name: str | None
    full_name: str | None
    email: str | None
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class RoleNames:
    """How the identity provider's names become our roles: where in a token they stand, and what each means."""

    paths: Sequence[Sequence[str]]
    roles: Mapping[str, str]

    @classmethod
    def parse(cls, claims: str, names: str) -> RoleNames:
        """Read the settings. Raises `ConfigurationError` that says how they look."""
        paths = [path.strip().split("/") for path in claims.split(",") if path.strip()]
        roles: dict[str, str] = {}
        for pair in filter(None, (part.strip() for part in names.split(","))):
            role, separator, name = pair.partition("=")
            if not separator or role.strip() not in ROLES or not name.strip():
                raise ConfigurationError(
                    f"TALLYSTICK_OIDC_ROLES: '{pair}' is not like admin=NAME, with one of the roles {', '.join(ROLES)}"
                )
            roles[name.strip().removeprefix("/")] = role.strip()
        return cls(paths, roles)

    def of(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """Return our roles in a token. What stands where a list of names should is no name."""
        found = (name for path in self.paths for name in _names_at(claims, path))
        return frozenset(self.roles[name] for name in found if name in self.roles)


def read(claims: Mapping[str, Any], now: datetime, leeway: timedelta, names: RoleNames) -> Claims:
    """Return what a token says, or raise `Unfit`. Issuer and audience were compared with the signature."""
    if now >= _time(claims, "exp") + leeway:
        raise Unfit("it has expired")
    issued_at = _time(claims, "iat")
    if issued_at > now + leeway:
        raise Unfit("it was issued in the future")
    if "nbf" in claims and _time(claims, "nbf") > now + leeway:
        raise Unfit("it is not valid yet")
    if str(claims.get("typ", "")).lower() in _NOT_FOR_ACCESS:
        raise Unfit("it is no access token")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or "\x00" in subject:
        raise Unfit("it names nobody")
    verified = claims.get("email_verified", True) is True
    return Claims(
        subject,
        issued_at,
        _text(claims, "preferred_username"),
        _text(claims, "name"),
        _text(claims, "email") if verified else None,
        names.of(claims),
    )


def is_stale(issued_at: datetime, permissions_updated_at: datetime) -> bool:
    """Tell whether a token is from before its user's roles or activity changed. Tokens tell their time in whole seconds."""
    return issued_at < permissions_updated_at.replace(microsecond=0)


def _names_at(claims: Mapping[str, Any], path: Sequence[str]) -> list[str]:
    found: Any = claims
    for step in path:
        found = found.get(step) if isinstance(found, Mapping) else None
    listed = found.split() if isinstance(found, str) else found
    return [name.removeprefix("/") for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def _time(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**33:
        raise Unfit(f"its {name} is no time")
    return datetime.fromtimestamp(value, UTC)


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= 255 and "\x00" not in value else None

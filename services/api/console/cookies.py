"""The cookies of one request: those that came, and those that go out with its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal, cast

from fastapi import Request
from fastapi.responses import Response

from services.api.problems import CONFLICT, Problem
from services.api.state import state_of

Name = Literal["session", "refresh", "csrf", "oidc", "flash", "language"]

MOST_CHARACTERS: Final = 3_800
"""Browsers keep about 4 KiB of a cookie, with its name and attributes; what is longer they drop without a word."""
NOTHING: Final = timedelta(0)


@dataclass(slots=True)
class Jar:
    """Cookies are HttpOnly and SameSite=Lax; over https Secure, too, and bound to this very host."""

    request: Request
    secure: bool
    _changed: dict[Name, tuple[str, timedelta | None]] = field(default_factory=dict)

    def get(self, name: Name) -> str:
        """Return the value of a cookie, as it will be after this request; empty without one."""
        changed = self._changed.get(name)
        return changed[0] if changed else self.request.cookies.get(self._called(name), "")

    def put(self, name: Name, value: str, keep: timedelta | None = None) -> None:
        """Set a cookie, until the browser closes or for so long. Raises `Problem` for one that no browser would keep."""
        if len(value) > MOST_CHARACTERS:
            raise Problem(
                CONFLICT,
                f"the token of the identity provider has {len(value):,} characters, and cookies {MOST_CHARACTERS:,}: "
                "let it name fewer groups",
            )
        self._changed[name] = (value, keep)

    def forget(self, *names: Name) -> None:
        """Take cookies away."""
        for name in names:
            if self.get(name):
                self._changed[name] = ("", NOTHING)

    def apply(self, response: Response) -> None:
        """Let an answer set what has changed."""
        for name, (value, keep) in self._changed.items():
            age = None if keep is None else int(keep.total_seconds())
            response.set_cookie(
                self._called(name), value, max_age=age, path="/", secure=self.secure, httponly=True, samesite="lax"
            )

    def _called(self, name: Name) -> str:
        return f"{'__Host-' if self.secure else ''}tallystick_{name}"


def jar_of(request: Request) -> Jar:
    """Return the cookies of a request: the same at each call."""
    kept = request.scope["state"]
    if "console_jar" not in kept:
        kept["console_jar"] = Jar(request, base_url(request).startswith("https:"))
    return cast("Jar", kept["console_jar"])


def base_url(request: Request) -> str:
    """Return how browsers see this server, without a slash at the end: as the setting says, else as it was asked."""
    return (state_of(request).settings.console_url or str(request.base_url)).rstrip("/")

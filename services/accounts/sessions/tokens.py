"""The tokens of sessions, and how many attempts there are to begin one (pure).

Both tokens are 256 random bits, stored as their SHA-256: they mean nothing to anybody but us, and are gone the moment their row is.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

ACCESS: Final = "tsa_"
REFRESH: Final = "tsr_"

WINDOW: Final = timedelta(minutes=15)
MOST_ATTEMPTS: Final = {"account": 10, "address": 50}
"""Within WINDOW, without one that succeeds. Behind one network address there may be many people."""
AT_ONCE: Final = timedelta(seconds=10)
"""Within which a refresh token that was exchanged may come again without being thought stolen: two windows of one browser do that."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The tokens of a session, to be handed over this once."""

    access_token: str
    refresh_token: str
    access_expires_at: datetime
    expires_at: datetime


def new_pair(now: datetime, logged_in_at: datetime, *, access: timedelta, whole: timedelta) -> Pair:
    """Return new tokens: the first is valid for `access`, the second until `whole` is over since the password was given."""
    end = logged_in_at + whole
    return Pair(
        ACCESS + secrets.token_urlsafe(32), REFRESH + secrets.token_urlsafe(32), min(now + access, end), end
    )  # fmt: skip


def hash_of(token: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def subject_of(email: str) -> str:
    """Return what attempts at an account are counted under: not the address, which may be anybody's."""
    return hashlib.sha256(email.strip().lower().encode()).hexdigest()


Verdict = Literal["valid", "expired", "again", "stolen"]


def judge(now: datetime, expires_at: datetime, used_at: datetime | None) -> Verdict:
    """Say what a refresh token that is presented is worth."""
    if now >= expires_at:
        return "expired"
    if used_at is None:
        return "valid"
    return "again" if now - used_at <= AT_ONCE else "stolen"


def wait_for(now: datetime, attempts: int, window_start: datetime, most: int) -> timedelta | None:
    """Return how long there are no more attempts, None if this one may be."""
    return max(window_start + WINDOW - now, timedelta(seconds=1)) if attempts > most else None

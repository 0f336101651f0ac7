"""Passwords: argon2id; bcrypt hashes from elsewhere are recognised, and to be made anew (pure)."""

from __future__ import annotations

from functools import cache
from typing import Final

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from shared.errors import TallystickError

LEAST_CHARACTERS: Final = 12
MOST_CHARACTERS: Final = 1_024
_BCRYPT_BYTES: Final = 72
"""What bcrypt looks at; hashes were made of passwords that were cut there."""

_ARGON2: Final = PasswordHasher()


class PasswordRefused(TallystickError):
    """A new password is too short, too long, or the user's own address."""


def check_new(password: str, email: str) -> None:
    """Raise `PasswordRefused` for a password that nobody should have. Length is what counts; no kinds of characters are asked for."""
    if not LEAST_CHARACTERS <= len(password) <= MOST_CHARACTERS:
        raise PasswordRefused(f"a password has {LEAST_CHARACTERS} to {MOST_CHARACTERS:,} characters")
    if password.casefold() == email.casefold():
        raise PasswordRefused("the e-mail address is no password")


@cache
def _nobodys() -> str:
    """What a password is compared with where none is stored."""
    return _ARGON2.hash("of nobody")


def hash_password(password: str) -> str:
    """Return what is stored of a password. Takes about 50 ms and 64 MiB."""
    return _ARGON2.hash(password)


def matches(password: str, stored: str | None) -> bool:
    """Tell whether a password is the one that is stored. Where nothing is, as much work is done: the time tells nobody who has an account."""
    if stored is not None and stored.startswith("$2"):
        return bcrypt.checkpw(password.encode()[:_BCRYPT_BYTES], stored.encode())
    try:
        return _ARGON2.verify(stored or _nobodys(), password) and stored is not None
    except (VerificationError, InvalidHashError):
        return False


def is_outdated(stored: str) -> bool:
    """Tell whether a password that matched should be hashed anew: bcrypt, or argon2 with less work than today."""
    return stored.startswith("$2") or _ARGON2.check_needs_rehash(stored)

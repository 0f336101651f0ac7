"""API keys (pure): how they look, and how they are kept.

`tsk_` and 320 random bits; its first ten characters are stored to find it by, and its hash, never the key itself. What the prefix gives
away leaves more than 256 bits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

PREFIX: Final = "tsk_"
PREFIX_LENGTH: Final = 10
"""Length of `api_keys.key_prefix`."""


def new_key() -> str:
    """Return a new key, to be shown once."""
    return PREFIX + secrets.token_urlsafe(40)


def prefix_of(key: str) -> str:
    """Return what a key is found by."""
    return key[:PREFIX_LENGTH]


def hash_of(key: str, pepper: str) -> str:
    """Return what is stored of a key: HMAC-SHA-256 with the pepper, or SHA-256 without one, in hex."""
    if pepper:
        return hmac.new(pepper.encode(), key.encode(), hashlib.sha256).hexdigest()
    return hashlib.sha256(key.encode()).hexdigest()


def matches(key: str, stored: str, pepper: str) -> bool:
    """Tell whether a key is the one whose hash is stored, in constant time. Keys from before there was a pepper still match."""
    with_pepper = hmac.compare_digest(hash_of(key, pepper), stored)
    return with_pepper or hmac.compare_digest(hash_of(key, ""), stored)

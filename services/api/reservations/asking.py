"""What is asked of a reservation and what is answered (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Final, Literal, TypeAlias
from uuid import UUID

MOST_REQUESTS: Final = 1_000_000_000
MOST_TOKENS: Final = 1_000_000_000_000
MOST_CREDITS: Final = Decimal(10**15)
CREDIT_DIGITS: Final = 12
"""Decimal digits of credits."""
LONGEST_SECONDS: Final = 86_400
DEFAULT_SECONDS: Final = 600
MOST_KEY_CHARACTERS: Final = 255

Outcome: TypeAlias = Literal["reserved", "repeated", "refused", "key_reused", "unknown"]
State: TypeAlias = Literal["held", "settled", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a gateway wants to reserve of a subscription, for at most `ttl_seconds`.

    `credits` count where the subscription is prepaid. `digest` tells requests with the same `key` apart: see `digest_of`.
    """

    subscription_id: UUID
    requests: int = 1
    tokens: int = 0
    credits: Decimal = Decimal(0)
    ttl_seconds: int = DEFAULT_SECONDS
    key: str | None = None
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation as it is stored; `state` is that of its quota leg."""

    id: UUID
    subscription_id: UUID
    state: State
    requests: int
    tokens: int
    credits: Decimal
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Remaining:
    """What may still be reserved or used after an answer; None: no limit applies. `concurrent`: reservations at once."""

    requests: int | None = None
    tokens: int | None = None
    credits: Decimal | None = None
    concurrent: int | None = None
    reset_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an `Ask`.

    reserved, or repeated: the reservation that its key made before. refused: `reasons` has all of them. key_reused: its key was used for
    another request. unknown: there is no such subscription.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    reservation: Reservation | None
    remaining: Remaining


def digest_of(*parts: object) -> bytes:
    """Return the digest of a request: what it said, not what was made of it, since prices change."""
    return sha256(repr(parts).encode()).digest()

"""What requests about reservations and their answers are made of."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Header
from pydantic import Field

from services.api.entitlements.asked import Named
from services.api.entitlements.routes import Remaining
from services.api.fields import Amount, Answer, Body, Instant, Name
from services.api.reservations.asking import (
    DEFAULT_SECONDS,
    LONGEST_SECONDS,
    MOST_KEY_CHARACTERS,
    MOST_REQUESTS,
    MOST_TOKENS,
)

MOST_IN_REQUEST: Final = 100
KEY_PATTERN: Final = r"^[\x21-\x7e]+$"

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MOST_KEY_CHARACTERS,
        pattern=KEY_PATTERN,
        description="The same key with the same body is the same reservation, for 48 hours.",
    ),
]


class Reserve(Named):
    """What is to be held, and for how long."""

    requests: int = Field(1, ge=0, le=MOST_REQUESTS)
    tokens: int = Field(0, ge=0, le=MOST_TOKENS, description="What the call uses at most: prompt and answer.")
    credits: Annotated[Amount, Field(ge=0)] | None = Field(
        None, description="Credits of a prepaid subscription; without them, what `tokens` of `model` cost at most."
    )
    model: Name | None = None
    ttl_seconds: int = Field(DEFAULT_SECONDS, ge=1, le=LONGEST_SECONDS, description="Longer than the call can take.")


class Holding(Answer):
    """What a reservation took."""

    requests: int
    tokens: int
    credits: Amount


class Reserved(Answer):
    """A reservation: name its `id` in the `data.reservation_id` of the usage event."""

    id: UUID
    subscription: UUID
    state: Literal["held", "settled", "cancelled", "expired"]
    held: Holding
    created_at: Instant
    expires_at: Instant


class ReservedNow(Reserved):
    """A reservation that was made, and what remains after it."""

    remaining: Remaining
    reset_at: Instant | None


class ReserveKeyed(Reserve):
    """One of several."""

    idempotency_key: str | None = Field(None, min_length=1, max_length=MOST_KEY_CHARACTERS, pattern=KEY_PATTERN)


class ReserveMany(Body):
    """What is to be held for several calls, each by itself."""

    reservations: list[ReserveKeyed] = Field(min_length=1, max_length=MOST_IN_REQUEST)


class Result(Answer):
    """What became of one of several: a reservation, or the problem that it would have been answered with alone."""

    status: int = Field(description="201, 200 (its key had made it before), 404, 409, 422.")
    reservation: ReservedNow | None
    problem: dict[str, Any] | None


class Results(Answer):
    """What became of each, in the order of the request."""

    results: list[Result]

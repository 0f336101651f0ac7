"""Routes of reservations."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Header, Request
from pydantic import Field
from starlette.responses import Response

from services.api.auth.asking import Asking
from services.api.auth.principal import Principal
from services.api.entitlements import asked
from services.api.entitlements.decision import Left, key_reasons
from services.api.entitlements.routes import Remaining, plain, remaining
from services.api.fields import Amount, Instant
from services.api.fields import Answer as Answered
from services.api.problems import CONFLICT, KEY_REUSED, LIMIT_EXCEEDED, NOT_FOUND, Problem
from services.api.reservations.asking import (
    DEFAULT_SECONDS,
    LONGEST_SECONDS,
    MOST_KEY_CHARACTERS,
    MOST_REQUESTS,
    MOST_TOKENS,
    Answer,
    Ask,
    Reservation,
    digest_of,
)
from services.api.state import State, state_of

router = APIRouter(prefix="/api/v1/reservations", tags=["reservations"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MOST_KEY_CHARACTERS,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same body is the same reservation, for 48 hours.",
    ),
]


class Reserve(asked.Named):
    """What is to be held, and for how long."""

    requests: int = Field(1, ge=0, le=MOST_REQUESTS)
    tokens: int = Field(0, ge=0, le=MOST_TOKENS, description="What the call uses at most: prompt and answer.")
    credits: Annotated[Amount, Field(ge=0)] | None = Field(
        None, description="Credits of a prepaid subscription; without them, what `tokens` of `model` cost at most."
    )
    model: str | None = Field(None, min_length=1, max_length=512)
    ttl_seconds: int = Field(DEFAULT_SECONDS, ge=1, le=LONGEST_SECONDS, description="Longer than the call can take.")


class Holding(Answered):
    """What a reservation took."""

    requests: int
    tokens: int
    credits: Amount


class Reserved(Answered):
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


@router.post("", status_code=201, response_model=ReservedNow, responses={200: {"model": ReservedNow}})
async def reserve(
    request: Request, principal: Asking, body: Reserve, idempotency_key: IdempotencyKey = None
) -> Response:
    """Take a part of quotas and credits before a call, whole or not at all. 409 names every reason; 200: its key had made it before."""
    state = state_of(request)
    subscription, key = await asked.find(state.entitlements, principal, body)
    ask = Ask(
        subscription, requests=body.requests, tokens=body.tokens, credits=await _credits(state, subscription, body),
        ttl_seconds=body.ttl_seconds, key=idempotency_key,
        digest=digest_of(body.requests, body.tokens, body.credits and plain(body.credits.normalize()), body.model, body.ttl_seconds),
    )  # fmt: skip
    reasons = key_reasons(key, state.entitlements.minute(key, count=True))
    if reasons:
        raise Problem(LIMIT_EXCEEDED, _why(reasons), more={"reasons": reasons})
    answer = await state.reservations.reserve(ask)
    if answer.reservation is None:
        raise _refusal(answer, subscription)
    content = _reserved(answer.reservation) | {"remaining": _remaining(answer), "reset_at": answer.remaining.reset_at}
    return _json(content, 201 if answer.outcome == "reserved" else 200)


@router.get("/{reservation_id}", response_model=Reserved)
async def read_reservation(request: Request, principal: Asking, reservation_id: UUID) -> Response:
    """A reservation: whether it is held, or settled by its usage, cancelled or expired. Finished ones are known for 48 hours."""
    return _json(_reserved(await _find(state_of(request), principal, reservation_id)))


@router.delete("/{reservation_id}", response_model=Reserved)
async def cancel_reservation(request: Request, principal: Asking, reservation_id: UUID) -> Response:
    """Give back what a reservation holds, because its call will not be made. Again, or after its expiry, it changes nothing; 409 after its usage."""
    state = state_of(request)
    await _find(state, principal, reservation_id)
    found = await state.reservations.cancel(reservation_id)
    if found is None:
        raise _unknown(reservation_id)
    if found.state == "settled":
        raise Problem(CONFLICT, "the usage of this reservation is counted: it cannot be cancelled any more")
    return _json(_reserved(found))


async def _credits(state: State, subscription: UUID, body: Reserve) -> Any:
    """Return the credits that are to be held: those that are given, or what the estimate costs."""
    if body.credits is not None or body.model is None:
        return body.credits or 0
    standing = await state.entitlements.standing(subscription)
    if standing is None or standing.credits is None:
        return 0
    return await state.reservations.estimates.credits(body.model, standing.currency, body.requests, body.tokens)


async def _find(state: State, principal: Principal, id_: UUID) -> Reservation:
    """Return a reservation that the asker may see. Raises `Problem` (404)."""
    found = await state.reservations.find(id_)
    if found is None:
        raise _unknown(id_)
    reservation, owner = found
    if not (principal.reports_for_all or principal.reads_all or principal.user_id == owner):
        raise _unknown(id_)
    return reservation


def _refusal(answer: Answer, subscription: UUID) -> Problem:
    if answer.outcome == "unknown":
        return asked.unknown(subscription)
    if answer.outcome == "key_reused":
        return Problem(KEY_REUSED, "this Idempotency-Key reserved something else before: take a new one")
    reset_at = answer.remaining.reset_at
    more = {
        "reasons": list(answer.reasons),
        "remaining": _remaining(answer),
        "reset_at": reset_at and reset_at.isoformat(),
    }
    return Problem(LIMIT_EXCEEDED, _why(answer.reasons), more=more)


def _why(reasons: Any) -> str:
    return f"nothing is reserved, because of {', '.join(reasons)}: ask for less, or wait"


def _remaining(answer: Answer) -> dict[str, Any]:
    left = answer.remaining
    return remaining(Left(left.requests, left.tokens, left.credits, left.concurrent))


def _reserved(reservation: Reservation) -> dict[str, Any]:
    return {
        "id": reservation.id,
        "subscription": reservation.subscription_id,
        "state": reservation.state,
        "held": {
            "requests": reservation.requests,
            "tokens": reservation.tokens,
            "credits": plain(reservation.credits),
        },
        "created_at": reservation.created_at,
        "expires_at": reservation.expires_at,
    }


def _unknown(id_: UUID) -> Problem:
    return Problem(NOT_FOUND, f"there is no reservation {id_}, or it was finished long ago")


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")

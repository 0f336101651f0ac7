"""Routes of reservations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.api.answering import content_of
from services.api.auth.asking import Asking
from services.api.auth.principal import Principal
from services.api.entitlements import asked
from services.api.entitlements.decision import Left, key_reasons
from services.api.entitlements.routes import plain, remaining
from services.api.problems import CONFLICT, KEY_REUSED, LIMIT_EXCEEDED, NOT_FOUND, Problem
from services.api.reservations.asking import Answer, Ask, Reservation, digest_of
from services.api.reservations.schemas import IdempotencyKey, Reserve, Reserved, ReservedNow, ReserveMany, Results
from services.api.state import State, state_of

router = APIRouter(prefix="/api/v1/reservations", tags=["reservations"])


@router.post("", status_code=201, response_model=ReservedNow, responses={200: {"model": ReservedNow}})
async def reserve(
    request: Request, principal: Asking, body: Reserve, idempotency_key: IdempotencyKey = None
) -> Response:
    """Take a part of quotas and credits before a call, whole or not at all. 409 names every reason; 200: its key had made it before."""
    status, content = await _reserve(state_of(request), principal, body, idempotency_key)
    return _json(content, status)


@router.post("/batch", response_model=Results)
async def reserve_many(request: Request, principal: Asking, body: ReserveMany) -> Response:
    """The same for up to 100 calls at once: each is made or refused by itself."""
    state = state_of(request)
    asked_for = [_reserve(state, principal, one, one.idempotency_key) for one in body.reservations]
    answers = await asyncio.gather(*asked_for, return_exceptions=True)
    return _json({"results": [_result(answer) for answer in answers]})


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


async def _reserve(state: State, principal: Principal, body: Reserve, key: str | None) -> tuple[int, dict[str, Any]]:
    """Return status and content of the answer to one. Raises `Problem`."""
    subscription, named = await asked.find(state.entitlements, principal, body)
    ask = Ask(
        subscription, requests=body.requests, tokens=body.tokens, credits=await _credits(state, subscription, body),
        ttl_seconds=body.ttl_seconds, key=key,
        digest=digest_of(body.requests, body.tokens, body.credits and plain(body.credits.normalize()), body.model, body.ttl_seconds),
    )  # fmt: skip
    reasons = key_reasons(named, state.entitlements.minute(named, count=True))
    if reasons:
        raise Problem(LIMIT_EXCEEDED, _why(reasons), more={"reasons": reasons})
    answer = await state.reservations.reserve(ask)
    if answer.reservation is None:
        raise _refusal(answer, subscription)
    content = _reserved(answer.reservation) | {"remaining": _remaining(answer), "reset_at": answer.remaining.reset_at}
    return 201 if answer.outcome == "reserved" else 200, content


def _result(answer: tuple[int, dict[str, Any]] | BaseException) -> dict[str, Any]:
    """Return what became of one of several. What is no refusal (the database is away) is the answer to all."""
    if isinstance(answer, Problem):
        return {"status": answer.kind.status, "reservation": None, "problem": content_of(answer)}
    if isinstance(answer, BaseException):
        raise answer
    status, reservation = answer
    return {"status": status, "reservation": reservation, "problem": None}


async def _credits(state: State, subscription: UUID, body: Reserve) -> Decimal:
    """Return the credits that are to be held: those that are given, or what the estimate costs."""
    if body.credits is not None or body.model is None:
        return body.credits or Decimal(0)
    standing = await state.entitlements.standing(subscription)
    if standing is None or standing.credits is None:
        return Decimal(0)
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


def _why(reasons: Sequence[str]) -> str:
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

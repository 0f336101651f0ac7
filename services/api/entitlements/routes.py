"""Routes that answer whether a request may go."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from pydantic import Field
from starlette.responses import Response

from services.api.auth.asking import Asking, asking_of
from services.api.entitlements import asked
from services.api.entitlements.decision import Held, Left, Verdict
from services.api.fields import Amount, Answer, Instant
from services.api.problems import INVALID_REQUEST, NOT_FOUND, Problem
from services.api.state import state_of

router = APIRouter(prefix="/api/v1/entitlements", tags=["entitlements"])


class Remaining(Answer):
    """What may still be used or reserved; null: no limit applies, or (`concurrent`) it is not known."""

    requests: int | None
    tokens: int | None
    credits: Amount | None
    concurrent: int | None = Field(description="Reservations at once.")


class HeldNow(Answer):
    """What open reservations hold."""

    reservations: int
    requests: int
    tokens: int
    credits: Amount


class KeyState(Answer):
    """What remains of an API key's own limits; null: no limit applies."""

    id: UUID
    active: bool
    remaining_this_minute: int | None
    remaining_today: int | None = Field(description="Of the UTC day, as far as its usage is counted.")


class Entitlement(Answer):
    """Whether a request may go, and if not, every reason."""

    subscription: UUID
    allowed: bool
    status: str
    reasons: list[str] = Field(
        description="Of the subscription: its status, what it is suspended for, quota_requests, quota_tokens, credits_exhausted, "
        "concurrent_requests; of the key: key_inactive, key_requests_per_day, rate_limited."
    )
    remaining: Remaining
    held: HeldNow | None = Field(description="Null where the answer comes from a status.")
    reset_at: Instant | None
    as_of: Instant
    source: Literal["database", "status"] = Field(
        description="database: as Postgres had it; status: as it was published, because Postgres does not answer."
    )
    api_key: KeyState | None


class Check(asked.Named):
    """Who wants to make a request."""

    count: bool = Field(True, description="Whether it counts against the key's limit by minute.")


async def read_entitlement(
    request: Request,
    principal: Asking,
    subscription_id: UUID,
    api_key_id: Annotated[UUID | None, Query(description="Judge by the limits of this API key, too.")] = None,
) -> Response:
    """Whether a subscription may be used now, why not, what remains, and when it resets. Counts nothing."""
    entitlements = state_of(request).entitlements
    if not await asked.owns(entitlements, principal, subscription_id):
        raise asked.unknown(subscription_id)
    key = await entitlements.key(api_key_id) if api_key_id else None
    if api_key_id and (key is None or key.subscription_id != subscription_id):
        raise Problem(NOT_FOUND, f"the subscription has no API key {api_key_id}")
    return _answer(await entitlements.verdict(subscription_id, key), subscription_id)


class _Direct(APIRoute):
    """Runs `read_entitlement` without FastAPI's dependencies: a gateway asks before every call, and they take most of the time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what runs the route."""

        async def handle(request: Request) -> Response:
            principal = await asking_of(request)
            subscription = _id(request.path_params["subscription_id"], "path.subscription_id")
            key = request.query_params.get("api_key_id")
            return await read_entitlement(
                request, principal, subscription, None if key is None else _id(key, "query.api_key_id")
            )

        return handle


def _id(text: str, field: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        message = "give the id, a UUID"
        raise Problem(INVALID_REQUEST, f"{field}: {message}", errors=[{"field": field, "message": message}]) from None


router.add_api_route(
    "/{subscription_id}", read_entitlement, methods=["GET"], response_model=Entitlement, route_class_override=_Direct
)


@router.post("/check", response_model=Entitlement)
async def check_entitlement(request: Request, principal: Asking, body: Check) -> Response:
    """The same for a subscription or an API key, of which the hash is enough; counts the request against the key's limit by minute."""
    entitlements = state_of(request).entitlements
    subscription, key = await asked.find(entitlements, principal, body)
    return _answer(await entitlements.verdict(subscription, key, count=body.count), subscription)


def _answer(verdict: Verdict | None, subscription: UUID) -> Response:
    """Return the answer as it is sent: pydantic would take longer than all the rest."""
    if verdict is None:
        raise asked.unknown(subscription)
    return Response(msgspec.json.encode(entitlement(verdict)), media_type="application/json", headers=limits(verdict))


def entitlement(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as an `Entitlement`."""
    key, minute = verdict.key, verdict.minute
    return {
        "subscription": verdict.subscription_id,
        "allowed": verdict.allowed,
        "status": verdict.status,
        "reasons": verdict.reasons,
        "remaining": remaining(verdict.left),
        "held": verdict.held and _held(verdict.held),
        "reset_at": verdict.reset_at,
        "as_of": verdict.as_of,
        "source": verdict.source,
        "api_key": key
        and {
            "id": key.id,
            "active": key.active,
            "remaining_this_minute": minute and minute.remaining,
            "remaining_today": key.left_today,
        },
    }


def remaining(left: Left) -> dict[str, Any]:
    """Return what is left as a `Remaining`."""
    credits_left = None if left.credits is None else plain(left.credits)
    return {"requests": left.requests, "tokens": left.tokens, "credits": credits_left, "concurrent": left.concurrent}


def _held(held: Held) -> dict[str, Any]:
    return {
        "reservations": held.reservations, "requests": held.requests, "tokens": held.tokens, "credits": plain(held.credits)
    }  # fmt: skip


def limits(verdict: Verdict) -> dict[str, str]:
    """Return the RateLimit-… headers of the key's limit by minute, and Retry-After where that is what refuses."""
    minute = verdict.minute
    if minute is None:
        return {}
    return minute.headers if minute.allowed else {**minute.headers, "Retry-After": str(max(1, math.ceil(minute.wait)))}


def plain(amount: Decimal) -> str:
    """Spell an amount without an exponent."""
    return f"{amount:f}"

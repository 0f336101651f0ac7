"""Routes that take usage events."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.api.auth.asking import Asking
from services.api.auth.principal import Principal
from services.api.events.bodies import PLAIN, Records, inflate, records
from services.api.events.intake import Intake
from services.api.events.schemas import ANSWERS, ASKED
from services.api.problems import INVALID_REQUEST, Problem
from services.api.raw_route import RawRoute
from services.api.state import state_of

router = APIRouter(prefix="/api/v1", tags=["events"], route_class=RawRoute)

LONGEST_KEY: Final = 255
"""Most characters of an Idempotency-Key."""


@router.post("/events", response_model=None, response_class=Response, responses=ANSWERS, openapi_extra=ASKED)
async def send_events(request: Request, principal: Asking) -> Response:
    """Report usage: one CloudEvent or up to 1,000. Answered once Kafka has the events; one bad event does not reject the others."""
    state, headers = state_of(request), request.headers
    key = headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= LONGEST_KEY:
        raise Problem(INVALID_REQUEST, f"Idempotency-Key has 1 to {LONGEST_KEY} characters")
    body = inflate(await request.body(), headers.get("content-encoding", ""), state.settings.api_inflated_bytes)
    sent = records(body, headers)
    if key is None:
        return Response(await _take(state.events, principal, sent), media_type=PLAIN)
    answer, replayed = await state.replays.once(
        (str(principal.key_id or principal.user_id), key),
        _fingerprint(sent),
        state.clock.now(),
        lambda: _take(state.events, principal, sent),
    )
    return Response(answer, media_type=PLAIN, headers={"Idempotency-Replayed": "true"} if replayed else {})


async def _take(intake: Intake, principal: Principal, sent: Records) -> bytes:
    taken = await intake.take(principal, sent.values)
    if not sent.listed and taken.rejected:
        (result,) = taken.results
        raise Problem(INVALID_REQUEST, f"{result.reason}: {result.detail}", more=msgspec.to_builtins(taken))
    return msgspec.json.encode(taken)


def _fingerprint(sent: Records) -> bytes:
    digest = blake2b(b"[" if sent.listed else b"", digest_size=16)
    for value in sent.values:
        digest.update(len(value).to_bytes(8, "big"))
        digest.update(value)
    return digest.digest()

"""Routes that take usage events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from services.api.auth.asking import Asking
from services.api.auth.principal import Principal
from services.api.events.bodies import Records, inflate, records
from services.api.events.intake import Intake, Result
from services.api.events.schemas import ANSWERS, BODY
from services.api.problems import INVALID_REQUEST, Problem
from services.api.state import state_of

router = APIRouter(prefix="/api/v1", tags=["events"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key with the same body gets the same answer, for an hour.",
    ),
]
_encode = msgspec.json.encode


@router.post(
    "/events", response_model=None, response_class=Response, responses=ANSWERS, openapi_extra={"requestBody": BODY}
)
async def send_events(request: Request, principal: Asking, idempotency_key: IdempotencyKey = None) -> Response:
    """Report usage: one CloudEvent or up to 1,000. Answered once Kafka has the events; one bad event does not reject the others."""
    state = state_of(request)
    body = inflate(await request.body(), request.headers.get("content-encoding", ""), state.settings.api_inflated_bytes)
    sent = records(body, request.headers)
    if idempotency_key is None:
        return Response(await _take(state.events, principal, sent), media_type="application/json")
    answer, replayed = await state.replays.once(
        (str(principal.key_id or principal.user_id), idempotency_key),
        _fingerprint(sent),
        state.clock.now(),
        lambda: _take(state.events, principal, sent),
    )
    return Response(answer, media_type="application/json", headers={"Idempotency-Replayed": "true"} if replayed else {})


async def _take(intake: Intake, principal: Principal, sent: Records) -> bytes:
    results = await intake.take(principal, sent.values)
    answer = summary(results)
    if not sent.listed and answer["rejected"]:
        raise Problem(INVALID_REQUEST, f"{results[0].reason}: {results[0].detail}", more=msgspec.to_builtins(answer))
    return _encode(answer)


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Return the answer that tells of these results."""
    count = Counter(result.status for result in results)
    return {
        "accepted": count["accepted"],
        "duplicates": count["duplicate"],
        "rejected": count["rejected"],
        "results": results,
    }


def _fingerprint(sent: Records) -> bytes:
    digest = blake2b(b"[" if sent.listed else b"", digest_size=16)
    for value in sent.values:
        digest.update(len(value).to_bytes(8, "big"))
        digest.update(value)
    return digest.digest()

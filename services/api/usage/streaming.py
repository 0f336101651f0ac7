"""The stream of live counters: server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from services.api.auth.asking import Asking
from services.api.scope import Owner
from services.api.state import state_of
from services.api.subscriptions.routes import limit
from services.api.usage.live import News
from shared.clock import Clock

router = APIRouter(prefix="/api/v1", tags=["usage"])

SILENCE_SECONDS: Final = 15.0
"""After so long without news a comment is sent, so that nobody between takes the connection for dead."""
STREAM_SECONDS: Final = 900.0
"""A stream ends after so long: its client comes back with its credential, which may have been revoked meanwhile."""
RETRY_MILLISECONDS: Final = 2_000

_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Server-sent events. `event: counters` has the subscriptions that changed (at first all of them) as JSON; its id is "
        "of the state, to come back with as Last-Event-ID. Comments keep the connection alive.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/usage/stream", response_class=StreamingResponse, responses=_STREAM)
async def stream_usage(
    request: Request,
    principal: Asking,  # noqa: ARG001 (it must be valid)
    user: Owner,
    last_event_id: Annotated[
        str | None, Header(max_length=100, description="The id of the last event that was received.")
    ] = None,
) -> StreamingResponse:
    """Live counters of the subscriptions: what is used and what remains, within seconds of the usage.

    It ends after 15 minutes, for the client to come back.
    """
    state = state_of(request)
    news = state.live.news(user, last_event_id, SILENCE_SECONDS)
    first = await anext(news, None)  # what is refused, is refused before the answer begins
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(_told(first, news, state.clock), headers=headers, media_type="text/event-stream")


async def _told(first: News | None, news: AsyncGenerator[News | None, None], clock: Clock) -> AsyncGenerator[str, None]:
    ends = asyncio.get_running_loop().time() + STREAM_SECONDS
    async with aclosing(news):
        yield f"retry: {RETRY_MILLISECONDS}\n\n"
        yield _event(first, clock)
        async for each in news:
            yield _event(each, clock)
            if asyncio.get_running_loop().time() >= ends:
                break


def _event(news: News | None, clock: Clock) -> str:
    if news is None:
        return ": nothing new\n\n"
    data = {"as_of": clock.now().isoformat(), "subscriptions": [_counters(each) for each in news.changed]}
    return f"id: {news.id}\nevent: counters\ndata: {json.dumps(data)}\n\n"


def _counters(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "subscription_id": str(row["id"]),
        "status": row["status"],
        "suspended_reasons": list(row["suspended_reasons"]),
        "requests": limit(row["quota_requests"], row["used_requests"]).model_dump(),
        "tokens": limit(row["quota_tokens"], row["used_tokens"]).model_dump(),
        "quota_period_start": row["quota_period_start"].isoformat(),
        "reset_at": row["reset_at"] and row["reset_at"].isoformat(),
    }

"""The route that takes OTLP traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.api import metrics
from services.api.auth.asking import Asking
from services.api.events.bodies import inflate
from services.api.events.intake import Result
from services.api.raw_route import RawRoute
from services.api.state import state_of
from services.api.traces import otlp
from tallystick.otel import Span, event_of_span

router = APIRouter(prefix="/v1", tags=["events"], route_class=RawRoute)

_TRACE_ID, _SPAN_ID = 32, 16
"""Digits of a trace's and a span's id."""
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "An OTLP ExportTraceServiceRequest.",
    "content": {
        otlp.PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
        otlp.JSON: {"schema": {"type": "object", "properties": {"resourceSpans": {"type": "array"}}}},
    },
}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "An OTLP ExportTraceServiceResponse, in the encoding of the request, after Kafka acknowledged the events.",
        "content": {
            otlp.PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
            otlp.JSON: {"schema": {"type": "object", "properties": {"partialSuccess": {"type": "object"}}}},
        },
    }
}


@router.post(
    "/traces", response_model=None, response_class=Response, responses=_ANSWERS, openapi_extra={"requestBody": _BODY}
)
async def export_traces(request: Request, principal: Asking) -> Response:
    """Report usage as OpenTelemetry spans (OTLP/HTTP): spans with GenAI attributes become usage events, others are ignored."""
    state = state_of(request)
    media = otlp.media_type(request.headers.get("content-type", ""))
    body = inflate(await request.body(), request.headers.get("content-encoding", ""), state.settings.api_inflated_bytes)
    sent = otlp.spans(body, media)
    used = [(span, event) for span in sent if (event := event_of_span(span)) is not None]
    metrics.SPANS.labels("usage").inc(len(used))
    metrics.SPANS.labels("other").inc(len(sent) - len(used))
    nameless = sum(not _named(span) for span, _ in used)
    taken = await state.events.take(principal, [msgspec.json.encode(event) for span, event in used if _named(span)])
    return Response(_answer(media, taken.results, nameless), media_type=media)


def _named(span: Span) -> bool:
    """Tell whether a span has the ids that make its identity."""
    return len(span.trace_id) == _TRACE_ID and len(span.span_id) == _SPAN_ID


def _answer(media: str, results: Sequence[Result], nameless: int) -> bytes:
    reasons = dict.fromkeys(f"{r.reason}: {r.detail} ({r.id})" for r in results if r.status == "rejected")
    said = [*reasons][:3] + ["a span needs a trace id of 16 bytes and a span id of 8"] * bool(nameless)
    rejected = nameless + sum(result.status == "rejected" for result in results)
    return otlp.answer(media, rejected, "; ".join(said))

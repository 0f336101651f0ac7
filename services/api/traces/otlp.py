"""OTLP/HTTP trace requests and their answers, in protobuf and in JSON (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final

import msgspec
from google.protobuf.message import DecodeError
from msgspec import Meta, Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from services.api.problems import MALFORMED, UNSUPPORTED, Problem
from tallystick.otel import Span

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
_ERROR: Final = int(Status.STATUS_CODE_ERROR)
_SCALARS: Final = ("string_value", "bool_value", "int_value", "double_value")


def media_type(content_type: str) -> str:
    """Return which of the two encodings a request has. Raises `Problem` (415)."""
    found = content_type.partition(";")[0].strip().lower()
    if found in (PROTOBUF, JSON):
        return found
    raise Problem(
        UNSUPPORTED,
        f"Content-Type {found or '(none)'} is not known here: send OTLP as {PROTOBUF} or {JSON}",
        headers={"Accept": f"{PROTOBUF}, {JSON}"},
    )


def spans(body: bytes, media: str) -> list[Span]:
    """Return the spans of a request, with those attributes that are plain values. Raises `Problem` (400)."""
    try:
        return list(_of_protobuf(body) if media == PROTOBUF else _of_json(body))
    except (DecodeError, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Problem(MALFORMED, f"the body is not an OTLP ExportTraceServiceRequest: {str(error)[:200]}") from None


def answer(media: str, rejected: int, message: str) -> bytes:
    """Return an ExportTraceServiceResponse. `message` says why spans were rejected, or of what a sender should know."""
    if media == PROTOBUF:
        response = ExportTraceServiceResponse()
        if rejected or message:
            response.partial_success.rejected_spans = rejected
            response.partial_success.error_message = message
        return bytes(response.SerializeToString())
    partial = {"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": message}}
    return msgspec.json.encode(partial if rejected or message else {})


def _of_protobuf(body: bytes) -> Iterator[Span]:
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Span(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _attributes(span.attributes),
                    resource,
                    span.status.code == _ERROR,
                    span.status.message,
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        if kind in _SCALARS:
            found[pair.key] = getattr(pair.value, kind)
    return found


# --- JSON: lowerCamelCase, ids in hexadecimal, 64-bit integers as text or numbers ------------------------------------

_Nanoseconds = Annotated[int, Meta(ge=0)]
_Hex = Annotated[str, Meta(pattern="^[0-9a-fA-F]*$", max_length=32)]


class _Value(Struct, rename="camel"):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | None = None
    double_value: float | None = None

    def plain(self) -> str | bool | int | float | None:
        for value in (self.string_value, self.bool_value, self.int_value, self.double_value):
            if value is not None:
                return value
        return None


class _Pair(Struct):
    key: str = ""
    value: _Value | None = None


class _Status(Struct):
    code: int = 0
    message: str = ""


class _Span(Struct, rename="camel"):
    trace_id: _Hex = ""
    span_id: _Hex = ""
    start_time_unix_nano: _Nanoseconds = 0
    end_time_unix_nano: _Nanoseconds = 0
    attributes: list[_Pair] = []
    status: _Status | None = None


class _Scope(Struct):
    spans: list[_Span] = []


class _Resource(Struct):
    attributes: list[_Pair] = []


class _ResourceSpans(Struct, rename="camel"):
    resource: _Resource | None = None
    scope_spans: list[_Scope] = []


class _Request(Struct, rename="camel"):
    resource_spans: list[_ResourceSpans] = []


_decode = msgspec.json.Decoder(_Request, strict=False).decode


def _of_json(body: bytes) -> Iterator[Span]:
    for of_resource in _decode(body).resource_spans:
        resource = _plain(of_resource.resource.attributes) if of_resource.resource else {}
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                status = span.status or _Status()
                yield Span(
                    span.trace_id.lower(),
                    span.span_id.lower(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _plain(span.attributes),
                    resource,
                    status.code == _ERROR,
                    status.message,
                )


def _plain(pairs: Iterable[_Pair]) -> dict[str, Any]:
    return {pair.key: value for pair in pairs if pair.value and (value := pair.value.plain()) is not None}

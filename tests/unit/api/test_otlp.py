"""OTLP requests: protobuf and JSON say the same, what is broken is refused, what is foreign is passed over."""

from __future__ import annotations

import json

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from services.api.problems import Problem
from services.api.traces import otlp
from tallystick.otel import Span


def request_of(*spans: Span) -> ExportTraceServiceRequest:
    """Return a request with one resource for each span."""
    request = ExportTraceServiceRequest()
    for span in spans:
        part = request.resource_spans.add()
        part.resource.attributes.extend(pair(*item) for item in span.resource.items())
        one = part.scope_spans.add().spans.add(
            trace_id=bytes.fromhex(span.trace_id),
            span_id=bytes.fromhex(span.span_id),
            start_time_unix_nano=span.start_ns,
            end_time_unix_nano=span.end_ns,
            name="chat",
        )
        one.attributes.extend(pair(*item) for item in span.attributes.items())
        one.attributes.append(
            KeyValue(key="a.list", value=AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1)])))
        )
        if span.failed:
            one.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=span.status_message))
    return request


def pair(name: str, value: object) -> KeyValue:
    match value:
        case bool():
            return KeyValue(key=name, value=AnyValue(bool_value=value))
        case int():
            return KeyValue(key=name, value=AnyValue(int_value=value))
        case float():
            return KeyValue(key=name, value=AnyValue(double_value=value))
    return KeyValue(key=name, value=AnyValue(string_value=str(value)))


def as_json(request: ExportTraceServiceRequest) -> bytes:
    """Spell a request in OTLP's JSON, which has ids in hexadecimal where protobuf's own has base64."""
    document = MessageToDict(request, use_integers_for_enums=True)
    given = [s for r in request.resource_spans for c in r.scope_spans for s in c.spans]
    spelt = [s for r in document.get("resourceSpans", ()) for c in r["scopeSpans"] for s in c["spans"]]
    for span, spelling in zip(given, spelt, strict=True):
        spelling |= {"traceId": span.trace_id.hex(), "spanId": span.span_id.hex()}
    return json.dumps(document).encode()


values = st.one_of(
    st.text(max_size=20), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, width=32, allow_infinity=False)
)  # fmt: skip
attributes = st.dictionaries(st.text(min_size=1, max_size=20), values, max_size=5)
any_span = st.builds(
    Span,
    trace_id=st.binary(min_size=16, max_size=16).map(bytes.hex),
    span_id=st.binary(min_size=8, max_size=8).map(bytes.hex),
    start_ns=st.integers(0, 2**64 - 1),
    end_ns=st.integers(0, 2**64 - 1),
    attributes=attributes,
    resource=attributes,
    failed=st.just(True),
    status_message=st.text(max_size=20),
)


@given(st.lists(any_span, max_size=3))
def test_protobuf_and_json_are_read_alike(spans: list[Span]) -> None:
    request = request_of(*spans)
    assert otlp.spans(request.SerializeToString(), otlp.PROTOBUF) == spans
    assert otlp.spans(as_json(request), otlp.JSON) == spans


def test_integers_of_json_may_be_text_or_numbers() -> None:
    for spelt in ("7", 7):
        value = {"key": "gen_ai.usage.input_tokens", "value": {"intValue": spelt}}
        span = {"traceId": "AB" * 16, "spanId": "cd" * 8, "endTimeUnixNano": spelt, "attributes": [value], "unknown": 1}
        body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
        (found,) = otlp.spans(body, otlp.JSON)
        assert (found.trace_id, found.end_ns, found.attributes) == ("ab" * 16, 7, {"gen_ai.usage.input_tokens": 7})


@given(st.binary(max_size=200), st.sampled_from([otlp.PROTOBUF, otlp.JSON]))
def test_bytes_are_spans_or_refused_and_never_a_crash(body: bytes, media: str) -> None:
    try:
        otlp.spans(body, media)
    except Problem as problem:
        assert problem.kind.status == 400


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"endTimeUnixNano": "-1"}]}]}]}', b"[" * 9_999]
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(Problem, match="not an OTLP ExportTraceServiceRequest"):
        otlp.spans(body, otlp.JSON)


def test_the_answer_has_the_encoding_of_the_request() -> None:
    assert otlp.answer(otlp.PROTOBUF, 0, "") == b""
    assert otlp.answer(otlp.JSON, 0, "") == b"{}"
    partial = ExportTraceServiceResponse.FromString(otlp.answer(otlp.PROTOBUF, 2, "why")).partial_success
    assert (partial.rejected_spans, partial.error_message) == (2, "why")
    assert json.loads(otlp.answer(otlp.JSON, 2, "why")) == {
        "partialSuccess": {"rejectedSpans": "2", "errorMessage": "why"}
    }


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/grpc"])
def test_another_encoding_is_refused(content_type: str) -> None:
    with pytest.raises(Problem, match="application/x-protobuf or application/json"):
        otlp.media_type(content_type)

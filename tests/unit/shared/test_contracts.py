"""The published schema, real CloudEvents producers and ingest agree on what a usage event is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest
from cloudevents.core.bindings.kafka import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import CloudEvent as OldCloudEvent
from cloudevents.v1.kafka import to_binary as old_to_binary
from cloudevents.v1.kafka import to_structured as old_to_structured
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.ingest.acceptance import Rejected
from shared.contracts import (
    LATENCY_BUCKET_COUNT,
    LATENCY_BUCKETS_MS,
    MAX_COUNT,
    Origin,
    UsageDelta,
    UsageEvent,
    UsageRecorded,
    decode_recorded,
    encode,
    usage_event_schema,
)
from shared.ids import uuid7
from tests.unit.ingest.events import SUBSCRIPTION, document, judge

DATA: Final = {
    "api_key_id": "019a2f70-0000-7000-8000-000000000001", "model": "gpt-4o", "provider": "openai", "request_tokens": 812,
    "response_tokens": 164, "cached_tokens": 512, "latency_ms": 1240, "status_code": 200, "error_message": None,
    "power_level": "balanced", "byok": False, "feature_type": "chat", "tool_name": None, "library_id": None,
    "tokens_returned": None, "reservation_id": None, "app_id": "crm", "session_id": "s-1", "end_user": "u-1",
    "metadata": {"region": "eu"},
}  # fmt: skip
ATTRIBUTES: Final[dict[str, Any]] = {
    "id": "req-7f3c",
    "source": "/gateways/eu-1",
    "type": "tallystick.usage.v1",
    "time": datetime(2026, 11, 21, 10, 15, 30, 123456, tzinfo=UTC),
    "subject": SUBSCRIPTION,
}

validator = Draft202012Validator(usage_event_schema())


def sdk_events() -> list[tuple[str, dict[str, bytes], bytes]]:
    """The same event as the CloudEvents SDK writes it for Kafka: mode, headers, value."""
    new = CloudEvent({**ATTRIBUTES, "specversion": "1.0", "datacontenttype": "application/json"}, DATA)
    old = OldCloudEvent(
        {**ATTRIBUTES, "time": "2026-11-21T10:15:30.123456+00:00", "datacontenttype": "application/json"}, DATA
    )
    messages: list[tuple[str, Any]] = [
        ("structured", to_structured_event(new)),
        ("binary", to_binary_event(new)),
        ("structured, old", old_to_structured(old)),
        ("binary, old", old_to_binary(old)),
    ]
    return [(mode, message.headers, _bytes(message.value)) for mode, message in messages]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.mark.parametrize(("mode", "headers", "value"), sdk_events(), ids=[mode for mode, *_ in sdk_events()])
def test_ingest_reads_what_the_cloudevents_sdk_writes(mode: str, headers: dict[str, bytes], value: bytes) -> None:
    event = judge(value, list(headers.items()))

    assert isinstance(event, UsageEvent), event
    assert event.time == ATTRIBUTES["time"]
    assert (event.source, event.id, event.subject) == ("/gateways/eu-1", "req-7f3c", SUBSCRIPTION)
    assert msgspec.to_builtins(event.data) == {**DATA, "api_key_hash": None}


@pytest.mark.parametrize(("mode", "headers", "value"), sdk_events(), ids=[mode for mode, *_ in sdk_events()])
def test_the_schema_admits_what_the_cloudevents_sdk_writes(mode: str, headers: dict[str, bytes], value: bytes) -> None:
    if mode.startswith("binary"):
        envelope = {name[3:]: text.decode() for name, text in headers.items() if name.startswith("ce_")}
        content_type = headers.get("content-type", b"application/json").decode()
        event = {**envelope, "datacontenttype": content_type, "data": json.loads(value)}
    else:
        event = json.loads(value)

    validator.validate(event)


def test_the_example_in_the_schema_of_the_contract_is_a_json_schema() -> None:
    Draft202012Validator.check_schema(usage_event_schema())
    assert usage_event_schema()["$id"] == "urn:tallystick:usage-event:v1"
    assert usage_event_schema()["title"] == "Tallystick usage event"
    json.dumps(usage_event_schema())


_texts = st.one_of(st.none(), st.just(...), st.sampled_from(["", "x", "é" * 512, "x" * 513, 5, ["x"]]))
_counts = st.sampled_from([..., 0, 1, MAX_COUNT, MAX_COUNT + 1, -1, 2.0, 2.5, "2", None, True])
_events = st.builds(
    document,
    data=st.fixed_dictionaries(
        {
            "model": _texts,
            "tool_name": _texts,
            "api_key_id": _texts,
            "api_key_hash": _texts,
            "request_tokens": st.just(MAX_COUNT),
            "cached_tokens": _counts,
            "response_tokens": _counts,
            "tokens_returned": _counts,
        },
        optional={
            "latency_ms": st.sampled_from([0, 2**31 - 1, 2**31, -1, 1.0, None]),
            "status_code": st.sampled_from([100, 599, 600, 99, None, "200"]),
            "power_level": _texts,
            "byok": st.sampled_from([True, False, None, 1, "yes"]),
            "metadata": st.sampled_from([None, {}, {"a": [1, {"b": None}]}, [], "x"]),
            "colour": st.sampled_from([None, "red", {"a": 1}]),
        },
    ),
    id=_texts,
    source=_texts,
    subject=_texts,
    specversion=st.sampled_from(["1.0", "1.0", "1.0", "0.3", 1.0, ...]),
    type=st.sampled_from(["tallystick.usage.v1", "tallystick.usage.v1", "other", None, ...]),
    datacontenttype=st.sampled_from([..., "application/json", "application/json; charset=utf-8"]),
)
_nearly_valid = st.builds(
    document,
    data=st.fixed_dictionaries({"request_tokens": st.just(5)}, optional={"model": _texts, "cached_tokens": _counts}),
    subject=_texts,
)


@given(st.one_of(_events, _nearly_valid))
def test_ingest_accepts_an_event_if_and_only_if_the_schema_admits_it(event: dict[str, Any]) -> None:
    judged = judge(json.dumps(event).encode())
    inexpressible = isinstance(judged, Rejected) and "cached_tokens" in judged.detail and "exceeds" in judged.detail

    assert isinstance(judged, UsageEvent) == (validator.is_valid(event) and not inexpressible), judged


def test_latency_buckets_are_ordered_and_one_is_open() -> None:
    assert list(LATENCY_BUCKETS_MS) == sorted(set(LATENCY_BUCKETS_MS))
    assert len(LATENCY_BUCKETS_MS) + 1 == LATENCY_BUCKET_COUNT


def recorded(**fields: Any) -> UsageRecorded:
    at = datetime(2026, 11, 21, 10, tzinfo=UTC)
    delta = UsageDelta(subscription_id=uuid7(), hour=at, requests=1, request_tokens=MAX_COUNT, first_event_at=at)
    facts = {"batch_id": uuid7(), "part": 0, "parts": 1, "recorded_at": at, "event_count": 1, **fields}
    return UsageRecorded(origin=Origin("main", "usage.events", 0, 0, 5, 6), deltas=[delta], providers=[], **facts)


def test_a_recorded_batch_survives_the_wire() -> None:
    message = recorded()

    assert decode_recorded(encode(message)) == message


def test_a_batch_of_a_later_version_is_refused_with_what_to_do() -> None:
    with pytest.raises(msgspec.ValidationError, match="upgrade the consumers before ingest"):
        decode_recorded(encode(recorded(version=2)))

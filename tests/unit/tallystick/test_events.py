"""What the builder of events lets pass, the published schema and ingest let pass; what it refuses, it names."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.ingest.acceptance import Limits, Rejected, accept
from shared import contracts
from shared.corrections import AmendEvent, VoidEvent
from tallystick import events
from tallystick.errors import InvalidEvent
from tallystick.events import amend_event, event, usage_event, void_event

NOW: Final = datetime(2026, 11, 21, 10, 15, 30, 123456, tzinfo=UTC)
SCHEMA: Final = contracts.usage_event_schema()
VALID: Final = Draft202012Validator(SCHEMA)
GOOD: Final[dict[str, Any]] = {
    "model": "gpt-4o",
    "provider": "openai",
    "request_tokens": 812,
    "response_tokens": 164,
    "cached_tokens": 512,
    "byok": False,
    "metadata": {"region": "eu"},
}


def accepted(body: bytes) -> Any:
    limits = Limits()
    return accept(body, (), limits, *limits.window(NOW))


def test_an_event_says_what_was_given() -> None:
    built = usage_event("/gateways/eu-1", subscription="019a2f6e", event_id="req-7f3c", time=NOW, **GOOD)

    assert json.loads(built.body) == {
        "specversion": "1.0",
        "type": "tallystick.usage.v1",
        "source": "/gateways/eu-1",
        "id": "req-7f3c",
        "time": "2026-11-21T10:15:30.123456Z",
        "subject": "019a2f6e",
        "data": GOOD,
    }
    assert (built.id, built.key) == ("req-7f3c", "019a2f6e")


def test_two_requests_have_two_ids_and_happened_now() -> None:
    before = datetime.now(UTC)
    first, second = (usage_event("/g", subscription="s", model="m") for _ in range(2))
    assert first.id != second.id
    assert before <= datetime.fromisoformat(json.loads(first.body)["time"]) <= datetime.now(UTC)


def test_the_key_is_the_subscription_else_that_of_the_api_key() -> None:
    assert usage_event("/g", subscription="s", api_key_id="k", model="m").key == "s"
    assert usage_event("/g", api_key_id="k", api_key_hash="h", model="m").key == "k"
    assert usage_event("/g", api_key_hash="h", tool_name="search").key == "h"


def test_corrections_are_what_ingest_takes_for_them() -> None:
    void = accepted(void_event("/g", "req-1", time=NOW).body)
    amend = accepted(amend_event("/g", "req-1", event_id="req-1b", time=NOW, subscription="s", model="m").body)

    assert isinstance(void, VoidEvent)
    assert isinstance(amend, AmendEvent)
    assert (void.corrects, void.id, amend.corrects) == ("req-1", "void-req-1", "req-1")
    with pytest.raises(InvalidEvent, match="cannot correct itself"):
        amend_event("/g", "req-1", event_id="req-1", subscription="s", model="m")


BAD: Final[list[tuple[str, dict[str, Any]]]] = [
    ("source", {"source": ""}),
    ("id", {"event_id": ""}),
    ("id", {"event_id": "x" * 513}),
    ("time", {"time": datetime(2026, 11, 21)}),  # noqa: DTZ001 – what is refused
    ("subject", {"subscription": 7}),
    ("subject", {"subscription": None}),
    ("data.model", {"model": ""}),
    ("data.model", {"model": None}),
    ("data.power_level", {"power_level": ""}),
    ("data.request_tokens", {"request_tokens": -1}),
    ("data.request_tokens", {"request_tokens": 1.5}),
    ("data.request_tokens", {"request_tokens": True}),
    ("data.response_tokens", {"response_tokens": 2**53}),
    ("data.cached_tokens", {"cached_tokens": 813}),
    ("data.latency_ms", {"latency_ms": 2**31}),
    ("data.status_code", {"status_code": 99}),
    ("data.byok", {"byok": "no"}),
    ("data.error_message", {"error_message": "x" * 513}),
    ("data.metadata", {"metadata": [1]}),
    ("data.metadata", {"metadata": {str(number): 1 for number in range(33)}}),
    ("data.metadata", {"metadata": {"x": "y" * 4096}}),
    ("data.metadata", {"metadata": {"x": float("nan")}}),
    ("data.metadata", {"metadata": {"x": object()}}),
    ("data", {"end_user": "a\x00b"}),
    ("data", {"end_user": "\ud800"}),
]


@pytest.mark.parametrize(("field", "change"), BAD)
def test_a_bad_field_is_named(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent) as refused:
        usage_event(**({"source": "/g", "subscription": "s"} | GOOD | change))
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")


def test_deep_and_circular_metadata_is_refused() -> None:
    deep: dict[str, Any] = {}
    circular: dict[str, Any] = {}
    circular["itself"] = circular
    at = deep
    for _ in range(20):
        at["x"] = at = {}
    for metadata in (deep, circular):
        with pytest.raises(InvalidEvent, match="levels deep"):
            usage_event("/g", subscription="s", model="m", metadata=metadata)


@pytest.mark.parametrize(
    "content", [{}, {"specversion": "0.3"}, {"data": 7}, {"type": "other"}, {"subject": ["s"]}, {"specversion": 1.0}]
)
def test_what_is_no_event_is_refused(content: dict[str, Any]) -> None:
    good = json.loads(usage_event("/g", subscription="s", model="m").body)
    with pytest.raises(InvalidEvent):
        event(good | content if content else content)


texts = st.text(st.characters(codec="utf-8"), max_size=20)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=6,
)
usages = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(sorted(events.TEXTS - {"voids", "amends"}), texts | st.none()),
        **{
            name: st.integers(low - 1, high + 1) | st.integers(low, low + 600)
            for name, (low, high) in events.RANGES.items()
        },
        "byok": st.booleans(),
        "metadata": st.dictionaries(texts, anything, max_size=40),
    },
)


@given(texts | st.none(), usages)
def test_what_is_built_is_accepted(subscription: str | None, usage: Any) -> None:
    try:
        built = usage_event("/g", subscription=subscription, time=NOW, **usage)
    except InvalidEvent:
        return
    found = accepted(built.body)
    assert not isinstance(found, Rejected), found
    assert list(VALID.iter_errors(json.loads(built.body))) == []


@given(texts | st.none(), usages)
def test_what_is_refused_is_not_accepted_either(subscription: str | None, usage: Any) -> None:
    try:
        usage_event("/g", subscription=subscription, time=NOW, **usage)
    except InvalidEvent as refused:
        envelope = {
            "specversion": "1.0",
            "type": "tallystick.usage.v1",
            "source": "/g",
            "id": "i",
            "time": NOW.isoformat(),
        }
        sent = {**envelope, "data": {name: value for name, value in usage.items() if value is not None}}
        if subscription is not None:
            sent["subject"] = subscription
        assert isinstance(accepted(json.dumps(sent).encode()), Rejected), refused


def test_the_builder_knows_every_attribute_of_the_contract() -> None:
    attributes = set(SCHEMA["$defs"]["UsageData"]["properties"])
    assert set(events.Usage.__annotations__) == attributes
    assert (events.TEXTS | set(events.RANGES) | {"byok", "metadata"}) - {"voids", "amends"} == attributes


def test_the_limits_are_those_of_ingest() -> None:
    limits = Limits()
    assert (limits.record_bytes, limits.metadata_bytes) == (events.LARGEST_EVENT, events.LARGEST_METADATA)
    assert (limits.metadata_keys, limits.metadata_depth) == (events.MOST_METADATA_KEYS, events.DEEPEST_METADATA)
    assert (events.LARGEST_COUNT, events.LONGEST_TEXT) == (contracts.MAX_COUNT, contracts.MAX_STRING)

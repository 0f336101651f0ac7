"""Spans with GenAI attributes become usage events that ingest accepts."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.acceptance import Limits, accept
from shared.contracts import UsageEvent
from tallystick import otel
from tallystick.otel import Span, event_of_span

END: Final = 1_796_034_930_123_456_789
NOW: Final = datetime.fromtimestamp(END / 1e9, UTC)
CHAT: Final[dict[str, Any]] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "gen_ai.usage.input_tokens": 812,
    "gen_ai.usage.output_tokens": 164,
    "gen_ai.usage.cache_read.input_tokens": 512,
    "tallystick.subscription": "019a2f6e-0c5b-7d10-9f5e-1b8c7c3a2d41",
}


def span(attributes: dict[str, Any], resource: dict[str, Any] | None = None, **more: Any) -> Span:
    return Span(
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "00f067aa0ba902b7",
        END - 1_240_000_000,
        END,
        attributes,
        resource or {},
        **more,
    )


def accepted(event: dict[str, Any] | None) -> UsageEvent:
    """Return the event as ingest reads it."""
    limits = Limits()
    found = accept(json.dumps(event).encode(), (), limits, *limits.window(NOW))
    assert isinstance(found, UsageEvent), found
    return found


def test_a_chat_becomes_an_event_that_ingest_accepts() -> None:
    event = accepted(event_of_span(span(CHAT, {"service.name": "assistant", "service.namespace": "shop"})))

    assert (event.source, event.id) == ("/otel/shop/assistant", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7")
    assert event.time == datetime.fromisoformat("2026-11-30T10:35:30.123456Z")
    assert event.subject == CHAT["tallystick.subscription"]
    data = event.data
    assert (data.model, data.provider, data.feature_type, data.app_id) == ("gpt-4o", "openai", "chat", "assistant")
    assert (data.request_tokens, data.response_tokens, data.cached_tokens) == (812, 164, 512)
    assert (data.latency_ms, data.status_code, data.error_message) == (1240, 200, None)
    assert data.metadata == {"operation": "chat", "response_model": "gpt-4o-2024-08-06"}


def test_the_names_of_older_conventions_are_read() -> None:
    old = {
        "gen_ai.system": "anthropic",
        "gen_ai.request.model": "claude-sonnet-4",
        "gen_ai.usage.prompt_tokens": "12",
        "gen_ai.usage.completion_tokens": 7.0,
        "metadata.user_api_key_hash": "88dc28d0",
    }
    event = accepted(event_of_span(span(old)))

    assert (event.data.provider, event.data.request_tokens, event.data.response_tokens) == ("anthropic", 12, 7)
    assert (event.subject, event.data.api_key_hash) == (None, "88dc28d0")
    assert event.source == "/otel/unknown_service"


@pytest.mark.parametrize(
    ("said", "request_tokens"),
    [((812, 512, 0), 812), ((300, 512, 0), 812), ((100, 512, 200), 812), ((812, 512, 300), 812)],
)
def test_cached_tokens_are_within_those_of_the_request(said: tuple[int, int, int], request_tokens: int) -> None:
    names = ("input_tokens", "cache_read.input_tokens", "cache_creation.input_tokens")
    attributes = {f"gen_ai.usage.{name}": count for name, count in zip(names, said, strict=True)}

    assert otel.tokens(attributes) == (request_tokens, 0, 512)


@given(sent=st.integers(0, 2**40), cached=st.integers(0, 2**40), written=st.integers(0, 2**40))
def test_whatever_is_said_the_parts_fit_into_the_whole(sent: int, cached: int, written: int) -> None:
    attributes = {
        "gen_ai.usage.input_tokens": sent,
        "gen_ai.usage.cache_read.input_tokens": cached,
        "gen_ai.usage.cache_creation.input_tokens": written,
    }
    total, _, read = otel.tokens(attributes)
    assert read == cached <= total
    assert total >= sent


@pytest.mark.parametrize("operation", sorted(otel.SUMMARIES))
def test_a_span_that_sums_up_others_is_not_counted(operation: str) -> None:
    assert event_of_span(span({**CHAT, "gen_ai.operation.name": operation})) is None


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"http.response.status_code": 200},
        {"gen_ai.request.model": "gpt-4o"},
        {"gen_ai.operation.name": "execute_tool"},
    ],
)
def test_a_span_without_a_model_or_a_tool_in_use_is_no_usage(attributes: dict[str, Any]) -> None:
    assert event_of_span(span(attributes)) is None


def test_a_tool_is_used_by_name() -> None:
    event = accepted(
        event_of_span(
            span(
                {
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.tool.name": "search",
                    "gen_ai.tool.call.id": "call-1",
                },
                {"tallystick.subscription": CHAT["tallystick.subscription"]},
            )
        )
    )
    assert (event.data.tool_name, event.data.model, event.data.feature_type) == ("search", None, "tool")
    assert event.subject == CHAT["tallystick.subscription"]
    assert event.data.metadata == {"operation": "execute_tool", "tool_call_id": "call-1"}


@pytest.mark.parametrize(
    ("attributes", "failed", "status_code"),
    [
        ({"error.type": "429"}, True, 429),
        ({"error.type": "timeout"}, True, 500),
        ({"error.type": "timeout", "http.response.status_code": 504}, True, 504),
        ({"http.response.status_code": 200}, True, 500),
        ({}, True, 500),
        ({"http.response.status_code": 200}, False, 200),
    ],
)
def test_a_failure_has_a_status_of_failure(attributes: dict[str, Any], failed: bool, status_code: int) -> None:
    event = accepted(event_of_span(span(CHAT | attributes, failed=failed, status_message="x" * 600 if failed else "")))

    assert event.data.status_code == status_code
    assert event.data.error_message == ("x" * 512 if failed else None)


attribute_values = st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.booleans(), st.lists(st.text()))
KNOWN: Final = sorted(
    set(
        re.findall(
            r'"((?:gen_ai|tallystick(?!\.usage)|llm|http|service|metadata)\.[\w.]+)"', Path(otel.__file__).read_text()
        )
    )
)


@given(st.dictionaries(st.sampled_from(KNOWN), attribute_values), st.integers(0, 2**64 - 1), st.booleans())
def test_no_span_makes_the_mapping_fail(attributes: dict[str, Any], end: int, failed: bool) -> None:
    event = event_of_span(Span("ab", "cd", 0, end, attributes, failed=failed))

    assert event is None or json.loads(json.dumps(event))["id"] == "ab-cd"


def test_the_page_names_every_attribute_that_is_read() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "opentelemetry.md").read_text()
    assert [name for name in KNOWN if f"`{name}`" not in page] == []

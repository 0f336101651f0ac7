"""What LiteLLM logs becomes what was used, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.events import usage_event
from tallystick.litellm.mapping import call_kind, event_id, facts, key, of_response, tokens
from tests.unit.tallystick.payloads import CALL_ID, KEY_HASH, failure, payload

PROVIDERS = frozenset({"openai", "anthropic"})


def test_a_chat() -> None:
    found = facts(payload(), keep=("project", "missing"))

    assert found is not None
    assert (key(payload()), found.api_key_hash) == (CALL_ID, KEY_HASH)
    assert found.ended_at == datetime(2026, 11, 27, 23, 57, 6, 240000, tzinfo=UTC)
    assert {name: value for name, value in found.usage.items() if value is not None} == {
        "feature_type": "chat",
        "latency_ms": 1240,
        "model": "gpt-4o-mini",
        "provider": "openai",
        "request_tokens": 812,
        "response_tokens": 164,
        "cached_tokens": 512,
        "status_code": 200,
        "app_id": "crm",
        "session_id": "s-1",
        "end_user": "u-1",
        "metadata": {"litellm_call_id": CALL_ID, "model_group": "chat", "team": "team-1", "project": "p-1"},
    }


@pytest.mark.parametrize(
    ("call_type", "feature"),
    [
        ("acompletion", "chat"),
        ("completion", "chat"),
        ("aresponses", "chat"),
        ("anthropic_messages", "chat"),
        ("atext_completion", "completion"),
        ("aembedding", "embedding"),
        ("aimage_generation", "image"),
        ("atranscription", "audio"),
        ("arerank", "rerank"),
        ("amoderation", "moderation"),
        ("something_new", "something_new"),
    ],
)
def test_the_kind_of_a_call_is_its_feature(call_type: str, feature: str) -> None:
    found = facts(payload(call_type=call_type))
    assert found is not None
    assert found.usage["feature_type"] == feature


def test_a_failure_tells_its_class_and_not_its_text() -> None:
    found = facts(failure())
    assert found is not None
    assert (found.usage["status_code"], found.usage["error_message"]) == (
        429,
        "RateLimitError (429_RATE_LIMIT_EXCEEDED)",
    )
    assert "a secret" not in repr(found)


def test_what_the_proxy_refused_reached_no_model() -> None:
    refused = failure(
        custom_llm_provider=None, model="unknown", error_information={"error_code": "400", "llm_provider": ""}
    )
    assert facts(refused, providers=PROVIDERS) is None


@pytest.mark.parametrize("code", ["", "none", "200", "99", "1000", "600"])
def test_a_failure_without_a_status_of_failure_is_a_500(code: str) -> None:
    found = facts(
        failure() | {"error_information": {"error_code": code, "error_class": "Timeout", "llm_provider": "openai"}}
    )
    assert found is not None
    assert (found.usage["status_code"], found.usage["error_message"]) == (500, "Timeout")


def test_a_cache_hit_is_a_request_and_its_tokens_are_a_matter_of_taste() -> None:
    free, billed = (facts(payload(cache_hit=True), free_cache_hits=free) for free in (True, False))
    assert free is not None
    assert billed is not None
    assert "request_tokens" not in free.usage
    assert billed.usage["request_tokens"] == 812
    assert free.usage["metadata"] == billed.usage["metadata"]
    assert (free.usage["metadata"] or {})["cache_hit"] is True


@pytest.mark.parametrize(
    ("provider", "model", "found"),
    [
        ("openai", "openai/gpt-4o", ("openai", "gpt-4o")),
        ("openai", "gpt-4o", ("openai", "gpt-4o")),
        (None, "anthropic/claude", ("anthropic", "claude")),
        ("together_ai", "meta-llama/Llama-3", ("together_ai", "meta-llama/Llama-3")),
        (None, "meta-llama/Llama-3", (None, "meta-llama/Llama-3")),
    ],
)
def test_a_model_has_no_provider_in_its_name(provider: str | None, model: str, found: tuple[str | None, str]) -> None:
    said = facts(payload(custom_llm_provider=provider, model=model), providers=PROVIDERS)
    assert said is not None
    assert (said.usage["provider"], said.usage["model"]) == found


def test_a_tool_of_an_mcp_server() -> None:
    called = {
        "mcp_tool_call_metadata": {"name": "search", "mcp_server_name": "library", "arguments": {"query": "a secret"}}
    }
    found = facts(payload(call_type="call_mcp_tool", model="MCP: search", custom_llm_provider=None, metadata=called))
    assert found is not None
    assert (found.usage["tool_name"], found.usage["provider"], found.usage["feature_type"]) == (
        "search",
        "library",
        "tool",
    )
    assert "a secret" not in repr(found)


def test_images_are_counted() -> None:
    found = facts(payload(call_type="aimage_generation", metadata={"usage_object": {"output_image_count": 3}}))
    assert found is not None
    assert (found.usage["metadata"] or {})["images"] == 3


def test_a_batch_counts_when_it_is_done_however_often_it_is_looked_at() -> None:
    assert facts(payload(call_type="acreate_batch")) is None
    assert facts(payload(call_type="aretrieve_batch", total_tokens=0)) is None
    hidden = {"batch_models": ["gpt-4o-mini"], "batch_successful_requests": 70}
    looks = [
        payload(call_type="aretrieve_batch", id="batch_1", litellm_call_id=call_id, model="", hidden_params=hidden)
        for call_id in "ab"
    ]
    assert [key(look) for look in looks] == ["batch:batch_1"] * 2
    found = facts(looks[0])
    assert found is not None
    assert (found.usage["model"], (found.usage["metadata"] or {})["batch_requests"]) == ("gpt-4o-mini", 70)


@pytest.mark.parametrize(
    ("usage", "prompt", "expected"),
    [
        ({}, 812, (812, 164, 0)),
        ({"prompt_tokens_details": {"cached_tokens": 512}}, 812, (812, 164, 512)),
        ({"cache_read_input_tokens": 512, "cache_creation_input_tokens": 100}, 812, (812, 164, 512)),
        ({"cache_read_input_tokens": 512, "cache_creation_input_tokens": 100}, 200, (812, 164, 512)),
        ({"prompt_tokens_details": {"cached_tokens": None}, "cache_read_input_tokens": None}, 812, (812, 164, 0)),
    ],
)
def test_cached_tokens_are_within_those_of_the_request(
    usage: dict[str, Any], prompt: int, expected: tuple[int, int, int]
) -> None:
    assert tokens(payload(prompt_tokens=prompt, metadata={"usage_object": usage})) == expected


@given(
    prompt=st.integers(-5, 2**60) | st.floats() | st.none(), cached=st.integers(0, 2**40), written=st.integers(0, 2**40)
)
def test_any_counts_are_counts(prompt: Any, cached: int, written: int) -> None:
    usage = {"cache_read_input_tokens": cached, "cache_creation_input_tokens": written}
    requested, answered, read = tokens(payload(prompt_tokens=prompt, metadata={"usage_object": usage}))
    assert 0 <= read <= requested
    assert answered == 164


texts = st.text(st.characters(), max_size=600) | st.none()


@given(
    st.lists(texts, min_size=9, max_size=9),
    st.dictionaries(st.sampled_from("abcdefgh"), texts | st.integers() | st.lists(texts)),
    st.booleans(),
)
def test_no_payload_makes_an_event_that_is_refused(said: list[str | None], asked: dict[str, Any], failed: bool) -> None:
    call_id, model, provider, group, user, session, alias, team, error = said
    metadata = {"requester_metadata": asked, "user_api_key_alias": alias, "user_api_key_team_id": team}
    names = {
        "litellm_call_id": call_id,
        "model": model,
        "custom_llm_provider": provider,
        "model_group": group,
        "end_user": user,
        "session_id": session,
    }
    made = payload(
        **names, metadata=metadata, status="failure" if failed else "success", error_information={"error_class": error}
    )

    found = facts(made, keep="abcdefgh")

    if found is not None:
        usage_event("/gateways/litellm", subscription="s", time=found.ended_at, **found.usage)


def test_an_id_is_that_of_the_request_and_of_how_it_ended() -> None:
    assert event_id("n", CALL_ID) == event_id("n", CALL_ID)
    assert (
        len(
            {
                event_id("n", CALL_ID),
                event_id("m", CALL_ID),
                event_id("n", "other"),
                event_id("n", CALL_ID, failed=True),
            }
        )
        == 4
    )


def test_a_response_alone_tells_the_tokens() -> None:
    began, ended = datetime(2026, 11, 27, 10, tzinfo=UTC), datetime(2026, 11, 27, 10, 0, 1, tzinfo=UTC)
    response = {"content": "a secret", "usage": {"input_tokens": 20, "output_tokens": 5, "cache_read_input_tokens": 7}}
    made = of_response(response, call_id=CALL_ID, call_type="anthropic_messages", started_at=began, ended_at=ended) | {
        "model": "claude"
    }
    found = facts(made)
    assert found is not None
    assert (key(made), found.ended_at, found.usage["latency_ms"]) == (CALL_ID, ended, 1000)
    assert (found.usage["request_tokens"], found.usage["response_tokens"], found.usage["cached_tokens"]) == (20, 5, 7)
    assert "a secret" not in repr(found)


def test_the_asynchronous_form_of_a_call_is_the_same_call() -> None:
    assert [call_kind(name) for name in ("acompletion", "anthropic_messages", "image_generation", None)] == [
        "completion", "anthropic_messages", "image_generation", "",
    ]  # fmt: skip

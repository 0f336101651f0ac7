"""From LiteLLM's `standard_logging_object` to what a usage event says (pure). Prompts, answers and error texts are left behind."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from tallystick.events import LARGEST_COUNT, LONGEST_TEXT, MOST_METADATA_KEYS, Usage

NAMESPACE: Final = uuid.UUID("5f6f4b0e-8d0c-5b0a-9f57-8f1f6a1c7e21")

_FEATURES: Final = {
    "completion": "chat",
    "responses": "chat",
    "anthropic_messages": "chat",
    "generate_content": "chat",
    "text_completion": "completion",
    "embedding": "embedding",
    "image_generation": "image",
    "image_edit": "image",
    "image_variation": "image",
    "video_generation": "video",
    "transcription": "audio",
    "speech": "audio",
    "rerank": "rerank",
    "moderation": "moderation",
    "retrieve_batch": "batch",
    "call_mcp_tool": "tool",
    "pass_through_endpoint": "passthrough",
    "realtime": "realtime",
}
NO_USAGE: Final = frozenset(
    {
        "create_batch",
        "cancel_batch",
        "list_batches",
        "create_file",
        "retrieve_file",
        "delete_file",
        "list_files",
        "file_content",
    }
)
"""Calls that use no model: a batch is counted when it is done, by `retrieve_batch`."""
_LONGEST_NAME: Final = 128
_LONGEST_KEPT: Final = 200
_MOST_KEPT_BYTES: Final = 1024
"""For what is kept of a request's metadata: an event is never refused for it."""


class Facts(NamedTuple):
    """What is known of one call: when it ended, who used it if the payload alone says so, and what."""

    ended_at: datetime
    api_key_hash: str | None
    usage: Usage


def call_kind(call_type: str | None) -> str:
    """Return a call type without the `a` of its asynchronous form: `acompletion` is `completion`."""
    kind = call_type or ""
    return kind[1:] if kind.startswith("a") and kind not in ("anthropic_messages", "add_message") else kind


def facts(
    payload: Mapping[str, Any],
    *,
    keep: Iterable[str] = (),
    providers: frozenset[str] = frozenset(),
    free_cache_hits: bool = True,
) -> Facts | None:
    """Return what a payload says; None for a call that used no model or tool. `keep` names keys of the request's metadata that are kept.

    `providers` are the names that LiteLLM puts before a model, where it does not name the provider apart.
    """
    kind = call_kind(payload.get("call_type"))
    if kind in NO_USAGE or (kind == "retrieve_batch" and not payload.get("total_tokens")):
        return None
    failed = payload.get("status") == "failure"
    metadata, hidden = _mapping(payload, "metadata"), _mapping(payload, "hidden_params")
    error = _mapping(payload, "error_information")
    provider, model = _model(payload, hidden, providers)
    tool = _mapping(metadata, "mcp_tool_call_metadata")
    if failed and not (provider or error.get("llm_provider") or tool):
        return None  # the proxy refused it: it reached no model
    usage: Usage = {"feature_type": _text(_FEATURES.get(kind, kind)), "latency_ms": _latency(payload)}
    if tool:
        usage["tool_name"], usage["provider"] = _text(tool.get("name")), _text(tool.get("mcp_server_name"))
    else:
        usage["model"], usage["provider"] = _text(model), _text(provider or error.get("llm_provider"))
    if not (usage.get("model") or usage.get("tool_name")):
        return None
    cache_hit = bool(payload.get("cache_hit")) and not failed
    if not (cache_hit and free_cache_hits):
        usage["request_tokens"], usage["response_tokens"], usage["cached_tokens"] = tokens(payload)
    usage["status_code"] = _status_code(error) if failed else 200
    if failed:
        usage["error_message"] = _error(error)
    usage["byok"] = bool(metadata.get("used_client_oauth_token")) or None
    usage["app_id"] = _text(metadata.get("user_api_key_alias"))
    usage["session_id"] = _text(payload.get("session_id"))
    usage["end_user"] = _text(payload.get("end_user") or metadata.get("user_api_key_end_user_id"))
    usage["metadata"] = _kept(payload, metadata, keep, cache_hit=cache_hit)
    return Facts(_ended_at(payload), _text(metadata.get("user_api_key_hash")), usage)


def key(payload: Mapping[str, Any]) -> str:
    """Return what makes a call this call. A batch is looked at again and again, each time by another call."""
    if call_kind(payload.get("call_type")) == "retrieve_batch":
        return f"batch:{payload.get('id')}"
    return str(payload.get("litellm_call_id") or payload.get("id"))


def tokens(payload: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return request, response and cached tokens, the cached ones within those of the request.

    Providers in Anthropic's style report what was read from and written to the cache apart. LiteLLM adds it up, mostly: where the parts exceed the
    whole it has not, and they are added here.
    """
    usage = _mapping(_mapping(payload, "metadata"), "usage_object") or _mapping(
        _mapping(payload, "hidden_params"), "usage_object"
    )
    details = _mapping(usage, "prompt_tokens_details") or _mapping(usage, "input_tokens_details")
    requested, answered = _count(payload.get("prompt_tokens")), _count(payload.get("completion_tokens"))
    cached = _count(details.get("cached_tokens")) or _count(usage.get("cache_read_input_tokens"))
    written = _count(details.get("cache_creation_tokens")) or _count(usage.get("cache_creation_input_tokens"))
    if cached + written > requested:
        requested += cached + written
    return requested, answered, cached


def event_id(nonce: str, call: str, *, failed: bool = False) -> str:
    """Return the id of a call's event: the same for every callback about it. `nonce` is the plug-in's own, as clients may choose call ids.

    A failure has an id of its own: LiteLLM reports a request that succeeds at the second try under the same call id.
    """
    return str(uuid.uuid5(NAMESPACE, f"{nonce}:{call}{':failure' if failed else ''}"))


def of_response(
    response: Any, *, call_id: str, call_type: str, started_at: datetime, ended_at: datetime
) -> dict[str, Any]:
    """Return a payload made of a response, but for its model: for calls that LiteLLM answers without logging them."""
    usage = _plain(_plain(response).get("usage"))
    return {
        "litellm_call_id": call_id,
        "call_type": call_type,
        "status": "success",
        "prompt_tokens": usage.get("prompt_tokens") or usage.get("input_tokens"),
        "completion_tokens": usage.get("completion_tokens") or usage.get("output_tokens"),
        "startTime": started_at.timestamp(),
        "endTime": ended_at.timestamp(),
        "metadata": {"usage_object": usage},
    }


def _model(
    payload: Mapping[str, Any], hidden: Mapping[str, Any], providers: frozenset[str]
) -> tuple[str | None, str | None]:
    """Return provider and model: `openai/gpt-4o` is gpt-4o of openai."""
    model = payload.get("model") or ",".join(map(str, hidden.get("batch_models") or ())) or None
    provider = payload.get("custom_llm_provider")
    if isinstance(model, str) and "/" in model:
        before, _, rest = model.partition("/")
        if before == provider or (not provider and before in providers):
            return before, rest
    return provider, model


def _status_code(error: Mapping[str, Any]) -> int:
    said = str(error.get("error_code") or "")
    code = int(said) if said.isdecimal() and len(said) == 3 else 500
    return code if 400 <= code <= 599 else 500


def _error(error: Mapping[str, Any]) -> str:
    """Return the class of an error and its code. Its text may quote the prompt."""
    name, code = error.get("error_class") or "Error", error.get("normalized_error")
    return _text(f"{name} ({code})" if code else name) or "Error"


def _latency(payload: Mapping[str, Any]) -> int | None:
    start, end = payload.get("startTime"), payload.get("endTime")
    if isinstance(start, int | float) and isinstance(end, int | float) and 0 <= end - start < 2**21:
        return int((end - start) * 1000)
    return None


def _ended_at(payload: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(payload["endTime"], UTC)


def _kept(
    payload: Mapping[str, Any], metadata: Mapping[str, Any], keep: Iterable[str], *, cache_hit: bool
) -> dict[str, Any]:
    """Return the event's metadata: what LiteLLM knows of the call beside its usage, and what the operator wants to keep of the request's."""
    kept: dict[str, Any] = {"litellm_call_id": _text(payload.get("litellm_call_id"), _LONGEST_NAME)}
    if cache_hit:
        kept["cache_hit"] = True
    if payload.get("stream"):
        kept["stream"] = True
    if (group := payload.get("model_group")) and group != payload.get("model"):
        kept["model_group"] = _text(group, _LONGEST_NAME)
    if team := metadata.get("user_api_key_team_id"):
        kept["team"] = _text(team, _LONGEST_NAME)
    if images := _count(_mapping(metadata, "usage_object").get("output_image_count")):
        kept["images"] = images
    if requests := _count(_mapping(payload, "hidden_params").get("batch_successful_requests")):
        kept["batch_requests"] = requests
    asked = _mapping(metadata, "requester_metadata")
    room = _MOST_KEPT_BYTES
    for name in keep:
        value = _text(asked.get(name), _LONGEST_KEPT)
        if value is None or len(kept) == MOST_METADATA_KEYS:
            continue
        room -= len(json.dumps({name: value}))
        if room < 0:
            break
        kept[name] = value
    return kept


def _mapping(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name)
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Mapping[str, Any]:
    """Return the fields of a response or its usage, which LiteLLM has as mappings or as models of pydantic."""
    if isinstance(value, Mapping):
        return value
    return value.model_dump() if hasattr(value, "model_dump") else {}


def _text(value: Any, longest: int = LONGEST_TEXT) -> str | None:
    """Return a text that can be stored, None for nothing."""
    if value is None or value == "":
        return None
    return str(value)[:longest].replace("\0", "").encode(errors="replace").decode() or None


def _count(value: Any) -> int:
    """Return a count; some providers report floats, some nothing."""
    if isinstance(value, int | float) and 0 <= value <= LARGEST_COUNT:
        return int(value)
    return 0

"""From OpenTelemetry's GenAI attributes to usage events (pure). The mapping is documented in docs/reference/opentelemetry.md.

Works on plain values, so that it serves an exporter inside a gateway and the API's `/v1/traces` alike. It judges nothing: what a
span says wrongly is in the event, and is refused, with a reason, by whoever accepts events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

SPEC_VERSION: Final = "1.0"
USAGE_TYPE: Final = "tallystick.usage.v1"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_TEXT: Final = 512

SUMMARIES: Final = frozenset({"create_agent", "invoke_agent", "invoke_workflow", "plan"})
"""Operations whose spans repeat what the spans below them say: counting both would count twice."""

TOOL_OPERATION: Final = "execute_tool"

_FEATURES: Final = {
    "text_completion": "completion",
    "generate_content": "chat",
    "embeddings": "embedding",
    "execute_tool": "tool",
}

_TEXTS: Final = {
    "api_key_id": ("tallystick.api_key_id",),
    "api_key_hash": ("tallystick.api_key_hash", "metadata.user_api_key_hash", "litellm.api_key.hash"),
    "provider": ("gen_ai.provider.name", "gen_ai.system"),
    "power_level": ("tallystick.power_level",),
    "library_id": ("tallystick.library_id",),
    "reservation_id": ("tallystick.reservation_id",),
    "app_id": ("tallystick.app_id", "service.name"),
    "session_id": ("gen_ai.conversation.id", "session.id"),
    "end_user": ("enduser.id", "user.id"),
}
"""Attributes of `data`, and where they are found: the first that is there counts, on the span before on its resource."""

_METADATA: Final = {
    "operation": ("gen_ai.operation.name",),
    "response_model": ("gen_ai.response.model",),
    "response_id": ("gen_ai.response.id",),
    "tool_call_id": ("gen_ai.tool.call.id",),
    "error_type": ("error.type",),
}

_INPUT: Final = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens")
_OUTPUT: Final = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens")
_CACHE_READ: Final = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.cached_tokens",
    "gen_ai.usage.input_cached_tokens",
)
_CACHE_CREATION: Final = ("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens")


@dataclass(frozen=True, slots=True)
class Span:
    """What the mapping needs of a span. Times in nanoseconds since 1970, ids in hexadecimal, attributes as plain values.

    `failed` tells that the span's status is ERROR, `status_message` what it says.
    """

    trace_id: str
    span_id: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False
    status_message: str = ""


def event_of_span(span: Span) -> dict[str, Any] | None:
    """Return the usage event of a span, as structured-mode CloudEvents JSON; None for a span that used no model and no tool.

    The identity is trace and span id, so that a span which is exported twice counts once. The time is the span's end.
    """
    if not is_usage(span.attributes):
        return None
    event: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "type": USAGE_TYPE,
        "source": source(span.resource),
        "id": f"{span.trace_id}-{span.span_id}",
        "time": _instant(span.end_ns),
    }
    subject = _first(span, ("tallystick.subscription",))
    if subject is not None:
        event["subject"] = str(subject)
    event["data"] = _data(span)
    return event


def is_usage(attributes: Mapping[str, Any]) -> bool:
    """Tell whether a span with these attributes is one use of a model or tool, and not the sum of others below it."""
    operation = _operation(attributes)
    if operation in SUMMARIES:
        return False
    if operation == TOOL_OPERATION:
        return bool(attributes.get("gen_ai.tool.name"))
    return _model(attributes) is not None and (
        operation != "" or any(name in attributes for name in (*_INPUT, *_OUTPUT))
    )


def source(resource: Mapping[str, Any]) -> str:
    """Return the `source` of a resource's events: `tallystick.source` if it has that, else its service's name and namespace."""
    if given := resource.get("tallystick.source"):
        return str(given)
    parts = (resource.get("service.namespace"), resource.get("service.name") or "unknown_service")
    return "/otel/" + "/".join(str(part) for part in parts if part)


def tokens(attributes: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Return request, response and cached tokens, the cached ones within those of the request.

    The convention counts what was read from and written to a cache as input; older instrumentations of Anthropic do not. Where the parts
    exceed the whole it cannot have included them, and they are added. What is no integer is returned as it is.
    """
    sent, answered, cached, written = (
        _count(attributes, names) for names in (_INPUT, _OUTPUT, _CACHE_READ, _CACHE_CREATION)
    )
    if isinstance(sent, int) and isinstance(cached, int) and isinstance(written, int) and cached + written > sent:
        sent += cached + written
    return sent, answered, cached


def _data(span: Span) -> dict[str, Any]:
    attributes = span.attributes
    data: dict[str, Any] = {
        name: str(value)[:_LONGEST_TEXT] for name, names in _TEXTS.items() if (value := _first(span, names)) is not None
    }
    operation = _operation(attributes)
    if operation == TOOL_OPERATION:
        data["tool_name"] = str(attributes["gen_ai.tool.name"])
    model = _model(attributes)
    if model is not None:
        data["model"] = str(model)
    feature = _first(span, ("tallystick.feature_type",)) or _FEATURES.get(operation, operation)
    if feature:
        data["feature_type"] = str(feature)
    byok = _first(span, ("tallystick.byok",))
    if byok is not None:
        data["byok"] = byok
    data["request_tokens"], data["response_tokens"], data["cached_tokens"] = tokens(attributes)
    if span.end_ns >= span.start_ns > 0:
        data["latency_ms"] = (span.end_ns - span.start_ns) // 1_000_000
    data |= _outcome(span)
    metadata = {
        name: str(value)[:_LONGEST_TEXT]
        for name, names in _METADATA.items()
        if (value := _first(span, names)) is not None
    }
    if metadata.get("response_model") == data.get("model"):
        metadata.pop("response_model", None)
    if metadata:
        data["metadata"] = metadata
    return data


def _outcome(span: Span) -> dict[str, Any]:
    """Return status code and error message. A failed span without an HTTP status is a 500."""
    error = span.attributes.get("error.type")
    status = _first(span, ("http.response.status_code", "http.status_code"))
    if status is None and isinstance(error, str) and error.isdecimal() and len(error) == 3:
        status = int(error)
    failed = span.failed or error is not None
    if status is None or (failed and isinstance(status, int) and status < 400):
        status = 500 if failed else 200
    outcome: dict[str, Any] = {"status_code": status}
    if failed and (message := span.status_message or error):
        outcome["error_message"] = str(message)[:_LONGEST_TEXT]
    return outcome


def _operation(attributes: Mapping[str, Any]) -> str:
    return str(attributes.get("gen_ai.operation.name") or "")


def _model(attributes: Mapping[str, Any]) -> Any:
    return attributes.get("gen_ai.request.model") or attributes.get("gen_ai.response.model")


def _first(span: Span, names: tuple[str, ...]) -> Any:
    """Return the first of these attributes that is there and not empty, on the span before on its resource."""
    for attributes in (span.attributes, span.resource):
        for name in names:
            if (value := attributes.get(name)) not in (None, ""):
                return value
    return None


def _count(attributes: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first of these counts; OTLP's JSON spells integers as text, and some instrumentations report whole floats."""
    for name in names:
        value = attributes.get(name)
        if isinstance(value, str) and value.isdecimal() and len(value) < 20:
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if value is not None:
            return value
    return 0


def _instant(nanoseconds: int) -> str:
    """Return the time in RFC 3339, in UTC, to the microsecond."""
    return (_EPOCH + timedelta(microseconds=min(nanoseconds, 2**63) // 1000)).isoformat().replace("+00:00", "Z")

"""Builds usage events (pure): CloudEvents JSON that keeps the contract of docs/reference/contracts.md, or an error that names the field."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypedDict, Unpack

from tallystick.errors import InvalidEvent

SPEC_VERSION: Final = "1.0"
USAGE_TYPE: Final = "tallystick.usage.v1"
VOID_TYPE: Final = "tallystick.usage.void.v1"
AMEND_TYPE: Final = "tallystick.usage.amend.v1"

LARGEST_COUNT: Final = 2**53 - 1
LONGEST_TEXT: Final = 512
LARGEST_EVENT: Final = 256 * 1024
LARGEST_METADATA: Final = 4 * 1024
MOST_METADATA_KEYS: Final = 32
DEEPEST_METADATA: Final = 16

TEXTS: Final = frozenset(
    [
        "api_key_id",
        "api_key_hash",
        "model",
        "provider",
        "error_message",
        "power_level",
        "feature_type",
        "tool_name",
        "library_id",
        "reservation_id",
        "app_id",
        "session_id",
        "end_user",
        "voids",
        "amends",
    ]
)
NOT_EMPTY: Final = frozenset({"model", "power_level", "tool_name", "voids", "amends"})
RANGES: Final = {
    "request_tokens": (0, LARGEST_COUNT),
    "response_tokens": (0, LARGEST_COUNT),
    "cached_tokens": (0, LARGEST_COUNT),
    "tokens_returned": (0, LARGEST_COUNT),
    "latency_ms": (0, 2**31 - 1),
    "status_code": (100, 599),
}

_encode: Final = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode


class Usage(TypedDict, total=False):
    """What was used: the attributes of `data`. What is None or left out is not sent.

    `request_tokens` includes `cached_tokens`. `latency_ms` in milliseconds. Never put prompts or answers into `metadata`.
    """

    api_key_id: str | None
    api_key_hash: str | None
    model: str | None
    provider: str | None
    request_tokens: int | None
    response_tokens: int | None
    cached_tokens: int | None
    latency_ms: int | None
    status_code: int | None
    error_message: str | None
    power_level: str | None
    byok: bool | None
    feature_type: str | None
    tool_name: str | None
    library_id: str | None
    tokens_returned: int | None
    reservation_id: str | None
    app_id: str | None
    session_id: str | None
    end_user: str | None
    metadata: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Event:
    """An event that is ready to be sent, and sent again unchanged: its JSON, its id, and the key of its Kafka record."""

    id: str
    key: str
    body: bytes


def usage_event(
    source: str,
    *,
    subscription: str | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
    nobody: bool = False,
    **data: Unpack[Usage],
) -> Event:
    """Return the event of one request. `(source, id)` is its identity; without `event_id` it gets a random one, without `time` it happened now.

    `nobody` lets an event pass that does not say who used it: over HTTP, the API key of a tenant says so. Raises `InvalidEvent` that names the field.
    """
    return event(_envelope(USAGE_TYPE, source, event_id, time, subscription, data), nobody=nobody)


def void_event(
    source: str,
    voids: str,
    *,
    event_id: str | None = None,
    time: datetime | None = None,
    subscription: str | None = None,
) -> Event:
    """Return an event that takes back the one with the same source and the id `voids`. Raises `InvalidEvent`."""
    return event(_envelope(VOID_TYPE, source, event_id or f"void-{voids}", time, subscription, {"voids": voids}))


def amend_event(
    source: str,
    amends: str,
    *,
    event_id: str,
    subscription: str | None = None,
    time: datetime | None = None,
    **data: Unpack[Usage],
) -> Event:
    """Return an event that puts `data` in the place of the event with the same source and the id `amends`. Raises `InvalidEvent`."""
    return event(_envelope(AMEND_TYPE, source, event_id, time, subscription, {**data, "amends": amends}))


def event(content: Mapping[str, Any], *, nobody: bool = False) -> Event:
    """Check an event in structured-mode CloudEvents JSON, such as `tallystick.otel` makes, and encode it. Raises `InvalidEvent`."""
    for name in ("specversion", "type", "source", "id", "time"):
        _text(name, content.get(name) or "", empty=False)
    if content["specversion"] != SPEC_VERSION:
        raise InvalidEvent("specversion", f"must be {SPEC_VERSION!r}, is {content['specversion']!r}")
    kind, data = content["type"], content.get("data")
    if kind not in (USAGE_TYPE, VOID_TYPE, AMEND_TYPE):
        raise InvalidEvent("type", f"must be {USAGE_TYPE!r}, or that of a void or amend, is {kind!r}")
    if not isinstance(data, Mapping):
        raise InvalidEvent("data", "must be an object")
    subject = content.get("subject")
    if subject is not None:
        _text("subject", subject)
    _check_data(data)
    for correction in ("voids", "amends"):
        if data.get(correction) == content["id"]:
            raise InvalidEvent(f"data.{correction}", "an event cannot correct itself: name the id of the original")
    key = subject or data.get("api_key_id") or data.get("api_key_hash")
    if kind != VOID_TYPE:
        if not (data.get("model") or data.get("tool_name")):
            raise InvalidEvent("data.model", "give data.model or data.tool_name: what was used?")
        if not (key or nobody):
            raise InvalidEvent("subject", "give a subscription, data.api_key_id or data.api_key_hash: who used it?")
    return Event(content["id"], str(key or ""), _encoded(content))


def _envelope(  # noqa: PLR0917 – the envelope's attributes, in order
    kind: str,
    source: str,
    event_id: str | None,
    time: datetime | None,
    subscription: str | None,
    data: Mapping[str, Any],
) -> dict[str, Any]:
    if time is None:
        time = datetime.now(UTC)
    elif time.tzinfo is None:
        raise InvalidEvent("time", f"{time.isoformat()} has no zone; pass an aware datetime, such as datetime.now(UTC)")
    envelope: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "type": kind,
        "source": source,
        "id": str(uuid.uuid4()) if event_id is None else event_id,
        "time": time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    if subscription is not None:
        envelope["subject"] = subscription
    envelope["data"] = {name: value for name, value in data.items() if value is not None}
    return envelope


def _check_data(data: Mapping[str, Any]) -> None:
    """Check each attribute that the contract knows; ingest keeps others under metadata."""
    for name, value in data.items():
        if value is None:
            continue
        if name in TEXTS:
            _text(f"data.{name}", value, empty=name not in NOT_EMPTY)
        elif (limits := RANGES.get(name)) is not None:
            if type(value) is not int:
                raise InvalidEvent(f"data.{name}", f"must be an integer, is {value!r}")
            if not limits[0] <= value <= limits[1]:
                raise InvalidEvent(f"data.{name}", f"must be within {limits[0]} and {limits[1]}, is {value}")
        elif name == "byok" and not isinstance(value, bool):
            raise InvalidEvent("data.byok", f"must be true or false, is {value!r}")
        elif name == "metadata":
            _check_metadata(value)
    cached, requested = data.get("cached_tokens") or 0, data.get("request_tokens") or 0
    if cached > requested:
        raise InvalidEvent(
            "data.cached_tokens",
            f"{cached} of {requested} request_tokens: those include the cached ones, add them up first",
        )


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise InvalidEvent("data.metadata", "must be an object whose keys are texts")
    if len(metadata) > MOST_METADATA_KEYS:
        raise InvalidEvent("data.metadata", f"has {len(metadata)} keys, {MOST_METADATA_KEYS} are allowed")
    if _depth(metadata) > DEEPEST_METADATA:
        raise InvalidEvent("data.metadata", f"is nested more than {DEEPEST_METADATA} levels deep")
    size = len(_json("data.metadata", metadata))
    if size > LARGEST_METADATA:
        raise InvalidEvent("data.metadata", f"has {size} bytes, {LARGEST_METADATA} are allowed")


def _depth(value: Any, limit: int = DEEPEST_METADATA + 1) -> int:
    if limit == 0 or not isinstance(value, Mapping | list | tuple):
        return 0
    within = value.values() if isinstance(value, Mapping) else value
    return 1 + max((_depth(each, limit - 1) for each in within), default=0)


def _text(field: str, value: Any, *, empty: bool = True) -> None:
    if not isinstance(value, str):
        raise InvalidEvent(field, f"must be a text, is {value!r}")
    if not value and not empty:
        raise InvalidEvent(field, "is missing or empty")
    if len(value) > LONGEST_TEXT:
        raise InvalidEvent(field, f"has {len(value)} characters, {LONGEST_TEXT} are allowed")


def _encoded(content: Mapping[str, Any]) -> bytes:
    body = _json("data", content)
    if b"\\u0000" in body.replace(b"\\\\", b""):  # the character, and not a text that spells its escape
        raise InvalidEvent("data", "a text contains U+0000, which cannot be stored; remove it")
    if len(body) > LARGEST_EVENT:
        raise InvalidEvent("data", f"the event has {len(body)} bytes, {LARGEST_EVENT} are allowed; send less metadata")
    return body


def _json(field: str, value: Any) -> bytes:
    try:
        return _encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise InvalidEvent(field, f"is no JSON: {error}") from error

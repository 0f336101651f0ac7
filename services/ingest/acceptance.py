"""What ingest accepts (pure): the bytes of a record become a usage event, or a reason that a person understands.

The common case is one msgspec decode into typed structs. Only what fails it is looked at again, slowly, to say why – or
to find that an unknown attribute of `data`, which is allowed, was the only trouble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from shared.contracts import MAX_STRING, SPEC_VERSION, USAGE_TYPE, UsageData, UsageEvent
from shared.corrections import AMEND_TYPE, VOID_TYPE, AmendEvent, VoidEvent

Headers = Sequence[tuple[str, bytes | None]]
Correction: TypeAlias = VoidEvent | AmendEvent


class Reason(StrEnum):
    """Why a record is quarantined. The label of a metric: few, stable names."""

    TOMBSTONE = "tombstone"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    MISSING_FIELD = "missing_field"
    INVALID_VALUE = "invalid_value"
    NUL_CHARACTER = "nul_character"
    UNKNOWN_VERSION = "unknown_version"
    UNKNOWN_TYPE = "unknown_type"
    NOBODY_NAMED = "nobody_named"
    METADATA_TOO_LARGE = "metadata_too_large"
    TOO_OLD = "too_old"
    TOO_FAR_AHEAD = "too_far_ahead"
    KEY_MISMATCH = "key_mismatch"
    CONFLICT = "conflict"
    ALREADY_VOIDED = "already_voided"
    NOT_VOIDABLE = "not_voidable"
    REFUSED_BY_DATABASE = "refused_by_database"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is not a usage event of ours. `detail` says what is wrong and, where one can, how to mend it."""

    reason: Reason
    detail: str

    def __post_init__(self) -> None:
        """Keep out of `detail` what neither Postgres nor a header can hold: it may quote the record."""
        storable = self.detail.replace("\x00", "\\u0000").encode("utf-8", "backslashreplace").decode()
        object.__setattr__(self, "detail", storable)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a record may be. Bytes, counts, and how far its event time may lie from now."""

    record_bytes: int = 256 * 1024
    metadata_bytes: int = 4 * 1024
    metadata_keys: int = 32
    metadata_depth: int = 16
    ahead: timedelta = timedelta(minutes=5)
    late: timedelta = timedelta(days=35)

    def window(self, now: datetime) -> tuple[datetime, datetime]:
        """Return the earliest and the latest event time that is accepted at `now`."""
        return now - self.late, now + self.ahead


_decode = msgspec.json.Decoder(UsageEvent).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.encode
_DATA_FIELDS = frozenset(UsageData.__struct_fields__)
_ENVELOPE_HEADERS = {f"ce_{name}": name for name in UsageEvent.__struct_fields__ if name != "data"}
_NUL = b"\\u0000"
_KINDS: dict[object, type[UsageEvent | VoidEvent | AmendEvent]] = {
    USAGE_TYPE: UsageEvent,
    VOID_TYPE: VoidEvent,
    AMEND_TYPE: AmendEvent,
}


def accept(
    value: bytes | None, headers: Headers, limits: Limits, earliest: datetime, latest: datetime
) -> UsageEvent | Correction | Rejected:
    """Return the usage event or the correction in a record, in structured or binary CloudEvents mode, or why there is none.

    Never raises, whatever the bytes. `earliest` and `latest` come from `limits.window(now)`, once for a batch.
    """
    if value is None:
        return Rejected(
            Reason.TOMBSTONE, "the record has no value; a usage event cannot be deleted, correct it by an adjustment"
        )
    if len(value) > limits.record_bytes:
        return Rejected(
            Reason.TOO_LARGE,
            f"the record has {len(value)} bytes, {limits.record_bytes} are allowed; send less metadata",
        )
    binary = bool(headers) and _is_binary_mode(headers)
    event: UsageEvent | Correction
    try:  # a correction, too, takes the slow way: there are few
        event = _decode_binary_mode(value, headers) if binary else _decode(value)
    except Exception:
        found = _decode_slowly(value, headers, binary=binary)
        if isinstance(found, Rejected):
            return found
        event = found
    nul_possible = _NUL in value or (binary and any(b"\x00" in (content or b"") for _, content in headers))
    return _judge(event, value, limits, earliest, latest, nul_possible=nul_possible) or event


def _judge(
    event: UsageEvent | Correction,
    value: bytes,
    limits: Limits,
    earliest: datetime,
    latest: datetime,
    *,
    nul_possible: bool,
) -> Rejected | None:
    """Return what is wrong with a well-formed event, if anything: the rules that lie between fields."""
    if not isinstance(event, UsageEvent) and event.corrects == event.id:
        return Rejected(Reason.INVALID_VALUE, "an event cannot correct itself: name the id of the original")
    if not isinstance(event, VoidEvent) and (problem := _usage_problem(event, value, limits)):
        return problem
    if event.time < earliest:
        return Rejected(
            Reason.TOO_OLD,
            f"time {event.time.isoformat()} is before {earliest.isoformat()}, the start of the late window",
        )
    if event.time > latest:
        return Rejected(
            Reason.TOO_FAR_AHEAD,
            f"time {event.time.isoformat()} is after {latest.isoformat()}; check the gateway's clock",
        )
    if nul_possible and _has_nul(msgspec.to_builtins(event)):
        return Rejected(
            Reason.NUL_CHARACTER, "a text contains the NUL character (\\u0000), which Postgres cannot store; remove it"
        )
    return None


def _usage_problem(event: UsageEvent | AmendEvent, value: bytes, limits: Limits) -> Rejected | None:
    """Return what is wrong with what an event says was used, and by whom."""
    data = event.data
    if data.model is None and data.tool_name is None:
        return Rejected(
            Reason.MISSING_FIELD, "data needs a model or a tool_name: without one nobody can tell what was used"
        )
    if not (event.subject or data.api_key_id or data.api_key_hash):
        return Rejected(
            Reason.NOBODY_NAMED, "give a subject (subscription id), data.api_key_id or data.api_key_hash: who used it?"
        )
    if data.cached_tokens > data.request_tokens:
        return Rejected(
            Reason.INVALID_VALUE,
            f"data.cached_tokens {data.cached_tokens} exceeds data.request_tokens {data.request_tokens}; "
            "request_tokens includes cached ones: add them up before sending",
        )
    return None if data.metadata is None else _metadata_problem(data.metadata, value, limits)


def _metadata_problem(metadata: dict[str, Any], record: bytes, limits: Limits) -> Rejected | None:
    deep = (
        record.count(b"{") + record.count(b"[") > limits.metadata_depth
    )  # else it cannot be: most need no closer look
    if deep and _deeper(metadata, limits.metadata_depth):  # first: what follows recurses
        return Rejected(
            Reason.METADATA_TOO_LARGE,
            f"metadata is nested more than {limits.metadata_depth} levels deep; send flat attributes",
        )
    if len(metadata) > limits.metadata_keys:
        return Rejected(
            Reason.METADATA_TOO_LARGE, f"metadata has {len(metadata)} keys, {limits.metadata_keys} are allowed"
        )
    if len(record) <= limits.metadata_bytes:
        return None  # a part is no larger than the whole
    size = len(_encode(metadata))
    if size > limits.metadata_bytes:
        return Rejected(Reason.METADATA_TOO_LARGE, f"metadata has {size} bytes, {limits.metadata_bytes} are allowed")
    return None


def _unknown_contract(specversion: object, event_type: object) -> Rejected:
    if specversion != SPEC_VERSION:
        return Rejected(
            Reason.UNKNOWN_VERSION,
            f"specversion {_short(specversion)} is not known here; send CloudEvents {SPEC_VERSION}",
        )
    return Rejected(
        Reason.UNKNOWN_TYPE,
        f"type {_short(event_type)} is not known here; usage events have type {USAGE_TYPE}, corrections {VOID_TYPE} and {AMEND_TYPE}",
    )


def _deeper(part: dict[str, Any] | list[Any], levels: int) -> bool:
    """Tell whether objects and arrays are nested more than `levels` deep; looks no deeper than that."""
    if levels == 0:
        return True
    children = part.values() if isinstance(part, dict) else part
    return any(isinstance(child, (dict, list)) and _deeper(child, levels - 1) for child in children)


# --- binary mode: attributes in ce_* headers, data in the body -------------------------------------------------------


def _is_binary_mode(headers: Headers) -> bool:
    """Tell whether the attributes are in the headers. As CloudEvents has it, a structured content-type overrules them."""
    found = False
    for name, content in headers:
        if name in {"ce_specversion", "ce_id"}:
            found = True
        elif name == "content-type" and content and content.startswith(b"application/cloudevents"):
            return False
    return found


def _decode_binary_mode(value: bytes, headers: Headers) -> UsageEvent:
    return msgspec.convert({**_envelope(headers), "data": _decode_any(value)}, UsageEvent)


def _envelope(headers: Headers) -> dict[str, str]:
    """Return the attributes that we read; those of others may hold what they like."""
    return {
        _ENVELOPE_HEADERS[name]: (content or b"").decode("utf-8")
        for name, content in headers
        if name in _ENVELOPE_HEADERS
    }


# --- the slow look ---------------------------------------------------------------------------------------------------


def _decode_slowly(value: bytes, headers: Headers, *, binary: bool) -> UsageEvent | Correction | Rejected:
    """Say why a record did not decode, or decode it with the unknown attributes of `data` moved under `metadata`."""
    if not value:
        return Rejected(Reason.NOT_JSON, "the value is empty; send the event as JSON")
    what = "value"
    try:
        value.decode("utf-8")
        what = "ce_ headers"
        envelope = _envelope(headers) if binary else {}
    except UnicodeDecodeError as error:
        return Rejected(Reason.NOT_UTF8, f"the text of the {what} is not UTF-8 (byte {error.start}: {error.reason})")
    try:
        document = _decode_any(value)
    except RecursionError:
        return Rejected(Reason.NOT_JSON, "the JSON is nested too deeply")
    except (msgspec.DecodeError, ValueError) as error:
        hint = "; a \\ud… escape must be half of a surrogate pair" if b"\\ud" in value.lower() else ""
        return Rejected(Reason.NOT_JSON, f"the value is not JSON: {error}{hint}")
    if binary:
        document = {**envelope, "data": document}
    if not isinstance(document, dict):
        return Rejected(
            Reason.NOT_JSON, f"the value is a JSON {_json_kind(document)}, not an object with a CloudEvents envelope"
        )
    return _convert(document)


def _convert(document: dict[str, Any]) -> UsageEvent | Correction | Rejected:
    for attribute in ("specversion", "type"):
        if attribute not in document:
            return Rejected(Reason.MISSING_FIELD, f"the CloudEvents attribute '{attribute}' is missing")
    kind = _KINDS.get(document["type"]) if isinstance(document["type"], str) else None
    if document["specversion"] != SPEC_VERSION or kind is None:
        return _unknown_contract(document["specversion"], document["type"])
    data = document.get("data")
    if data is None and "data_base64" in document:
        return Rejected(Reason.MISSING_FIELD, "send the usage as a JSON object in 'data', not in 'data_base64'")
    if isinstance(data, dict) and kind is not VoidEvent:
        named = {"amends": data["amends"]} if kind is AmendEvent and "amends" in data else {}
        content = {name: content for name, content in data.items() if name not in named}
        document = {**document, "data": {**_with_unknown_under_metadata(_with_whole_numbers(content)), **named}}
    try:
        return msgspec.convert(document, kind)
    except RecursionError:
        return Rejected(Reason.NOT_JSON, "the JSON is nested too deeply")
    except (msgspec.ValidationError, ValueError) as error:
        message = str(error)
        reason = Reason.MISSING_FIELD if "missing required field" in message else Reason.INVALID_VALUE
        return Rejected(reason, message[:MAX_STRING])


def _with_whole_numbers(data: dict[str, Any]) -> dict[str, Any]:
    """Make 812.0 the integer 812: JSON knows one kind of number, and the published schema takes both for an integer."""
    return {
        name: int(content) if isinstance(content, float) and content.is_integer() and name in _DATA_FIELDS else content
        for name, content in data.items()
    }


def _with_unknown_under_metadata(data: dict[str, Any]) -> dict[str, Any]:
    metadata = data.get("metadata")
    if metadata is None:
        metadata = {}
    unknown = data.keys() - _DATA_FIELDS
    known = {name: content for name, content in data.items() if name in _DATA_FIELDS}
    if not unknown or not isinstance(metadata, dict):
        return known  # metadata of a wrong type: let the conversion say so
    return {**known, "metadata": {**{name: data[name] for name in sorted(unknown)}, **metadata}}


def _has_nul(part: object) -> bool:
    if isinstance(part, str):
        return "\x00" in part
    if isinstance(part, dict):
        return any(_has_nul(key) or _has_nul(content) for key, content in part.items())
    if isinstance(part, list):
        return any(_has_nul(item) for item in part)
    return False


def _json_kind(document: object) -> str:
    kinds = {
        dict: "object",
        list: "array",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
    }
    return kinds.get(type(document), "value")


def _short(thing: object) -> str:
    try:
        text = repr(thing)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        return f"({_json_kind(thing)})"
    return text if len(text) <= 80 else text[:77] + "…"


def in_utc(at: datetime) -> datetime:
    """Return the same instant in UTC; already-UTC times, the common case, are returned as they are."""
    return at if at.tzinfo is UTC else at.astimezone(UTC)

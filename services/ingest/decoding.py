"""From bytes to a well-formed event (pure): structured or binary CloudEvents mode, quickly, or slowly with a reason.

The common case is one msgspec decode into typed structs. Only what fails it is looked at again, slowly, to say why – or
to find that an unknown attribute of `data`, which is allowed, was the only trouble, or that it is a correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from services.ingest.reasons import Reason, Rejected
from shared.contracts import MAX_STRING, SPEC_VERSION, USAGE_TYPE, UsageData, UsageEvent
from shared.corrections import AMEND_TYPE, VOID_TYPE, AmendEvent, VoidEvent

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]
Correction: TypeAlias = VoidEvent | AmendEvent

decode_structured = msgspec.json.Decoder(UsageEvent).decode
"""Return the usage event in a value. Raises for anything else, what is allowed but rare included: `decode_slowly` looks again."""

_decode_any = msgspec.json.Decoder().decode
_DATA_FIELDS = frozenset(UsageData.__struct_fields__)
_ENVELOPE_HEADERS = {f"ce_{name}": name for name in UsageEvent.__struct_fields__ if name != "data"}
_KINDS: dict[object, type[UsageEvent | VoidEvent | AmendEvent]] = {
    USAGE_TYPE: UsageEvent,
    VOID_TYPE: VoidEvent,
    AMEND_TYPE: AmendEvent,
}


def is_binary_mode(headers: Headers) -> bool:
    """Tell whether the attributes are in the headers. As CloudEvents has it, a structured content-type overrules them."""
    found = False
    for name, content in headers:
        if name in {"ce_specversion", "ce_id"}:
            found = True
        elif name == "content-type" and content and content.startswith(b"application/cloudevents"):
            return False
    return found


def decode_binary(value: bytes, headers: Headers) -> UsageEvent:
    """Return the usage event whose attributes are in the headers and its data in the value. Raises as `decode_structured` does."""
    return msgspec.convert({**_envelope(headers), "data": _decode_any(value)}, UsageEvent)


def _envelope(headers: Headers) -> dict[str, str]:
    """Return the attributes that we read; those of others may hold what they like."""
    return {
        _ENVELOPE_HEADERS[name]: (content or b"").decode("utf-8")
        for name, content in headers
        if name in _ENVELOPE_HEADERS
    }


def decode_slowly(value: bytes, headers: Headers, *, binary: bool) -> UsageEvent | Correction | Rejected:
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

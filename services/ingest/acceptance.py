"""What ingest accepts (pure): the bytes of a record become an event, or a reason that a person understands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from services.ingest.decoding import (
    Correction,
    Headers,
    decode_binary,
    decode_slowly,
    decode_structured,
    is_binary_mode,
)
from services.ingest.reasons import Reason, Rejected
from shared.contracts import UsageEvent
from shared.corrections import AmendEvent, VoidEvent

__all__ = ["Correction", "Headers", "Limits", "Reason", "Rejected", "accept", "in_utc"]

_encode = msgspec.json.encode
_NUL = b"\\u0000"
_CONTAINERS = (dict, list)


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
    binary = bool(headers) and is_binary_mode(headers)
    event: UsageEvent | Correction
    try:  # a correction, too, takes the slow way: there are few
        event = decode_binary(value, headers) if binary else decode_structured(value)
    except Exception:
        found = decode_slowly(value, headers, binary=binary)
        if isinstance(found, Rejected):
            return found
        event = found
    else:
        data, metadata = event.data, event.data.metadata
        if (  # true of nearly every event: nothing about it needs a closer look
            earliest <= event.time <= latest
            and data.cached_tokens <= data.request_tokens
            and (data.model is not None or data.tool_name is not None)
            and (event.subject or data.api_key_id or data.api_key_hash)
            and (
                metadata is None
                or (
                    len(metadata) <= limits.metadata_keys and len(value) <= limits.metadata_bytes and _is_flat(metadata)
                )
            )
            and b"\\" not in value  # no escape, so no NUL either
            and not binary
        ):
            return event
    nul_possible = _NUL in value or (binary and any(b"\x00" in (content or b"") for _, content in headers))
    return _judge(event, value, limits, earliest, latest, nul_possible=nul_possible) or event


def _is_flat(metadata: dict[str, Any]) -> bool:
    for content in metadata.values():  # noqa: SIM110 – for a few values, `any` takes longer than they do
        if type(content) in _CONTAINERS:
            return False
    return True


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


def _deeper(part: dict[str, Any] | list[Any], levels: int) -> bool:
    """Tell whether objects and arrays are nested more than `levels` deep; looks no deeper than that."""
    if levels == 0:
        return True
    children = part.values() if isinstance(part, dict) else part
    return any(isinstance(child, (dict, list)) and _deeper(child, levels - 1) for child in children)


def _has_nul(part: object) -> bool:
    if isinstance(part, str):
        return "\x00" in part
    if isinstance(part, dict):
        return any(_has_nul(key) or _has_nul(content) for key, content in part.items())
    if isinstance(part, list):
        return any(_has_nul(item) for item in part)
    return False


def in_utc(at: datetime) -> datetime:
    """Return the same instant in UTC; already-UTC times, the common case, are returned as they are."""
    return at if at.tzinfo is UTC else at.astimezone(UTC)

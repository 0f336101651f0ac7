"""Records of every kind that must be refused, with the reason that it must be refused for, and odd ones that must not (pure)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

import msgspec

from services.cli.chaos.world import ITEMS
from services.cli.demo.malformed import MALFORMED
from services.cli.demo.record import Record
from shared.contracts import SPEC_VERSION, USAGE_TYPE


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that must be quarantined for `reason`."""

    record: Record
    reason: str


@dataclass(frozen=True, slots=True)
class Odd:
    """A record that looks strange and is a valid event of the first item: `usage` is prompt, answer, cached tokens and latency."""

    record: Record
    usage: tuple[int, int, int, int]


Maker: TypeAlias = Callable[[str, str, datetime, str], Refused | Odd]
"""Makes a record of (event id, subscription id, time, source)."""

REASONS: Final = {
    "tombstone": "tombstone", "empty": "not_json", "not JSON": "not_json", "not an object": "not_json",
    "not UTF-8": "not_utf8", "NUL in a text": "nul_character", "text for a number": "invalid_value",
    "fraction for a number": "invalid_value", "negative count": "invalid_value", "huge count": "invalid_value",
    "count beyond 64 bits": "invalid_value", "more cached than sent": "invalid_value", "impossible status": "invalid_value",
    "missing id": "missing_field", "missing time": "missing_field", "missing data": "missing_field",
    "nobody named": "nobody_named", "neither model nor tool": "missing_field", "time without zone": "invalid_value",
    "not a time": "invalid_value", "unknown version": "unknown_version", "unknown type": "unknown_type",
    "too old": "too_old", "too far ahead": "too_far_ahead", "too large": "too_large", "too much metadata": "metadata_too_large",
    "text too long": "invalid_value",
}  # fmt: skip
"""The reason (docs/reference/quarantine.md) for each kind of malformed record."""


def _malformed(kind: str) -> Maker:
    def make(event_id: str, subscription_id: str, time: datetime, source: str) -> Refused:
        document = _event(event_id, subscription_id, time, source, model="gpt-4o")
        return Refused(Record(subscription_id.encode(), MALFORMED[kind](document)), REASONS[kind])

    return make


def _event(event_id: str, subscription_id: str, time: datetime, source: str, *, model: str) -> dict[str, object]:
    return {
        "specversion": SPEC_VERSION, "id": event_id, "source": source, "type": USAGE_TYPE, "time": time.isoformat(),
        "subject": subscription_id,
        "data": {"model": model, "provider": "chaos", "request_tokens": 100, "response_tokens": 20, "latency_ms": 7},
    }  # fmt: skip


def _header_not_utf8(event_id: str, subscription_id: str, time: datetime, source: str) -> Refused:
    event = _event(event_id, subscription_id, time, source, model=ITEMS[0].name)
    data = event.pop("data")
    headers = [(f"ce_{name}", str(text).encode()) for name, text in event.items() if name != "source"]
    return Refused(
        Record(subscription_id.encode(), msgspec.json.encode(data), (*headers, ("ce_source", b"/\xff\xfe"))), "not_utf8"
    )


def _odd_headers(event_id: str, subscription_id: str, time: datetime, source: str) -> Odd:
    event = _event(event_id, subscription_id, time, source, model=ITEMS[0].name)
    headers = (("trace", None), ("blob", b"\xff\x00\xfe"), ("trace", b""))
    return Odd(Record(subscription_id.encode(), msgspec.json.encode(event), headers), (100, 20, 0, 7))  # type: ignore[arg-type]


def _binary_mode(event_id: str, subscription_id: str, time: datetime, source: str) -> Odd:
    event = _event(event_id, subscription_id, time, source, model=ITEMS[0].name)
    data = event.pop("data")
    headers = tuple((f"ce_{name}", str(text).encode()) for name, text in event.items())
    return Odd(Record(subscription_id.encode(), msgspec.json.encode(data), headers), (100, 20, 0, 7))


POISON: Final[dict[str, Maker]] = {
    **{kind: _malformed(kind) for kind in REASONS},
    "CloudEvents header not UTF-8": _header_not_utf8,
    "headers that are null, empty, not text": _odd_headers,
    "attributes in headers": _binary_mode,
}
"""What is sent to do harm, or merely looks strange, in turn."""

LARGEST_BYTES: Final = 10 * 2**20


def largest(subscription_id: str) -> Refused:
    """Return a record of 10 MiB, which no broker lets in by default."""
    return Refused(Record(subscription_id.encode(), b'{"x":"' + b"x" * (LARGEST_BYTES - 8) + b'"}'), "too_large")

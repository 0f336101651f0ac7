"""Reads what packing writes: COPY's binary format, by the types of our columns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_NUMBERS = {
    "request_tokens", "response_tokens", "cached_tokens", "tokens_returned", "latency_ms", "status_code", "generation"
}  # fmt: skip
_IDS = {"id", "subscription_id", "api_key_id", "batch_id"}


def unpack(copied: bytes, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a whole COPY, by column."""
    assert copied[:19] == SIGNATURE + bytes(8)
    rows, at = [], 19
    while (count := int.from_bytes(copied[at : at + 2], "big", signed=True)) >= 0:
        assert count == len(columns)
        at += 2
        row: dict[str, Any] = {}
        for name in columns:
            size, at = int.from_bytes(copied[at : at + 4], "big", signed=True), at + 4
            row[name] = None if size < 0 else _value(name, copied[at : at + size])
            at += max(size, 0)
        rows.append(row)
    assert copied[at:] == b"\xff\xff", "nothing comes behind the end"
    return rows


def _value(name: str, content: bytes) -> Any:
    if name in _IDS:
        return UUID(bytes=content)
    if name == "created_at":
        return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=int.from_bytes(content, "big", signed=True))
    if name in _NUMBERS:
        return int.from_bytes(content, "big", signed=True)
    if name == "byok":
        return content == b"\1"
    return content[1:].decode() if name == "metadata" else content.decode()

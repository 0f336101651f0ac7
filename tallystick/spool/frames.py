"""Records in a segment file (pure): each is framed by a mark, its length and a CRC, so that what was torn or damaged is found."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import crc32

MARK: Final = b"\xf5TS1"
"""Begins a frame. No UTF-8 text contains its first byte, so a search for the next frame does not stop inside one."""
LARGEST_RECORD: Final = 1024 * 1024
"""Bytes. A length beyond it is damage, not a record."""

_HEADER: Final = struct.Struct(">4sII")
HEADER_BYTES: Final = _HEADER.size


class Frame(NamedTuple):
    """A record, and where its frame ends in the file (bytes)."""

    record: bytes
    end: int


class Damage(NamedTuple):
    """Bytes `[start, end)` that are no frame. `torn` if they are the beginning of one that the file ends in."""

    start: int
    end: int
    torn: bool


def frame(record: bytes) -> bytes:
    """Return the record's frame. Raises `ValueError` for an empty record, or one beyond `LARGEST_RECORD`."""
    if not 0 < len(record) <= LARGEST_RECORD:
        raise ValueError(f"a record has 1 to {LARGEST_RECORD} bytes, this one has {len(record)}")
    return _HEADER.pack(MARK, len(record), crc32(record)) + record


def frames(content: bytes, start: int = 0) -> Iterator[Frame | Damage]:
    """Yield what is in a segment from `start` on, a frame's beginning: each frame, and each stretch that is none, in order."""
    at = start
    while at < len(content):
        found = _frame_at(content, at)
        if found:
            yield found
            at = found.end
            continue
        following = _next_frame(content, at + 1)
        yield Damage(at, following, torn=following == len(content) and _is_cut_off(content, at))
        at = following


def _frame_at(content: bytes, at: int) -> Frame | None:
    if len(content) - at < HEADER_BYTES:
        return None
    mark, length, checksum = _HEADER.unpack_from(content, at)
    end = at + HEADER_BYTES + length
    if mark != MARK or not 0 < length <= LARGEST_RECORD or end > len(content):
        return None
    record = content[at + HEADER_BYTES : end]
    return Frame(record, end) if crc32(record) == checksum else None


def _next_frame(content: bytes, at: int) -> int:
    """Return where the next whole frame begins, else the end."""
    while (at := content.find(MARK, at)) >= 0:
        if _frame_at(content, at):
            return at
        at += 1
    return len(content)


def _is_cut_off(content: bytes, at: int) -> bool:
    """Tell whether the bytes from here on are the beginning of a frame, as far as they go."""
    head = content[at : at + HEADER_BYTES]
    if len(head) < HEADER_BYTES:
        return head[:4] == MARK[: len(head[:4])]
    mark, length, _ = _HEADER.unpack(head)
    return bool(mark == MARK and 0 < length <= LARGEST_RECORD and at + HEADER_BYTES + length > len(content))

"""From the body of a request to single records (pure): content types, encodings, CloudEvents' three modes.

What cannot be read at all is a `Problem`; whether a record is a usage event is ingest's question.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import msgspec
import zstandard

from services.api.problems import MALFORMED, TOO_LARGE, UNSUPPORTED, Problem

MOST_EVENTS: Final = 1_000
"""Most events of one request."""

ONE: Final = "application/cloudevents+json"
MANY: Final = "application/cloudevents-batch+json"
PLAIN: Final = "application/json"
_WINDOW_BYTES: Final = 8 * 2**20
"""What RFC 9659 allows a zstd frame on the web to ask for; a decoder must set as much aside."""
_GZIP: Final = 31
_WHITE: Final = b" \t\r\n"

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a request in structured mode, and whether they came as a list."""

    values: list[bytes]
    listed: bool


def records(body: bytes, headers: Mapping[str, str]) -> Records:
    """Return the records of a body that is inflated already. Raises `Problem`: 415 for other content types, 400, 413."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    binary = "ce-id" in headers or "ce-specversion" in headers
    if kind == ONE or (kind == PLAIN and not binary and not body.lstrip(_WHITE).startswith(b"[")):
        return Records([body], listed=False)
    if kind in (MANY, PLAIN) and not (binary and kind == PLAIN):
        return Records(_elements(body), listed=True)
    if kind == PLAIN:
        return Records([_structured(body, headers)], listed=False)
    raise Problem(
        UNSUPPORTED,
        f"Content-Type {kind or '(none)'} is not known here: send one event as {ONE}, an array of them as {MANY}, "
        f"or either as {PLAIN}",
        headers={"Accept": f"{ONE}, {MANY}, {PLAIN}"},
    )


def inflate(body: bytes, encoding: str, most: int) -> bytes:
    """Return a body without its content encoding, reading no further than `most` bytes. Raises `Problem`: 415, 413, 400."""
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            return _gunzip(body, most)
        case "zstd":
            return _unzstd(body, most)
    raise Problem(
        UNSUPPORTED, f"Content-Encoding {encoding} is not known here: send gzip, zstd or none", headers={"Accept-Encoding": "gzip, zstd"}
    )  # fmt: skip


def _gunzip(body: bytes, most: int) -> bytes:
    stream = zlib.decompressobj(_GZIP)
    try:
        inflated = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise Problem(MALFORMED, f"the body is not gzip: {error}") from None
    if len(inflated) > most:
        raise _too_large(most)
    if not stream.eof or stream.unused_data:
        raise Problem(MALFORMED, "the body is not one whole gzip stream")
    return inflated


def _unzstd(body: bytes, most: int) -> bytes:
    reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).stream_reader(body, read_across_frames=True)
    try:
        inflated = reader.read(most + 1)
    except zstandard.ZstdError as error:
        raise Problem(MALFORMED, f"the body is not zstd, or asks for a window above 8 MiB: {error}") from None
    if len(inflated) > most:
        raise _too_large(most)
    return inflated


def _too_large(most: int) -> Problem:
    return Problem(TOO_LARGE, f"the body is larger than {most:,} bytes when inflated: send less at once")


def _elements(body: bytes) -> list[bytes]:
    try:
        elements = _split(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Problem(MALFORMED, f"the body is not a JSON array of events: {error}") from None
    if len(elements) > MOST_EVENTS:
        raise Problem(TOO_LARGE, f"{len(elements):,} events are too many for one request: send {MOST_EVENTS:,} at most")
    return [bytes(element) for element in elements]


def _structured(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Put the attributes that a binary-mode request has in its headers around its body."""
    event: dict[str, Any] = {
        name.removeprefix("ce-"): unquote(value) for name, value in headers.items() if name.startswith("ce-")
    }
    try:
        event["data"] = _decode(body)
        return _encode(event)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return body  # ingest's rules say what is wrong with it

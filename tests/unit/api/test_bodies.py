"""Bodies of requests with events: which forms are read, and what is refused before it costs anything."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Mapping

import pytest
import zstandard

from services.api.events.bodies import MANY, MOST_EVENTS, ONE, PLAIN, inflate, records
from services.api.problems import Problem

LIMIT = 100_000
_WIDE = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27)).compressobj()
WIDE = _WIDE.compress(b"x") + _WIDE.flush()
"""A small frame that asks its reader to set 128 MiB aside."""


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(Problem) as problem:
        read()
    return problem.value.kind.slug


@pytest.mark.parametrize("kind", [ONE, PLAIN, f"{ONE}; charset=utf-8", PLAIN.upper()])
def test_one_event_is_its_body(kind: str) -> None:
    found = records(b' {"id": "1"}', {"content-type": kind})
    assert (found.values, found.listed) == ([b' {"id": "1"}'], False)


@pytest.mark.parametrize("kind", [MANY, PLAIN])
def test_a_list_is_split_and_its_events_are_left_as_they_are(kind: str) -> None:
    found = records(b' [ {"id": 1e3, "b":  [{}]} , 7,\n"x"]', {"content-type": kind})
    assert (found.values, found.listed) == ([b'{"id": 1e3, "b":  [{}]}', b"7", b'"x"'], True)


def test_the_attributes_of_binary_mode_are_in_headers() -> None:
    headers = {
        "content-type": PLAIN, "ce-specversion": "1.0", "ce-id": "Euro%20%E2%82%AC", "ce-source": "/g", "host": "here",
    }  # fmt: skip
    found = records(b'{"model": "m"}', headers)
    assert not found.listed
    assert json.loads(found.values[0]) == {"specversion": "1.0", "id": "Euro €", "source": "/g", "data": {"model": "m"}}


def test_a_structured_content_type_overrules_headers() -> None:
    assert records(b"{}", {"content-type": ONE, "ce-id": "1"}).values == [b"{}"]


@pytest.mark.parametrize(
    ("body", "headers", "kind"),
    [
        (b"id=1", {"content-type": "application/x-www-form-urlencoded"}, "unsupported-media-type"),
        (b"{}", {}, "unsupported-media-type"),
        (b"{}", {"content-type": MANY}, "malformed"),
        (b"[{}", {"content-type": MANY}, "malformed"),
        (b"[" * 100_000, {"content-type": MANY}, "malformed"),
        (b"[" + b"7," * MOST_EVENTS + b"7]", {"content-type": MANY}, "payload-too-large"),
    ],
)
def test_what_is_no_request_is_refused_as_a_whole(body: bytes, headers: Mapping[str, str], kind: str) -> None:
    assert refused(lambda: records(body, headers)) == kind


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("zstd", zstandard.compress),
        ("", bytes),
        ("identity", bytes),
    ],
)
def test_a_body_is_inflated_up_to_the_limit(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    whole = bytes(LIMIT)
    assert inflate(compress(whole), encoding, LIMIT) == whole
    if encoding not in ("", "identity"):
        assert refused(lambda: inflate(compress(whole + b"0"), encoding, LIMIT)) == "payload-too-large"


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstandard.compress)])
def test_a_bomb_is_refused_while_it_inflates(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(64 * 2**20))
    tracemalloc.start()
    assert refused(lambda: inflate(bomb, encoding, LIMIT)) == "payload-too-large"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 2**20


@pytest.mark.parametrize(
    ("encoding", "body", "kind"),
    [
        ("br", b"", "unsupported-media-type"),
        ("gzip, zstd", b"", "unsupported-media-type"),
        ("gzip", b"", "malformed"),
        ("gzip", b"plain", "malformed"),
        ("gzip", gzip.compress(b"x" * 1_000, mtime=0)[:-9], "malformed"),
        ("gzip", gzip.compress(b"", mtime=0) * 10_000, "malformed"),  # each member would copy what is left
        ("zstd", b"plain", "malformed"),
        (
            "zstd",
            WIDE,
            "malformed",
        ),
    ],
)
def test_what_is_not_encoded_as_it_says_is_refused(encoding: str, body: bytes, kind: str) -> None:
    assert refused(lambda: inflate(body, encoding, LIMIT)) == kind

"""What is not a usage.recorded message of ours stops the partition: nothing is skipped."""

from __future__ import annotations

import pytest

from services.aggregator.aggregation import check
from shared.contracts import encode
from shared.errors import BrokenInvariant
from shared.recorded import decode
from tests.unit.aggregator.facts import NOON, delta, record, recorded

GOOD = encode(recorded(delta()))


def test_a_message_of_ours_is_decoded() -> None:
    message = recorded(delta(requests=3))
    assert decode(record(encode(message)), check) == message


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"{}",
        GOOD[:-1],
        GOOD.replace(b'"requests":1', b'"requests":"1"'),
        GOOD.replace(b'"version":1', b'"version":2'),
        GOOD.replace(b"T12:00:00Z", b"T12:30:00Z"),
        GOOD.replace(b"T12:00:00Z", b"T12:00:00"),
        encode(recorded(delta(latency_count=1, latency_histogram=[1]))),
    ],
)
def test_anything_else_halts_and_says_where(value: bytes | None) -> None:
    assert value != GOOD
    with pytest.raises(BrokenInvariant, match=r"usage\.recorded\[3\] offset 42 is not a usage\.recorded message"):
        decode(record(value, partition=3, offset=42), check)


def test_an_unknown_version_says_what_to_do() -> None:
    newer = encode(recorded(delta(), version=2, recorded_at=NOON))
    with pytest.raises(BrokenInvariant, match="upgrade the consumers before ingest"):
        decode(record(newer))

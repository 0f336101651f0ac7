"""Kafka record batches byte by byte, for what no client library lets a test send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

Header: TypeAlias = tuple[bytes, bytes | None]


class _Bytes(str):
    """A header name that encodes to any bytes."""

    raw: bytes

    def encode(self, *_: object, **__: object) -> bytes:
        return self.raw


def _name(raw: bytes) -> str:
    name = _Bytes("name")
    name.raw = raw
    return name


def batch_of_records(records: Sequence[Sequence[Header]], *, codec: int = 0, base_offset: int = 0) -> bytes:
    """Return a record batch (format 2) with one record for each list of headers: key `key`, value `value 0`, `value 1`, …"""
    builder = batch_builder(codec=codec)
    for number, headers in enumerate(records):
        add_record(builder, number, b"value %d" % number, headers, key=b"key")
    batch = bytearray(builder.build())
    batch[:8] = base_offset.to_bytes(8, "big")  # outside of what the checksum covers
    return bytes(batch)


def batch_builder(*, codec: int = 0) -> _DefaultRecordBatchBuilderPy:
    """Return aiokafka's builder of a record batch, the one in Python, which asks a header name to encode itself."""
    return _DefaultRecordBatchBuilderPy(
        magic=2,
        compression_type=codec,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )


def add_record(
    builder: _DefaultRecordBatchBuilderPy,
    offset: int,
    value: bytes | None,
    headers: Sequence[Header],
    *,
    key: bytes | None,
) -> None:
    """Add a record whose header names are bytes."""
    builder.append(offset, 1_000, key, value, [(_name(raw), content) for raw, content in headers])

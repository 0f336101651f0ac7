"""Two gaps in aiokafka's fetching, closed: a header name that is not UTF-8, and a fetch that fails halfway.

Any client may send a header name of any bytes. aiokafka (0.14) decodes it strictly while it hands out a fetch: it raises
from `getmany`, again and again at the same record, and the worker stands still. `TolerantRecords` reads such a batch with
the bytes of the name escaped (`caf\\xe9`), so that the record is judged like any other.

Whatever else makes `getmany` fail (a corrupt batch, an unknown codec), it may have taken records of other partitions out
of its buffer already, and they are gone. `watch_fetches` tells of it, so that those partitions seek again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import aiokafka.consumer.fetcher
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import ConsumerStoppedError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_LENGTH_AT = 8
_AFTER_LENGTH = 12


class _EscapingBytes(bytearray):
    """Bytes whose parts decode with escapes where they are not UTF-8."""

    def __getitem__(self, place: Any) -> Any:
        part = super().__getitem__(place)
        return _EscapingBytes(part) if isinstance(place, slice) else part

    def decode(self, encoding: str = "utf-8", _errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


class _TolerantBatch:
    """A record batch of aiokafka that is read a second time, slowly, if a header name in it is not UTF-8."""

    def __init__(self, batch: Any, content: memoryview) -> None:
        self._batch = batch
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._batch
        except UnicodeDecodeError:
            yield from self._again()  # from the start: aiokafka skips the offsets that it has seen

    def _again(self) -> Iterator[Any]:
        batch = _DefaultRecordBatchPy(self._content)
        records = iter(batch)  # decompresses
        batch._buffer = _EscapingBytes(batch._buffer)  # only here does aiokafka decode a text
        yield from records


class TolerantRecords:
    """The record batches of one fetched partition, in aiokafka's shape (`MemoryRecords`)."""

    def __init__(self, content: bytes) -> None:
        self._records = MemoryRecords(content)
        self._content = memoryview(content)
        self._at = 0

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _TolerantBatch:
        start, length_at = self._at, self._at + _LENGTH_AT
        self._at += _AFTER_LENGTH + int.from_bytes(self._content[length_at : self._at + _AFTER_LENGTH], "big")
        return _TolerantBatch(self._records.next_batch(), self._content[start : self._at])


def tolerate_header_names() -> None:
    """Let every consumer of this process read header names of any bytes. aiokafka has no seam for it but this name."""
    aiokafka.consumer.fetcher.MemoryRecords = TolerantRecords


def watch_fetches(consumer: AIOKafkaConsumer, failed: Callable[[Exception], None]) -> bool:
    """Call `failed` whenever the consumer's `getmany` raises, before anybody else hears of it. Once is enough for a consumer.

    Return whether it was the first time: a call of `getmany` may be under way then that is not watched.
    """
    fetch = consumer.getmany
    if getattr(fetch, "watched", False):
        return False

    async def getmany(*partitions: Any, **options: Any) -> Any:
        try:
            return await fetch(*partitions, **options)
        except ConsumerStoppedError:
            raise
        except Exception as error:
            failed(error)
            raise

    getmany.watched = True  # type: ignore[attr-defined]
    consumer.getmany = getmany
    return True

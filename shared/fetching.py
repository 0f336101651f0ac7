"""Two gaps in aiokafka's fetching, closed: a header name that is not UTF-8, and a fetch that fails halfway. And a faster way through it.

Any client may send a header name of any bytes. aiokafka (0.14) decodes it strictly while it hands out a fetch: it raises
from `getmany`, again and again at the same record, and the worker stands still. `TolerantRecords` reads such a batch with
the bytes of the name escaped (`caf\\xe9`), so that the record is judged like any other.

Whatever else makes `getmany` fail (a corrupt batch, an unknown codec), it may have taken records of other partitions out
of its buffer already, and they are gone. `watch_fetches` tells of it, so that those partitions seek again.

Of what aiokafka takes for a record, three quarters go into objects of Python around it. Who has another reader of batches hands it to
`read_batches_with`; what that reader does not take, aiokafka reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import aiokafka.consumer.fetcher
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import ConsumerStoppedError
from aiokafka.record.default_records import DefaultRecord, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

if TYPE_CHECKING:
    from shared.slices import Record


class BatchReader(Protocol):
    """Reads batches in aiokafka's place. A batch lies in the bytes between two places."""

    def intact(self, content: bytes, start: int, end: int) -> bool:
        """Tell whether its checksum is right. Where it is not, aiokafka is asked as well."""

    def records(self, content: bytes, start: int, end: int, tp: TopicPartition) -> Sequence[Record] | None:
        """Return its records, as those of a partition; None for a batch that it does not read."""


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
    """A record batch of aiokafka that is read a second time, slowly, if a header name in it is not UTF-8. Or by the reader, if that takes it."""

    def __init__(self, batch: Any, records: TolerantRecords, start: int, end: int) -> None:
        self._batch = batch
        self._of = records
        self._place = start, end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def validate_crc(self) -> bool:
        reader = self._of.reader
        return (reader is not None and reader.intact(self._of.content, *self._place)) or bool(
            self._batch.validate_crc()
        )

    def __iter__(self) -> Iterator[Any]:
        reader, tp = self._of.reader, self._of.topic_partition
        found = reader.records(self._of.content, *self._place, tp) if reader and tp else None
        return self._tolerantly() if found is None else iter(found)

    def _tolerantly(self) -> Iterator[Any]:
        try:
            yield from self._batch
        except UnicodeDecodeError:
            yield from self._again()  # from the start: aiokafka skips the offsets that it has seen

    def _again(self) -> Iterator[Any]:
        start, end = self._place
        batch = _DefaultRecordBatchPy(memoryview(self._of.content)[start:end])
        records = iter(batch)  # decompresses
        batch._buffer = _EscapingBytes(batch._buffer)  # only here does aiokafka decode a text
        yield from records


class TolerantRecords:
    """The record batches of one fetched partition, in aiokafka's shape (`MemoryRecords`)."""

    reader: BatchReader | None = None
    """What reads batches before aiokafka is asked to."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.topic_partition: TopicPartition | None = None
        """Whose they are; without it, aiokafka reads them."""
        self._records = MemoryRecords(content)
        self._at = 0

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _TolerantBatch:
        start, length_at = self._at, self._at + _LENGTH_AT
        self._at += _AFTER_LENGTH + int.from_bytes(self.content[length_at : self._at + _AFTER_LENGTH], "big")
        return _TolerantBatch(self._records.next_batch(), self, start, self._at)


class _PartitionRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka is not typed
    """aiokafka's walk through a fetched partition, which leaves records alone that are read already."""

    def __init__(self, tp: TopicPartition, records: TolerantRecords, *how: Any) -> None:
        super().__init__(tp, records, *how)
        records.topic_partition = tp

    def __iter__(self) -> Iterator[Any]:
        return self._records_iterator  # type: ignore[no-any-return]  # without a call of __next__ for each record

    def _consumer_record(self, tp: TopicPartition, record: Any) -> Any:
        return super()._consumer_record(tp, record) if isinstance(record, DefaultRecord) else record


def tolerate_header_names() -> None:
    """Let every consumer of this process read header names of any bytes. aiokafka has no seam for it but this name."""
    aiokafka.consumer.fetcher.MemoryRecords = TolerantRecords


def read_batches_with(reader: BatchReader | None) -> None:
    """Let every consumer of this process read batches so; None: as aiokafka does."""
    tolerate_header_names()
    TolerantRecords.reader = reader
    aiokafka.consumer.fetcher.PartitionRecords = _PartitionRecords if reader else PartitionRecords


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

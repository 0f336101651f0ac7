"""The compiled reading of what was fetched: records whose parts are made when somebody looks at them, and the compiled sweep does not.

aiokafka says where a batch lies, checks its sum, and drops what a producer aborted. A batch that this does not read, aiokafka reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from aiokafka import codec

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from shared.slices import Record

_HEAD: Final = Struct(">qiibIhiqqqhii")
"""In front of a batch's records: base offset, length, leader's epoch, format, checksum, attributes, last offset, first and last time,
producer's id, epoch and sequence, number of records."""
_SUMMED_FROM: Final = 21
"""The checksum is of all that follows it."""
_FORMAT: Final = 2
_CODEC, _APPEND_TIME = 0x07, 0x08
_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}


@dataclass(frozen=True, slots=True)
class CompiledReader:
    """Reads batches (a `shared.fetching.BatchReader`)."""

    native: Any

    def intact(self, content: bytes, start: int, end: int) -> bool:
        """Tell whether a batch of the present format is what its checksum says."""
        if end - start < _HEAD.size or end > len(content):
            return False
        _, _, _, magic, checksum, *_ = _HEAD.unpack_from(content, start)
        return bool(magic == _FORMAT and self.native.checksum(content, start + _SUMMED_FROM, end) == checksum)

    def records(self, content: bytes, start: int, end: int, tp: TopicPartition) -> Sequence[Record] | None:
        """Return the records of a batch; None for an older format, and for what is damaged or packed in a way that is not known here."""
        if end - start < _HEAD.size or end > len(content):
            return None
        base_offset, _, _, magic, _, attributes, _, first, last, *_, count = _HEAD.unpack_from(content, start)
        if magic != _FORMAT or count < 0:
            return None
        block, begin, packed = content, start + _HEAD.size, attributes & _CODEC
        try:
            if packed:
                block = bytes(_DECODERS[packed](content[begin:end]))
                begin, end = 0, len(block)
            append_time = last if attributes & _APPEND_TIME else None
            return self.native.records(  # type: ignore[no-any-return]
                block, begin, end, count, base_offset, first, append_time, tp.topic, tp.partition
            )
        except Exception:  # whatever a decoder raises: aiokafka comes to the same, and says so
            return None

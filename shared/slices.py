"""What the consumer hands to a service, and what it gets back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.positions import Position
from shared.postgres import Connection


class Record(Protocol):
    """What we look at of a Kafka record, such as aiokafka's `ConsumerRecord`."""

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @property
    def timestamp(self) -> int | None:
        """Milliseconds since 1970, as the producer or the broker has set it."""

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


@dataclass(frozen=True, slots=True)
class Slice:
    """Records of one partition that are not applied yet, in offset order, and the position they start from."""

    position: Position
    records: Sequence[Record]

    @property
    def first_offset(self) -> int:
        return self.position.next_offset

    @property
    def next_offset(self) -> int:
        """The position once this slice is applied."""
        return self.records[-1].offset + 1

    @property
    def gaps(self) -> int:
        """Offsets of the slice that hold no record: transaction markers and compacted records."""
        return self.next_offset - self.first_offset - len(self.records)


class AfterCommit(Protocol):
    """What remains to be done once the slice is committed: remember, publish. May fail without harm: the outbox keeps it."""

    async def __call__(self) -> None: ...


class Apply(Protocol):
    """Stores the effects of a slice *and advances its position* in the caller's transaction."""

    async def __call__(self, connection: Connection, batch: Slice) -> AfterCommit: ...

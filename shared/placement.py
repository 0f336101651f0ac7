"""Where records belong (pure): every decision of the consumer that keeps an event from being lost or counted twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from shared.errors import BrokenInvariant

if TYPE_CHECKING:
    from shared.positions import Position


class HasOffset(Protocol):
    """A record, as far as its place is concerned."""

    offset: int


RecordT = TypeVar("RecordT", bound=HasOffset)


class OutOfPlace(Exception):
    """The records do not begin at the position: a missed seek, a gap not confirmed by a seek, or a topic cut off. Seek again."""


def check_position(position: Position, beginning: int, end: int) -> None:
    """Compare a stored position with the offsets that the broker holds. Raises `BrokenInvariant` that says what to do."""
    place = f"{position.topic}[{position.partition}]"
    if position.next_offset > end:
        raise BrokenInvariant(
            f"{place} ends at offset {end}, but everything below {position.next_offset} was stored already: the topic was recreated or "
            "lost data. Nothing is read until an operator decides (docs/how-to/topic-recreated.md)"
        )
    if position.next_offset < beginning:
        raise BrokenInvariant(
            f"{place} begins at offset {beginning}, but {position.next_offset} is next: retention deleted {beginning - position.next_offset} "
            "records before they were read. Nothing is read until an operator decides (docs/how-to/retention-overrun.md)"
        )


def fresh_records(records: Sequence[RecordT], next_offset: int, sought: int | None) -> Sequence[RecordT]:
    """Return those of the fetched `records` (one or more, in offset order) that are to be applied at position `next_offset`.

    `sought` is where the consumer sought to and has applied nothing since. Only then may the first record lie above the position: the
    offsets between hold none. Raises `OutOfPlace` for records that do not continue at the position.
    """
    fresh = records
    if fresh[0].offset < next_offset:
        fresh = [record for record in records if record.offset >= next_offset]
    if not fresh:  # seek again, and so look whether the topic still holds what we think it does
        raise OutOfPlace(f"got offsets below {next_offset}, which are stored already")
    if fresh[0].offset > next_offset and sought != next_offset:
        raise OutOfPlace(f"got offset {fresh[0].offset}, position is {next_offset}")
    return fresh

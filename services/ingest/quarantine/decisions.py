"""What a replay decides (pure): by which window of time a record is judged again, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.ingest.acceptance import Limits, Reason, Rejected

OLDEST_ACCEPTED = timedelta(days=3_660)
"""How old an event may be that an operator lets in: ten years. What is older has no time, but a clock that was never set."""

_HELD_BEFORE = Rejected(
    Reason.NOBODY_NAMED, "its subscription, key or original is not known (any more); it was held before"
)


def window(limits: Limits, quarantined_at: datetime, now: datetime, *, accept_late: bool) -> tuple[datetime, datetime]:
    """Return the earliest and the latest event time that a replay accepts.

    An event is judged by its age when it came, not by how long it waited in quarantine; and what was ahead of its time may
    have been reached by it since.
    """
    earliest = now - OLDEST_ACCEPTED if accept_late else quarantined_at - limits.late
    return earliest, now + limits.ahead


@dataclass(slots=True)
class Verdicts:
    """What became of the records of one partition: each is in exactly one of the two."""

    resolved: list[UUID] = field(default_factory=list)
    refused: list[tuple[UUID, Rejected]] = field(default_factory=list)


def verdicts(ids: dict[int, UUID], refused: Iterable[tuple[Any, Rejected]], held_before: Iterable[int]) -> Verdicts:
    """Sort records (`ids` by offset) into those that a batch took in, and those that stay open with a reason.

    `held_before` are offsets that would have to be held a second time: one offset has one place in held_events.
    """
    kept = {record.offset: rejected for record, rejected in refused}
    kept |= dict.fromkeys(held_before, _HELD_BEFORE)
    result = Verdicts()
    for offset, id_ in ids.items():
        if rejected := kept.get(offset):
            result.refused.append((id_, rejected))
        else:
            result.resolved.append(id_)
    return result


@dataclass(slots=True)
class Replayed:
    """What a replay came to, over all its transactions. `refused_again` counts by the reason that holds now."""

    inserted: int = 0
    duplicates: int = 0
    held: int = 0
    refused_again: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def resolved(self) -> int:
        """Records that are not open any more."""
        return self.inserted + self.duplicates + self.held

    def add_refused(self, refused: Sequence[tuple[UUID, Rejected]]) -> None:
        """Count records that stay open, with the first detail of each reason for an example."""
        for _, rejected in refused:
            self.refused_again[rejected.reason] += 1
            self.examples.setdefault(rejected.reason, rejected.detail)

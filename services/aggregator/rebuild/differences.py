"""What verification finds (pure): keys whose stored figures are not those that the log gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

Kind: TypeAlias = Literal["hour", "day", "month", "use", "counter", "key day"]
Figures: TypeAlias = Mapping[str, Any]
"""Counts by measure; the latency histogram as a list."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One summary row, one hour of a use, one subscription's counters, or one day of an API key (`tool_name` tells which):
    stored figures and recomputed ones, both of all measures.

    `period_start` is the start of the hour, day or month, for counters that of the quota period. Figures of a row that
    is not there are zeros.
    """

    kind: Kind
    subscription_id: UUID
    period_start: datetime
    model_id: str
    tool_name: str
    stored: Figures
    recomputed: Figures

    @property
    def measures(self) -> list[str]:
        """The measures in which the two sides differ."""
        return [name for name, value in self.recomputed.items() if self.stored[name] != value]


@dataclass(frozen=True, slots=True)
class NegativeHour:
    """An hour, over by now, from which more was taken back than the log has: `figures` are those of the log."""

    subscription_id: UUID
    hour: datetime
    model_id: str
    tool_name: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Findings:
    """What verification of a scope found.

    `differences` are the first of `counts` by kind. `subscriptions` are all that have one. `left_out` are subscriptions
    that could not be judged, because the aggregator has applied some messages of a batch of theirs and not the others. `archived`
    are months that the log does not have. `negative` are the first hours that sum to less than nothing: stored and
    recomputed may agree on them, but usage was taken back that the log does not have.
    """

    events: int
    compared: int
    counts: Mapping[Kind, int] = field(default_factory=dict)
    differences: Sequence[Difference] = ()
    subscriptions: Sequence[UUID] = ()
    left_out: Sequence[UUID] = ()
    archived: Sequence[datetime] = ()
    negative: Sequence[NegativeHour] = ()

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def counted(kinds: Iterable[tuple[Kind, int]], others: Iterable[Difference]) -> dict[Kind, int]:
    """Return how many keys differ by kind, without those kinds of which none does."""
    counts: dict[Kind, int] = dict(kinds)
    for difference in others:
        counts[difference.kind] = counts.get(difference.kind, 0) + 1
    return counts

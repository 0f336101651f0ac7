"""When quarantine is no answer any more (pure): so much is refused that the fault lies with a producer, or with us.

A few bad records are put aside and the rest goes on. A partition of which most is refused is another matter: a gateway was
released with a bug, ingest was rolled back behind its producers, a topic of somebody else is being read. To quarantine all
of it would hide that, so the partition halts before the batch is committed: nothing is lost, its position stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

from services.ingest.acceptance import Reason, Rejected
from shared.errors import BrokenInvariant

if TYPE_CHECKING:
    from shared.consumer import Slice
    from shared.slices import Record

Remember: TypeAlias = Callable[[], None]

_TAKEN, _REFUSED = b"\x00", b"\x01"


@dataclass(frozen=True, slots=True)
class RefusalLimits:
    """`percent` of the last `window` records, or `in_a_row` records one after another; 0 is no limit."""

    percent: int = 50
    window: int = 1_000
    in_a_row: int = 5_000


@dataclass(frozen=True, slots=True)
class Past:
    """What became of the last records of a partition: a byte for each, 1 for a refused one; and how many were refused last, in a row."""

    outcomes: bytes = b""
    in_a_row: int = 0


def after(past: Past, outcomes: bytes, limits: RefusalLimits) -> Past:
    """Return the past once these records belong to it."""
    trailing = len(outcomes) - len(outcomes.rstrip(_REFUSED))
    in_a_row = past.in_a_row + trailing if trailing == len(outcomes) else trailing
    return Past((past.outcomes + outcomes)[-limits.window :], in_a_row)


def too_many(past: Past, outcomes: bytes, limits: RefusalLimits) -> str | None:
    """Say which limit these records go beyond, at any place among them; None if they stay within."""
    if not outcomes.count(_REFUSED) and len(past.outcomes) >= limits.window:
        return None  # nothing that was taken makes it worse, but for those that complete the first window
    if limits.in_a_row:
        first, *others = outcomes.split(_TAKEN)
        longest = max(past.in_a_row + len(first), *map(len, others), 0)
        if longest >= limits.in_a_row:
            return f"{longest:,} records in a row were refused ({limits.in_a_row:,} are the limit)"
    recent = past.outcomes[-limits.window :] + outcomes
    most = limits.percent * limits.window // 100
    if not limits.percent or recent.count(_REFUSED) <= most:
        return None
    refused = [0, *accumulate(recent)]
    worst = max((refused[end] - refused[end - limits.window] for end in range(limits.window, len(refused))), default=0)
    if worst <= most:
        return None
    return f"{worst:,} of {limits.window:,} records were refused ({limits.percent} % are the limit)"


@dataclass(slots=True)
class Refusals:
    """Watches what is refused of each partition. Knows only what this worker committed: a restart begins anew."""

    limits: RefusalLimits = field(default_factory=RefusalLimits)
    _pasts: dict[tuple[str, int, int], Past] = field(default_factory=dict)

    def judge(self, batch: Slice, refused: Sequence[tuple[Record, Rejected]]) -> Remember:
        """Return what to call once the batch is committed. Raises `BrokenInvariant` if too much of it is refused.

        A conflict is no refusal here: it says that the event is known, as a replayed topic may for all of its records.
        """
        bad = [(record, rejected) for record, rejected in refused if rejected.reason is not Reason.CONFLICT]
        offsets = {record.offset for record, _ in bad}
        outcomes = bytes(record.offset in offsets for record in batch.records) if bad else bytes(len(batch.records))
        place = (batch.position.topic, batch.position.partition, batch.position.epoch)
        past = self._pasts.get(place, Past())
        if problem := too_many(past, outcomes, self.limits):
            raise _halt(batch, problem, [rejected for _, rejected in bad])
        return partial(self._pasts.__setitem__, place, after(past, outcomes, self.limits))


def _halt(batch: Slice, problem: str, refused: Sequence[Rejected]) -> BrokenInvariant:
    return BrokenInvariant(
        f"{batch.position.topic}[{batch.position.partition}] at offset {batch.first_offset}: {problem}: {_what_was_refused(refused)}. "
        "Nothing of this batch was committed. Mend the producer, or ingest; to let these records into quarantine all the same, set "
        "TALLYSTICK_INGEST_QUARANTINE_PERCENT=0 and TALLYSTICK_INGEST_QUARANTINE_IN_A_ROW=0 and restart the workers: "
        "see docs/how-to/repair-refused-events.md"
    )


def _what_was_refused(refused: Sequence[Rejected]) -> str:
    """Return the most common reasons, with an example of the first. None may be of this batch: then those before it were too many."""
    if not refused:
        return "they are in quarantine, and came before this batch, which completes the first so many"
    reasons = Counter(rejected.reason for rejected in refused).most_common(3)
    common = ", ".join(f"{reason} {count:,}" for reason, count in reasons)
    example = next(rejected.detail for rejected in refused if rejected.reason == reasons[0][0])
    return f"{common}; for example: {example[:200]}"

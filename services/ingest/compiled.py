"""The compiled sweep, where it is installed: the same as `sweeping.sweep_plainly`, without objects of Python for ordinary events.

Its source is in `native/`; `make native` builds and installs it. What it does not take as ordinary it hands back, in its turn, to be
looked at in Python. Which sweep a worker has changes nothing but its speed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from services.ingest.acceptance import Limits
from services.ingest.deltas import MOST_RESERVATIONS, EncodedSums
from services.ingest.packing import Candidate, Packed, joined, pack
from services.ingest.recent import Recent, RecentEvents
from services.ingest.sweeping import Decoded, Sweep, Sweeper, Swept, sweep_plainly
from shared.contracts import LATENCY_BUCKETS_MS

if TYPE_CHECKING:
    from services.ingest.attribution import Name, Owner
    from shared.slices import Record

MODULE = "tallystick_native"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Compiled(StrEnum):
    """Whether to use the compiled sweep."""

    AUTO = "auto"
    REQUIRED = "required"
    OFF = "off"


def load(wanted: Compiled) -> Any:
    """Return the extension, None where it is not installed or not wanted. Raises `ImportError` if it is required and not installed."""
    if wanted is Compiled.OFF:
        return None
    try:
        return importlib.import_module(MODULE)
    except ModuleNotFoundError as missing:
        if wanted is Compiled.REQUIRED:
            raise ImportError(
                "the compiled sweep is required but not installed: 'make native', or TALLYSTICK_INGEST_COMPILED=auto"
            ) from missing
        return None


def make_sweeper(
    native: Any, limits: Limits, owner_of: Callable[[Name], Owner | None], generation: int
) -> tuple[Sweeper, Recent]:
    """Return what goes over batches, and the window of recent events that goes with it. `owner_of` answers for those whom it remembers."""
    if native is None:
        return sweep_plainly, RecentEvents(generation)
    recent = CompiledRecent(native.Window(generation))
    sweeper = native.Sweeper(
        owner_of,
        limits.record_bytes,
        limits.metadata_bytes,
        limits.metadata_keys,
        LATENCY_BUCKETS_MS,
        MOST_RESERVATIONS,
    )
    return CompiledSweeper(native, sweeper, recent.window), recent


@dataclass(frozen=True, slots=True)
class CompiledRecent:
    """The window of recent events (`recent.Recent`)."""

    window: Any

    def __contains__(self, key: object) -> bool:
        return key in self.window

    @property
    def generations(self) -> tuple[Container[bytes], Container[bytes]]:
        return self.window, ()  # one asks for both

    def remember(self, keys: Iterable[bytes]) -> None:
        self.window.remember(keys)


@dataclass(frozen=True, slots=True)
class CompiledSweeper:
    """Goes over batches (a `sweeping.Sweeper`). `sweeper` has the limits, and the owners that it was told of."""

    native: Any
    sweeper: Any
    window: Any

    def __call__(self, sweep: Sweep, records: Sequence[Record], batch_id: UUID, generation: int) -> Swept:
        keys, rest, others = self.native.Keys(), Decoded(), list[Candidate]()

        def other(record: Record) -> None:
            others.extend(map(Candidate._make, sweep.plain((record,), keys, rest)))

        earliest, latest = map(_microseconds, sweep.window)
        found = self.sweeper.sweep(
            records, batch_id.bytes, generation, earliest, latest, keys, self.window, sweep.known, other
        )
        packed = _packed(found)
        return Swept(joined(packed, pack(others, batch_id, generation)) if others else packed, keys, rest)


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _packed(found: Any) -> Packed:
    youngest = None if found.last is None else _instant(found.last)
    sums = EncodedSums(found.uses, found.providers, found.events, youngest)
    return Packed(found.rows, found.identities, set(map(_instant, found.minutes)), lambda: sums)

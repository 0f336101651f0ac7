"""The window of recent events (pure): finds a producer's re-sends before the database has to.

Same key → same partition → same worker, so nearly every duplicate is one of the last events this worker stored. The
window only *suspects*: the database decides. What it forgot, or never saw, the primary key still catches.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

GENERATION = 50_000
"""Events in one generation; the window remembers between one and two of them, about 150 bytes each."""


class RecentEvents:
    """The event times of the last events that were *committed*, by 16-byte id."""

    def __init__(self, generation: int = GENERATION) -> None:
        self._generation = generation
        self._young: dict[bytes, datetime] = {}
        self._old: dict[bytes, datetime] = {}

    def get(self, key: bytes) -> datetime | None:
        """Return when the event of this id happened, if it is remembered."""
        return self._young.get(key) or self._old.get(key)

    def __contains__(self, key: bytes) -> bool:
        return key in self._young or key in self._old

    def remember(self, events: Iterable[tuple[bytes, datetime]]) -> None:
        """Add events whose transaction has committed: never before, or a rolled-back event would look like a duplicate."""
        self._young.update(events)
        if len(self._young) >= self._generation:
            self._old, self._young = self._young, {}

"""The window of recent events (pure): finds a producer's re-sends before the database has to.

Same key → same partition → same worker, so nearly every duplicate is one of the last events this worker stored. The
window only *suspects*: the database decides. What it forgot, or never saw, the unique key of identities still catches.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Protocol

GENERATION = 50_000
"""Events in one generation; the window remembers between one and two of them, about 100 bytes each."""


class Recent(Protocol):
    """The 16-byte ids of the last events that were *committed*."""

    def __contains__(self, key: object, /) -> bool: ...

    @property
    def generations(self) -> tuple[Container[bytes], Container[bytes]]:
        """The ids, as they are now: to ask for many, without a call for each."""

    def remember(self, keys: Iterable[bytes]) -> None:
        """Add events whose transaction has committed: never before, or every event that was rolled back would be a suspect."""


class RecentEvents:
    """The same in sets."""

    def __init__(self, generation: int = GENERATION) -> None:
        self._generation = generation
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def __contains__(self, key: object) -> bool:
        return key in self._young or key in self._old

    @property
    def generations(self) -> tuple[set[bytes], set[bytes]]:
        return self._young, self._old

    def remember(self, keys: Iterable[bytes]) -> None:
        self._young.update(keys)
        if len(self._young) >= self._generation:
            self._old, self._young = self._young, set()

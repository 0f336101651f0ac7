"""Requests of API keys by the minute (pure): a sliding window counter, in the memory of one process.

What counts is the present minute and, of the one before, the share that lies within the last sixty seconds: never more than the limit in
any minute, as far as requests were spread evenly. N processes of the API allow N times as much: a minute is over before the pipeline has
counted it, and a counter that all share would cost a transaction for each request. A limit that must hold across processes is a reservation.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from services.api.limits import REMEMBERED, Taken

MINUTE: Final = 60.0


@dataclass(slots=True)
class _Window:
    minute: int
    count: int = 0
    before: int = 0

    def move(self, minute: int) -> None:
        """Let another minute begin. A clock that is set back changes nothing."""
        if minute > self.minute:
            self.before = self.count if minute == self.minute + 1 else 0
            self.minute, self.count = minute, 0


@dataclass(slots=True)
class Minutes:
    """Counts requests by key. Times are seconds of any clock."""

    most: int = REMEMBERED
    _windows: OrderedDict[UUID, _Window] = field(default_factory=OrderedDict)

    def take(self, key: UUID, limit: int, now: float, *, count: bool) -> Taken:
        """Say whether one more request is within the limit; with `count` it is made. One that is refused is not counted."""
        minute, into = int(now // MINUTE), now % MINUTE
        window = self._windows.setdefault(key, _Window(minute))
        self._windows.move_to_end(key)
        while len(self._windows) > self.most:
            self._windows.popitem(last=False)
        window.move(minute)
        into = into if window.minute == minute else MINUTE
        used = window.count + window.before * (1 - into / MINUTE)
        allowed = used + 1 <= limit
        wait = 0.0 if allowed else _wait(window, limit, into)
        if allowed and count:
            window.count += 1
            used += 1
        return Taken(allowed, limit, max(0, int(limit - used)), MINUTE - into, wait)


def _wait(window: _Window, limit: int, into: float) -> float:
    """Return the seconds until a request is within the limit, if there is none before."""
    if window.count + 1 <= limit:  # the minute before has to pass far enough
        return MINUTE * (1 - (limit - window.count - 1) / window.before) - into
    return MINUTE - into + MINUTE * max(0.0, 1 - (limit - 1) / window.count)

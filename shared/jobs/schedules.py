"""When jobs are due (pure). A schedule says which of its times have come after the last one that was run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Protocol

from shared.period import month_start, next_month, utc

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Schedule(Protocol):
    """Says when a job is due."""

    def __call__(self, now: datetime, last: datetime | None, /) -> Sequence[datetime]:
        """Return the scheduled times after `last` that have come by `now`, in order. `last` None: nothing says since when."""


@dataclass(frozen=True, slots=True)
class Every:
    """A look at how things are, once in every slot of `interval`, `offset` after UTC midnight for slots that divide a day.

    Slots that were missed are one: the latest. Such a job may be run by hand at any time.
    """

    interval: timedelta
    offset: timedelta = timedelta(0)
    looks_at_the_present: ClassVar[bool] = True

    def __call__(self, now: datetime, last: datetime | None) -> Sequence[datetime]:
        slot = self._slot(now)
        return [slot] if last is None or slot > last else []

    def next(self, after: datetime) -> datetime:
        """Return the first slot after a time."""
        return self._slot(after) + self.interval

    def _slot(self, at: datetime) -> datetime:
        zero = EPOCH + self.offset
        return zero + (utc(at) - zero) // self.interval * self.interval


@dataclass(frozen=True, slots=True)
class Monthly:
    """The end of every UTC calendar month, and `after` on top. Months that were missed are all due, in order.

    Nothing is due while nothing says since when: months from before there was anything to do are left to a person.
    """

    after: timedelta = timedelta(0)
    looks_at_the_present: ClassVar[bool] = False

    def __call__(self, now: datetime, last: datetime | None) -> Sequence[datetime]:
        if last is None:
            return []
        latest, times, end = month_start(now - self.after), [], next_month(last - self.after)
        while end <= latest:
            times.append(end + self.after)
            end = next_month(end)
        return times

    def next(self, after: datetime) -> datetime:
        """Return the first scheduled time after a time."""
        return next_month(after - self.after) + self.after

"""Hours, days and months of a tenant's time zone, cut from summaries by UTC hour, day and month (pure).

Usage is summed by UTC hour, so a bucket consists of whole UTC hours: those that begin in it. Where a zone is off by half an hour, a
day begins with the first UTC hour that begins after its midnight. A day has 23 or 25 hours where the clocks change.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shared.period import HOUR, Period, day_start, hour_start, month_start, next_month

Step = Literal["hour", "day", "month"]

MOST_BUCKETS: Final = 1_000
"""Most buckets of one answer: 41 days by hour, 2 years by day."""
DAY: Final = timedelta(days=1)

_Edge = Callable[[datetime], datetime]


@dataclass(frozen=True, slots=True)
class Bucket:
    """`label` is the local hour, day or month: `2026-11-21T13:00+01:00`, `2026-11-21`, `2026-11`. `period` is what it holds, on UTC hours."""

    label: str
    period: Period


class Piece(NamedTuple):
    """A run of summaries of one kind, `[start, end)`: no two pieces of a cover overlap."""

    period_type: Step
    start: datetime
    end: datetime


@lru_cache(maxsize=1_000)
def zone_named(name: str) -> ZoneInfo | None:
    """Return the IANA time zone of a name, None if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # not known; not a relative path; a folder of zones
        return None


def whole_hours(start: datetime, end: datetime) -> Period:
    """Return the UTC hours that a range touches. Raises `ValueError` unless `start < end`."""
    return Period(hour_start(start), _next_hour(end))


def count_of(step: Step, period: Period) -> int:
    """Return about how many buckets a range has, without cutting it: never less than 1 below the truth."""
    if step == "month":
        return (period.end.year - period.start.year) * 12 + period.end.month - period.start.month + 2
    return period.duration // (HOUR if step == "hour" else DAY) + 1


def buckets(step: Step, period: Period, zone: ZoneInfo) -> list[Bucket]:
    """Cut a range of whole UTC hours at the hours, days or months of a zone. The first and the last bucket may be parts of theirs."""
    edges = [(label, at) for label, at in _edges(step, period, zone) if at < period.end]
    ends = [*(at for _, at in edges[1:]), period.end]
    cut = [(label, max(at, period.start), end) for (label, at), end in zip(edges, ends, strict=True)]
    return [Bucket(label, Period(start, end)) for label, start, end in cut if start < end]


def cover(edges: Sequence[datetime]) -> list[Piece]:
    """Return which summaries make up the buckets between `edges` (on UTC hours, ascending): months and days where they fit whole."""
    if edges[-1] - edges[0] == (len(edges) - 1) * HOUR:  # buckets of an hour: nothing larger fits
        return [Piece("hour", edges[0], edges[-1])]
    pieces: list[Piece] = []
    for start, end in pairwise(edges):
        for piece in _cover(start, end):
            last = pieces[-1] if pieces else None
            if last and (last.period_type, last.end) == (piece.period_type, piece.start):
                pieces[-1] = Piece(last.period_type, last.start, piece.end)
            else:
                pieces.append(piece)
    return pieces


def place_of(at: datetime, edges: Sequence[datetime]) -> int:
    """Return the number, from 0, of the bucket that holds a time: what width_bucket() - 1 is in the database."""
    return bisect.bisect_right(edges, at) - 1


def _cover(start: datetime, end: datetime) -> Iterator[Piece]:
    """Hours up to a day, days up to a month, months, and the same way down."""
    at = start
    for period_type, unit_start, following in _WAY_UP:
        begins = unit_start(at) if unit_start(at) == at else following(at)
        if begins >= end:
            break
        if at < begins:
            yield Piece(period_type, at, begins)
            at = begins
    for period_type, unit_start in _WAY_DOWN:
        upto = unit_start(end)
        if at < upto and unit_start(at) == at:
            yield Piece(period_type, at, upto)
            at = upto


def _next_day(at: datetime) -> datetime:
    return day_start(at) + DAY


_WAY_UP: Final[tuple[tuple[Step, _Edge, _Edge], ...]] = (
    ("hour", day_start, _next_day),
    ("day", month_start, next_month),
)
_WAY_DOWN: Final[tuple[tuple[Step, _Edge], ...]] = (("month", month_start), ("day", day_start), ("hour", hour_start))


def _edges(step: Step, period: Period, zone: ZoneInfo) -> Iterable[tuple[str, datetime]]:
    """Yield the beginnings of buckets with their labels: the last one at or before the start of the range, and all until its end."""
    if step == "hour":
        at = period.start
        while at < period.end:
            yield at.astimezone(zone).isoformat(timespec="minutes"), at
            at += HOUR
        return
    day = period.start.astimezone(zone).date()
    day = day.replace(day=1) if step == "month" else day
    if _begin(day, zone) > period.start:  # its first hour began the day before
        day = _before(day, step)
    while (begins := _begin(day, zone)) < period.end:
        yield (f"{day:%Y-%m}" if step == "month" else day.isoformat()), begins
        day = (day.replace(day=1) + timedelta(days=32)).replace(day=1) if step == "month" else day + DAY


def _before(day: date, step: Step) -> date:
    return (day - DAY).replace(day=1) if step == "month" else day - DAY


def _begin(day: date, zone: ZoneInfo) -> datetime:
    """Return the first UTC hour that begins on a local day. Of a midnight that the clocks skip, it is the moment at which they do."""
    return _next_hour(datetime.combine(day, time(), zone).astimezone(UTC))


def _next_hour(at: datetime) -> datetime:
    """Return the UTC hour that begins at a time, or else the next one."""
    begins = hour_start(at)
    return begins if begins == at else begins + HOUR

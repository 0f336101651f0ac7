"""Hours, days and months of a tenant's time zone, cut from summaries by UTC hour, day and month (pure).

Usage is summed by UTC hour, so a bucket consists of whole UTC hours: those that begin in it. Where a zone is off by half an hour, a
day begins with the first UTC hour that begins after its midnight. A day has 23 or 25 hours where the clocks change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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


@dataclass(frozen=True, slots=True)
class Bucket:
    """`label` is the local hour, day or month: `2026-11-21T13:00+01:00`, `2026-11-21`, `2026-11`. `period` is what it holds, on UTC hours."""

    label: str
    period: Period


class Piece(NamedTuple):
    """A run of summaries of one kind, `[start, end)`, added or (sign -1) taken off.

    `bucket` is the number of the bucket that it is for; None: of each summary, the one that it begins in.
    """

    period_type: Step
    start: datetime
    end: datetime
    sign: int = 1
    bucket: int | None = None


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
    """Return which summaries make up the buckets between `edges` (on UTC hours, ascending).

    Each is made of whole UTC days and months between the midnights next to its ends, and of the few hours that are lacking there or too
    many: a day of a zone is a day of UTC and a few hours, rather than 24 of them.
    """
    if edges[-1] - edges[0] == (len(edges) - 1) * HOUR:  # buckets of an hour: nothing larger fits
        return [Piece("hour", edges[0], edges[-1])]
    added: list[Piece] = []
    taken_off: list[Piece] = []
    for bucket, (start, end) in enumerate(pairwise(edges)):
        first, last = _nearest_day(start), _nearest_day(end)
        if first >= last or end - start <= DAY / 2:
            first = last = end  # much shorter than a day: by the hour
        _add(added, "hour", start, min(first, end))
        for piece in _whole_days(first, last):
            _add(added, *piece, bucket if first < start else None)  # its first day begins before it
        _add(added, "hour", max(last, start), end)
        taken_off += [Piece("hour", at, upto, -1, bucket) for at, upto in ((first, start), (end, last)) if at < upto]
    return added + taken_off


def _add(pieces: list[Piece], period_type: Step, start: datetime, end: datetime, bucket: int | None = None) -> None:
    """Add a run to others, as a part of the last one where it goes on from that."""
    last = pieces[-1] if pieces else None
    if start >= end:
        return
    if last and (last.period_type, last.end, last.bucket) == (period_type, start, bucket):
        pieces[-1] = last._replace(end=end)
    else:
        pieces.append(Piece(period_type, start, end, 1, bucket))


def _nearest_day(at: datetime) -> datetime:
    return day_start(at + DAY / 2)


def _whole_days(start: datetime, end: datetime) -> Iterator[tuple[Step, datetime, datetime]]:
    """Days up to a month, months, and days: of a range from midnight to midnight, UTC."""
    month = month_start(start) if month_start(start) == start else next_month(start)
    last_month = month_start(end)
    if month >= last_month:
        yield "day", start, end
        return
    yield "day", start, month
    yield "month", month, last_month
    yield "day", last_month, end


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

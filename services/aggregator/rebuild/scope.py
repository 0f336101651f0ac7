"""What is to be computed anew (pure): a range of event times in whole UTC months, of one subscription or of all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from shared.period import hour_start, month_start, next_month

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
END = datetime(9999, 12, 1, tzinfo=UTC)
"""Stand for no bound: no event time lies outside."""
FIRST_YEAR, LAST_YEAR = 1970, 9000
"""Years in which a range may begin or end."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Event times `[start, end)`, both on the edge of a UTC month or unbounded; of `subscription_id`, or of all if None.

    `widened_from` is the range of hours that was asked for where it was not whole months: a day's or a month's summary
    can only be computed whole.
    """

    start: datetime = BEGINNING
    end: datetime = END
    subscription_id: UUID | None = None
    widened_from: tuple[datetime, datetime] | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether a range was asked for."""
        return (self.start, self.end) != (BEGINNING, END)

    def __str__(self) -> str:
        period = "all event times"
        if self.is_bounded:
            period = f"event times from {_bound(self.start)} to {_bound(self.end)} UTC"
        return period if self.subscription_id is None else f"{period} of subscription {self.subscription_id}"


def _bound(at: datetime) -> str:
    return "the beginning" if at == BEGINNING else "the end" if at == END else f"{at:%Y-%m-%d %H:%M}"


def parse_hour(text: str) -> datetime:
    """Return the start of an hour that a person wrote: 2026-11-01, 2026-11-01T05 or with any offset; UTC without one.

    Raises `ValueError` that says what an hour looks like.
    """
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        if not FIRST_YEAR <= at.year <= LAST_YEAR:
            raise OverflowError
    except (ValueError, OverflowError):
        raise ValueError(f"'{text}' is not an hour; write it like 2026-11-01 or 2026-11-01T05:00Z") from None
    if at != hour_start(at):
        raise ValueError(
            f"'{text}' lies inside an hour; summaries are kept by the hour, write it like 2026-11-01T05:00Z"
        )
    return at


def widened(start: datetime | None, end: datetime | None, subscription_id: UUID | None = None) -> Scope:
    """Return the scope of the hours `[start, end)`, widened to whole months; None is no bound.

    Raises `ValueError` if no hour lies between the two.
    """
    if start is not None and end is not None and start >= end:
        raise ValueError(
            f"the range ends ({end:%Y-%m-%dT%H:%MZ}) before it begins ({start:%Y-%m-%dT%H:%MZ}), or holds no hour"
        )
    first = BEGINNING if start is None else month_start(start)
    last = END if end is None else end if end == month_start(end) else next_month(end)
    asked = (start or BEGINNING, end or END)
    return Scope(first, last, subscription_id, None if asked == (first, last) else asked)

"""Half-open UTC periods `[start, end)` and their edges (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

HOUR = timedelta(hours=1)


def utc(at: datetime) -> datetime:
    """Return the same instant in UTC. Raises `ValueError` for a naive time: a time without a zone is not an instant."""
    if at.tzinfo is UTC:
        return at
    if at.tzinfo is None:
        raise ValueError(f"{at.isoformat()} has no time zone; give it one, for example a trailing Z")
    return at.astimezone(UTC)


def hour_start(at: datetime) -> datetime:
    """Return the start of the UTC hour that holds `at`."""
    return utc(at).replace(minute=0, second=0, microsecond=0)


def day_start(at: datetime) -> datetime:
    """Return the start of the UTC day that holds `at`."""
    return hour_start(at).replace(hour=0)


def month_start(at: datetime) -> datetime:
    """Return the start of the UTC month that holds `at`."""
    return day_start(at).replace(day=1)


def next_month(at: datetime) -> datetime:
    """Return the start of the UTC month after the one that holds `at`."""
    return month_start(month_start(at) + timedelta(days=32))


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """A half-open interval of instants: `start` belongs to it, `end` does not. Both are UTC; `start < end`."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", utc(self.start))
        object.__setattr__(self, "end", utc(self.end))
        if self.start >= self.end:
            raise ValueError(f"a period needs start < end, not {self.start.isoformat()} … {self.end.isoformat()}")

    def __contains__(self, at: datetime) -> bool:
        return self.start <= utc(at) < self.end

    def __str__(self) -> str:
        return f"[{self.start.isoformat()}, {self.end.isoformat()})"

    @property
    def duration(self) -> timedelta:
        return self.end - self.start

    def overlaps(self, other: Period) -> bool:
        """Tell whether the two share an instant."""
        return self.start < other.end and other.start < self.end

    @classmethod
    def month_of(cls, at: datetime) -> Period:
        """Return the UTC calendar month that holds `at`."""
        return cls(month_start(at), next_month(at))

    @classmethod
    def parse_month(cls, text: str) -> Period:
        """Return the month named `YYYY-MM`. Raises `ValueError` that says what a month looks like."""
        try:
            return cls.month_of(datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC))
        except (ValueError, OverflowError):
            raise ValueError(f"'{text}' is not a month; write it like 2026-11") from None

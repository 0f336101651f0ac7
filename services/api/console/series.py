"""Usage over time as pages draw it: every time of the range that was asked for has a row, also where nothing was used (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from services.api.usage.answers import Point
from shared.period import HOUR

Step = Literal["hour", "day"]

SHOWN: Final = 6
"""Groups that a chart tells apart; the others are one."""
LENGTH: Final[dict[Step, timedelta]] = {"hour": HOUR, "day": timedelta(days=1)}


@dataclass(frozen=True, slots=True)
class Chart:
    """Values by time and group. The group None is those that do not say, and with `has_others` all that are not told apart."""

    names: Sequence[str | None]
    rows: Sequence[tuple[datetime, Sequence[int]]]
    step: Step
    has_others: bool

    @property
    def seconds(self) -> int:
        """The length of a step."""
        return int(LENGTH[self.step].total_seconds())

    @property
    def is_empty(self) -> bool:
        """Whether nothing was used."""
        return not any(any(values) for _, values in self.rows)


def chart_of(
    points: Sequence[Point],
    step: Step,
    start: datetime,
    now: datetime,
    value: Callable[[Point], int] = lambda point: point.request_count,
) -> Chart:
    """Return a value of each hour or day of UTC from `start` to `now`, for the groups with most of it."""
    totals: dict[str | None, int] = {}
    for point in points:
        totals[point.group] = totals.get(point.group, 0) + value(point)
    biggest = sorted(totals, key=lambda name: -totals[name])[:SHOWN]
    names: list[str | None] = [*biggest, *([None] if len(totals) > len(biggest) and None not in biggest else [])]
    rows: dict[datetime, list[int]] = {}
    at = start
    while at <= now:
        rows[at] = [0] * len(names)
        at += LENGTH[step]
    for point in points:
        if point.start in rows:
            rows[point.start][names.index(point.group if point.group in names else None)] += value(point)
    return Chart(names, sorted(rows.items()), step, len(totals) > len(biggest))

"""Dunning (pure): what is to be done next about an invoice that nobody pays, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

Action = Literal["charge", "remind", "suspend"]


@dataclass(frozen=True, slots=True)
class Made:
    """The last step that was made, counted from 0."""

    step: int
    action: Action
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Step:
    """A step to make: numbered, and due at a time."""

    number: int
    action: Action
    due_at: datetime


def next_step(
    days: Sequence[int], due_date: datetime, last: Made | None, *, chargeable: bool, suspend: bool = True
) -> Step | None:
    """Return the step that follows `last`; None when all are made.

    `days` are the days after the due date on which payment is asked for: by charging the customer's method where there is one, else by
    a reminder. After the last of them comes the suspension. Steps that were missed keep their distance, so that after a downtime a
    card is not charged four times in a row.
    """
    if last is None:
        return Step(0, "charge" if chargeable else "remind", due_date + timedelta(days=days[0]))
    number = last.step + 1
    if number >= len(days):
        return Step(number, "suspend", last.made_at) if suspend and last.action != "suspend" else None
    due = max(due_date + timedelta(days=days[number]), last.made_at + timedelta(days=days[number] - days[last.step]))
    return Step(number, "charge" if chargeable else "remind", due)


def parse_days(text: str) -> tuple[int, ...]:
    """Return the days of a schedule like `0,3,7,14`. Raises `ValueError` unless they rise and there are 1 to 20 of them."""
    days = tuple(int(part) for part in text.split(","))
    if not 1 <= len(days) <= 20 or days[0] < 0 or days[-1] > 365 or any(a >= b for a, b in pairwise(days)):
        raise ValueError("write 1 to 20 days after the due date, rising, for example 0,3,7,14")
    return days

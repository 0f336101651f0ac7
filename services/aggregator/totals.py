"""Sums what a slice adds over all subscriptions (pure): what it adds to the rows of usage_totals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple, TypeAlias

from services.aggregator.aggregation import PeriodType, Summary, UsageSums, total
from shared.period import day_start, month_start

_Key: TypeAlias = tuple[datetime, str, str]


class Total(NamedTuple):
    """What to add to what everybody used of one model or tool, '' where it does not apply, in one hour, day or month."""

    period_type: PeriodType
    period_start: datetime
    model_id: str
    tool_name: str
    sums: UsageSums


def totals(summaries: Iterable[Summary]) -> list[Total]:
    """Return the sums of summaries over all subscriptions, sorted by key: the order in which all lock the rows."""
    hours = _summed(((each.hour, each.model_id, each.tool_name), each.sums) for each in summaries if each.hour)
    days = _coarser(hours, day_start)
    kinds: tuple[tuple[PeriodType, dict[_Key, UsageSums]], ...]
    kinds = ("day", days), ("hour", hours), ("month", _coarser(days, month_start))
    return [Total(period_type, *key, sums[key]) for period_type, sums in kinds for key in sorted(sums)]


def _coarser(sums: dict[_Key, UsageSums], start_of: Callable[[datetime], datetime]) -> dict[_Key, UsageSums]:
    return _summed(((start_of(at), model, tool), each) for (at, model, tool), each in sums.items())


def _summed(figures: Iterable[tuple[_Key, UsageSums]]) -> dict[_Key, UsageSums]:
    sums: dict[_Key, list[UsageSums]] = {}
    for key, each in figures:
        sums.setdefault(key, []).append(each)
    return {key: total(parts) for key, parts in sums.items()}

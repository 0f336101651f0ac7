"""Compares a provider's usage export with what we recorded, by model and UTC day (pure).

Three kinds of CSV are understood, told apart by their header: OpenAI's export of completions usage, Anthropic's of the console, and a
plain one that any other can be brought into. Tokens are normalised: input includes what was read from and written to a cache.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Final

from shared.errors import ConfigurationError
from shared.period import utc

MEASURES: Final = ("requests", "input_tokens", "cached_tokens", "output_tokens", "cost")
PLAIN_COLUMNS: Final = ("date", "model", "requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost")
_VERSION: Final = re.compile(r"-\d{4}-?\d{2}-?\d{2}$")


class ExportRefused(ConfigurationError):
    """A file is no usage export that can be read; the message says which line and why."""


@dataclass(slots=True)
class Usage:
    """What one model did on one day. None: not said. `cost` is in the export's currency."""

    requests: int | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    cost: Decimal | None = None

    def add(self, other: Usage) -> None:
        """Add what was said of both."""
        for name in MEASURES:
            one, more = getattr(self, name), getattr(other, name)
            if more is not None:
                setattr(self, name, more + (one or 0))


Days = Mapping[tuple[date, str], Usage]


@dataclass(frozen=True, slots=True)
class Export:
    """A provider's export. `provider` is '' where the file does not tell."""

    provider: str
    days: Days

    @property
    def span(self) -> tuple[date, date]:
        """The first and the last day in it."""
        days = [day for day, _ in self.days]
        return min(days), max(days)


@dataclass(frozen=True, slots=True)
class Difference:
    """A measure in which the provider and we differ for a model on a day; 0 where a side knows nothing of it."""

    day: date
    model: str
    measure: str
    theirs: int | Decimal
    ours: int | Decimal

    @property
    def share(self) -> Decimal:
        """How far apart they are, as a fraction of the larger one."""
        return abs(Decimal(self.ours) - Decimal(self.theirs)) / max(Decimal(self.ours), Decimal(self.theirs))


Row = Mapping[str, str]


def _openai(row: Row) -> tuple[date, str, Usage]:
    return (
        _day(row["start_time_iso"]),
        row["model"],
        Usage(
            requests=_count(row, "num_model_requests"),
            input_tokens=_count(row, "input_tokens"),
            cached_tokens=_count(row, "input_cached_tokens"),
            output_tokens=_count(row, "output_tokens"),
        ),
    )


def _anthropic(row: Row) -> tuple[date, str, Usage]:
    read = _count(row, "usage_input_tokens_cache_read") or 0
    written = sum(_count(row, f"usage_input_tokens_cache_write_{age}") or 0 for age in ("5m", "1h"))
    return (
        _day(row["usage_date_utc"]),
        row["model_version"],
        Usage(
            input_tokens=(_count(row, "usage_input_tokens_no_cache") or 0) + read + written,
            cached_tokens=read,
            output_tokens=_count(row, "usage_output_tokens"),
        ),
    )


def _plain(row: Row) -> tuple[date, str, Usage]:
    return (
        _day(row["date"]),
        row["model"],
        Usage(
            requests=_count(row, "requests"),
            input_tokens=_count(row, "input_tokens"),
            cached_tokens=_count(row, "cached_input_tokens"),
            output_tokens=_count(row, "output_tokens"),
            cost=_amount(row, "cost"),
        ),
    )


_KINDS: Final[Sequence[tuple[str, frozenset[str], Callable[[Row], tuple[date, str, Usage]]]]] = (
    ("openai", frozenset({"start_time_iso", "model", "num_model_requests", "input_tokens", "output_tokens"}), _openai),
    ("anthropic", frozenset({"usage_date_utc", "model_version", "usage_input_tokens_no_cache"}), _anthropic),
    ("", frozenset({"date", "model"}), _plain),
)


def read_export(text: str) -> Export:
    """Return what a CSV export says. Raises `ExportRefused`."""
    reader = csv.DictReader(text.removeprefix("\ufeff").splitlines())
    header = frozenset(name.strip() for name in reader.fieldnames or ())
    kind = next(((provider, read) for provider, needed, read in _KINDS if needed <= header), None)
    if kind is None:
        raise ExportRefused(
            f"its header is neither of OpenAI's nor of Anthropic's usage export, nor {', '.join(PLAIN_COLUMNS)}"
        )
    provider, read = kind
    days: dict[tuple[date, str], Usage] = {}
    for row in reader:
        try:
            day, model, usage = read({(name or "").strip(): (cell or "").strip() for name, cell in row.items()})
        except (ValueError, InvalidOperation) as error:
            raise ExportRefused(f"line {reader.line_num}: {error}") from None
        if model:  # a bucket of time without usage has no model
            days.setdefault((day, model), Usage()).add(usage)
    if not days:
        raise ExportRefused("it holds no usage")
    return Export(provider, days)


def rename(days: Days, known: Iterable[str], names: Mapping[str, str]) -> Days:
    """Return the days under our names of models: as `names` says, else without a version's date where only that is known to us."""
    ours = set(known)
    renamed: dict[tuple[date, str], Usage] = {}
    for (day, model), usage in days.items():
        short = _VERSION.sub("", model)
        name = names.get(model) or (short if model not in ours and short in ours else model)
        renamed.setdefault((day, name), Usage()).add(usage)
    return renamed


def compare(theirs: Days, ours: Days, *, tolerance: Decimal = Decimal(0)) -> list[Difference]:
    """Return what differs by more than a fraction `tolerance`, the largest first. A measure that they do not state is not compared."""
    stated = {name for name in MEASURES if any(getattr(usage, name) is not None for usage in theirs.values())}
    found = []
    for day, model in sorted(theirs.keys() | ours.keys()):
        one, other = theirs.get((day, model), Usage()), ours.get((day, model), Usage())
        for name in MEASURES:
            difference = Difference(day, model, name, getattr(one, name) or 0, getattr(other, name) or 0)
            if name in stated and difference.theirs != difference.ours and difference.share > tolerance:
                found.append(difference)
    return sorted(found, key=lambda d: (-d.share, d.day, d.model))


def _day(text: str) -> date:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{text}' is no date") from None
    return utc(at).date() if at.tzinfo else at.date()


def _count(row: Row, name: str) -> int | None:
    text = row.get(name, "")
    if not text:
        return None
    if not text.isdigit():
        raise ValueError(f"{name} is '{text}': a whole number is expected")
    return int(text)


def _amount(row: Row, name: str) -> Decimal | None:
    text = row.get(name, "")
    if not text:
        return None
    amount = Decimal(text)
    if not amount.is_finite():
        raise ValueError(f"{name} is '{text}': an amount is expected")
    return amount

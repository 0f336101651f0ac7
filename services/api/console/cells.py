"""What stands in the tables of operator and finance pages: values that a template writes in the notation of a language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeVar

from services.api.console.wording import N_

Kind = Literal["text", "word", "number", "amount", "credits", "moment", "age", "badge", "code"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, how it is written, and the page that it leads to, if any. `extra` is the currency of an amount."""

    value: Any
    kind: Kind = "text"
    href: str = ""
    extra: str = ""

    @property
    def is_number(self) -> bool:
        """Whether it stands at the right of its column."""
        return self.kind in ("number", "amount", "credits")


def text(value: Any, href: str = "") -> Cell:
    """Words, or a name."""
    return Cell(value, "text", href)


def word(value: str | None, href: str = "") -> Cell:
    """A word of ours, such as a reason: it is translated."""
    return Cell(value, "word", href)


def number(value: float | Decimal | None) -> Cell:
    """A count."""
    return Cell(value, "number")


def amount(value: Decimal | None, currency: str) -> Cell:
    """Money."""
    return Cell(value, "amount", extra=currency)


def moment(value: datetime | None) -> Cell:
    """A time."""
    return Cell(value, "moment")


def age(value: datetime | None) -> Cell:
    """How long ago a time was."""
    return Cell(value, "age")


def badge(status: str | None) -> Cell:
    """A state that somebody is in."""
    return Cell(status, "badge")


def code(value: Any, href: str = "") -> Cell:
    """An id, or another text for machines."""
    return Cell(value, "code", href)


@dataclass(frozen=True, slots=True)
class Filter:
    """A field above a list. With `options`, (value, label), one of them is chosen."""

    name: str
    label: str
    options: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A list for people: its headers, which are translated where they are shown, and rows of cells; `empty` where there are none."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    empty: str = N_("There is nothing here.")
    cursor: str | None = None
    filters: Sequence[Filter] = field(default_factory=tuple)

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return bool(self.rows) and self.rows[0][column].is_number


T = TypeVar("T")
Column = tuple[str, Callable[[T], Cell]]
"""A header, and the cell under it of each thing in a list."""


def table_of(
    caption: str,
    items: Sequence[T],
    *columns: Column[T],
    empty: str = N_("There is nothing here."),
    cursor: str | None = None,
    filters: Sequence[Filter] = (),
) -> Table:
    """Return a table with a row for each thing."""
    rows = [[cell(item) for _, cell in columns] for item in items]
    return Table(caption, [header for header, _ in columns], rows, empty, cursor, filters)


def any_of(*states: str) -> tuple[tuple[str, str], ...]:
    """Return the options of a filter by state, the first of which is every state."""
    return (("", N_("Any")), *((state, state.replace("_", " ")) for state in states))

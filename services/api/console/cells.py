"""What stands in the tables of operator and finance pages: values that a template writes in the notation of a language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from services.api.console.wording import N_

Kind = Literal["text", "number", "amount", "credits", "moment", "badge", "code"]


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


def number(value: float | Decimal | None) -> Cell:
    """A count."""
    return Cell(value, "number")


def amount(value: Decimal | None, currency: str) -> Cell:
    """Money."""
    return Cell(value, "amount", extra=currency)


def moment(value: datetime | None) -> Cell:
    """A time."""
    return Cell(value, "moment")


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


def any_of(*states: str) -> tuple[tuple[str, str], ...]:
    """Return the options of a filter by state, the first of which is every state."""
    return (("", N_("Any")), *((state, state.replace("_", " ")) for state in states))

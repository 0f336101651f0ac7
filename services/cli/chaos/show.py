"""How a run is shown while it goes on: bars on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

_PLAIN_SECONDS: Final = 5.0


class Progress:
    """Tells how far faults and traffic are; a context manager around a run."""

    def __init__(self, console: Console, *, faults: int, records: int) -> None:
        self._console, self._faults, self._records = console, faults, records
        self._begun, self._due = monotonic(), 0.0
        columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, TextColumn("{task.fields[now]}"), console=console, disable=not console.is_terminal)

    def __enter__(self) -> Progress:
        self._bars.start()
        self._fault_bar = self._bars.add_task("faults", total=self._faults, now="")
        self._record_bar = self._bars.add_task("records", total=self._records, now="")
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, faults: int, records: int, now: str) -> None:
        """Show the numbers of faults begun and of records sent, and what strikes now."""
        if self._console.is_terminal:
            self._bars.update(self._fault_bar, completed=faults, now=escape(now[:60]))
            self._bars.update(self._record_bar, completed=min(records, self._records))
        elif monotonic() >= self._due:
            self._due = monotonic() + _PLAIN_SECONDS
            self.say(f"{faults:,} of {self._faults:,} faults, {records:,} of {self._records:,} records: {now}")

    def say(self, line: str) -> None:
        """Tell one thing, with the seconds since the start."""
        self._console.print(f"{monotonic() - self._begun:7.1f} s  {escape(line)}", highlight=False, soft_wrap=True)

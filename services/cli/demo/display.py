"""What the demo says while it runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Final, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_PLAIN_SECONDS: Final = 2.0
"""Between two plain lines of progress."""


class Bars(Protocol):
    """Takes how far each thing is; a name that was not announced is ignored."""

    def __call__(self, done: Mapping[str, int]) -> None: ...


class Display:
    """Tells a person how the demo goes. All of it goes to one console: stdout, or stderr when stdout is for JSON."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._begun = monotonic()

    def chapter(self, title: str) -> None:
        """Begin a new part of the story."""
        self.console.print(f"\n[bold]{escape(title)}[/]", highlight=False)

    def say(self, line: str) -> None:
        """Tell one thing, with the seconds since the start."""
        seconds = monotonic() - self._begun
        self.console.print(f"[dim]{seconds:6.1f} s[/]  {escape(line)}", highlight=False, soft_wrap=True)

    @contextmanager
    def bars(self, totals: Mapping[str, int]) -> Iterator[Bars]:
        """Show how far each of `totals` is, until the block ends."""
        if self.console.is_terminal:
            with self._live_bars(totals) as bars:
                yield bars
        else:
            yield self._plain_lines(totals)

    @contextmanager
    def _live_bars(self, totals: Mapping[str, int]) -> Iterator[Bars]:
        columns = (
            TextColumn("          {task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            tasks = {name: progress.add_task(name, total=total) for name, total in totals.items()}

            def update(done: Mapping[str, int]) -> None:
                for name, task in tasks.items():
                    progress.update(task, completed=done[name])

            yield update

    def _plain_lines(self, totals: Mapping[str, int]) -> Bars:
        last: dict[str, int] = {}
        due = monotonic()

        def update(done: Mapping[str, int]) -> None:
            nonlocal due, last
            now = {name: done[name] for name in totals}
            if now != last and (monotonic() >= due or all(now[name] >= total for name, total in totals.items())):
                self.say("  ".join(f"{name} {count:,}" for name, count in now.items()))
                last, due = now, monotonic() + _PLAIN_SECONDS

        return update

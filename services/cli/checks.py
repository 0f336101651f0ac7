"""How reconciliation is shown to a person."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.billing.reconciliation import Check

PLAIN_COLUMNS: Final = 120


def console(*, stderr: bool = False) -> Console:
    """Return where to print; a pipe or a log has no width of its own, and 80 columns are few for tables."""
    found = Console(stderr=stderr)
    if not found.is_terminal:
        found.width = PLAIN_COLUMNS
    return found


def show(console: Console, checks: Sequence[Check]) -> None:
    """Print every check with both sides and its verdict, then the first differing keys of those that do not hold."""
    table = Table(title="Reconciliation", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("check")
    table.add_column("one side", justify="right", no_wrap=True)
    table.add_column("the other", justify="right", no_wrap=True)
    table.add_column("verdict")
    for check in checks:
        verdict = "[green]holds[/]" if check.holds else "[bold red]DIFFERS[/]"
        table.add_row(escape(check.name), number(check.left), number(check.right), verdict)
    console.print(table)
    broken = [check for check in checks if not check.holds]
    for check in broken:
        console.print(
            f"\n[bold red]{escape(check.name)}[/]: {escape(check.statement)}", highlight=False, soft_wrap=True
        )
        console.print(f"  {escape(check.left_label)}: {number(check.left)}", highlight=False)
        console.print(f"  {escape(check.right_label)}: {number(check.right)}", highlight=False)
        for key in check.differing:
            console.print(f"  differs: {escape(key)}", highlight=False, soft_wrap=True)
    verdict = (
        f"[bold red]{len(broken)} of {len(checks)} checks do not hold[/]"
        if broken
        else f"[green]all {len(checks)} checks hold[/]"
    )
    console.print(f"\n{verdict}", highlight=False)


def number(value: int | Decimal) -> str:
    """Return a number with thousands separated, all its decimals kept."""
    return f"{value:,}"

"""The tables at the end of the demo: what came of the traffic, for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli.checks import number
from services.cli.demo.world import QUERIES
from shared.postgres import Connection

_TOP = 10
_ALIKE = 4
_LINES = 12


async def show_summaries(console: Console, connection: Connection) -> None:
    """Print the largest month summaries."""
    rows = await connection.fetch(QUERIES["top_summaries"], _TOP)
    table = _table(
        "user", "model or tool", "month", "#requests", "#errors", "#request tokens", "#response tokens", "#mean latency"
    )
    for row in rows:
        latency = "" if row["avg_latency_ms"] is None else f"{row['avg_latency_ms']:,.0f} ms"
        counts = (row["request_count"], row["error_count"], row["request_tokens"], row["response_tokens"])
        table.add_row(row["username"], row["what"], row["month"], *map(number, counts), latency)
    console.print(table)


async def show_quarantine(console: Console, connection: Connection) -> None:
    """Print why records were refused."""
    rows = await connection.fetch(QUERIES["quarantine"])
    table = _table("reason", "#records", "for example")
    for row in rows:
        table.add_row(row["reason"], number(row["records"]), escape(_short(row["example"], 90)))
    console.print(table if rows else "nothing was refused")


async def show_suspended(console: Console, connection: Connection) -> int:
    """Print who is suspended and why, a few for each combination of reasons; return how many are suspended in all."""
    rows = await connection.fetch(QUERIES["suspended"], _ALIKE)
    if not rows:
        console.print("nobody is suspended")
        return 0
    counts = {tuple(row["suspended_reasons"]): row["alike"] for row in rows}
    table = _table("because", "#subscriptions", "for example", "who has used")
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        reasons = tuple(row["suspended_reasons"])
        first = reasons not in seen
        seen.add(reasons)
        because = (", ".join(reasons), number(counts[reasons])) if first else ("", "")
        table.add_row(*because, row["username"], _what_was_used(row))
    console.print(table)
    return sum(counts.values())


async def show_invoice(console: Console, connection: Connection, invoice: Mapping[str, Any]) -> None:
    """Print an invoice, its largest lines."""
    name = invoice["full_name"] or invoice["email"]
    console.print(
        f"{invoice['number']} for {escape(name)}, usage of {invoice['period_start']:%Y-%m-%d} to before {invoice['period_end']:%Y-%m-%d}, "
        f"issued {invoice['issue_date']:%Y-%m-%d}, due {invoice['due_date']:%Y-%m-%d}",
        highlight=False,
    )
    lines = await connection.fetch(QUERIES["invoice_lines"], invoice["id"], _LINES)
    table = _table("#line", "description", "#quantity", "unit", "#events", "#exact", f"#{invoice['currency']}")
    for line in lines:
        quantity, exact = (format(line[name].normalize(), "f") for name in ("quantity", "exact_amount"))
        place, events, amount = (number(line[name]) for name in ("position", "event_count", "amount"))
        table.add_row(place, escape(line["description"]), quantity, line["unit"], events, exact, amount)
    if (more := lines[0]["lines"] - len(lines)) > 0:
        table.add_row("", f"… and {more} more lines")
    table.add_section()
    for what in ("subtotal", "tax", "total"):
        table.add_row("", what, "", "", "", "", number(invoice[what]))
    console.print(table)


def _table(*columns: str) -> Table:
    """Return a table; a column whose title begins with # holds numbers."""
    table = Table(show_edge=False, pad_edge=False)
    for title in columns:
        table.add_column(title.lstrip("#") or "#", justify="right" if title[0] == "#" else "left")
    return table


def _what_was_used(row: Any) -> str:
    reasons = row["suspended_reasons"]
    used = [
        f"{number(row[f'used_{what}'])} of {number(row[f'quota_{what}'])} {what}"
        for what in ("requests", "tokens")
        if f"quota_{what}" in reasons
    ]
    return (
        ", ".join([*used, *(["all prepaid credits"] if "credits_exhausted" in reasons else [])])
        or "whatever: see its audit log"
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

"""The tables at the end of the demo: what came of the traffic, for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cli.checks import number
from services.cli.demo.world import QUERIES
from shared.postgres import Connection

_TOP = 10
_MOST_SUSPENDED = 12
_MOST_LINES = 16


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
    table = _table("reason", "#records", "for example")
    for row in await connection.fetch(QUERIES["quarantine"]):
        table.add_row(row["reason"], number(row["records"]), escape(_short(row["example"], 90)))
    console.print(table)


async def show_suspended(console: Console, connection: Connection) -> int:
    """Print who is suspended and why; return how many that are."""
    rows = await connection.fetch(QUERIES["suspended"])
    table = _table("user", "because", "what was used of what")
    for row in rows[:_MOST_SUSPENDED]:
        table.add_row(row["username"], ", ".join(row["suspended_reasons"]), _what_was_used(row))
    console.print(table)
    _say_rest(console, rows, _MOST_SUSPENDED, "subscriptions")
    return len(rows)


async def show_invoice(console: Console, connection: Connection) -> None:
    """Print the invoice with the highest total, line by line."""
    invoice = await connection.fetchrow(QUERIES["an_invoice"])
    if invoice is None:
        return
    name = invoice["full_name"] or invoice["email"]
    console.print(
        f"{invoice['number']} for {escape(name)}, usage of {invoice['period_start']:%Y-%m-%d} to before {invoice['period_end']:%Y-%m-%d}, "
        f"issued {invoice['issue_date']:%Y-%m-%d}, due {invoice['due_date']:%Y-%m-%d}",
        highlight=False,
    )
    lines = await connection.fetch(QUERIES["invoice_lines"], invoice["id"])
    table = _table("#", "description", "#quantity", "unit", "#events", "#exact", f"#{invoice['currency']}")
    for line in lines[:_MOST_LINES]:
        quantity, exact = (format(line[name].normalize(), "f") for name in ("quantity", "exact_amount"))
        table.add_row(
            str(line["position"]),
            escape(line["description"]),
            quantity,
            line["unit"],
            number(line["event_count"]),
            exact,
            number(line["amount"]),
        )
    table.add_section()
    table.add_row(
        "",
        "net, tax, [bold]total[/]",
        "",
        "",
        "",
        f"{number(invoice['subtotal'])} + {number(invoice['tax'])}",
        f"[bold]{number(invoice['total'])}[/]",
    )
    console.print(table)
    _say_rest(console, lines, _MOST_LINES, "lines")


def _table(*columns: str) -> Table:
    """Return a table; a column whose title begins with # holds numbers."""
    table = Table(show_edge=False, pad_edge=False)
    for title in columns:
        table.add_column(title[1:] or title, justify="right" if title[0] == "#" else "left")
    return table


def _what_was_used(row: Any) -> str:
    reasons = row["suspended_reasons"]
    used = [
        f"{number(row[f'used_{what}'])} of {number(row[f'quota_{what}'])} {what}"
        for what in ("requests", "tokens")
        if f"quota_{what}" in reasons
    ]
    return ", ".join([*used, *(["all prepaid credits"] if "credits_exhausted" in reasons else [])])


def _say_rest(console: Console, rows: Sequence[Any], shown: int, what: str) -> None:
    if len(rows) > shown:
        console.print(f"… and {len(rows) - shown} more {what}", highlight=False)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

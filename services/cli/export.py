"""`tallystick export`: what was billed, for FinOps tools and for accounting."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.operator import plural, with_database

if TYPE_CHECKING:
    from services.billing.exports.focus import FocusRow
    from services.billing.exports.journal import Account, Posting
    from shared.period import Period

app = typer.Typer(no_args_is_help=True, help="Write what was billed for other tools: FOCUS rows, a journal.")


class Format(StrEnum):
    """What a file can be."""

    csv = "csv"
    parquet = "parquet"


Month = Annotated[str, typer.Option("--period", metavar="MONTH", help="The month, such as 2026-10.")]
To = Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write; else to standard output.")]


@app.command()
def focus(
    period: Month,
    to: To = None,
    *,
    form: Annotated[Format, typer.Option("--format")] = Format.csv,
    service: Annotated[str, typer.Option(help="What you sell, as ServiceName.")] = "LLM gateway",
) -> int:
    """Write invoices and credit notes of a month as FOCUS 1.2 rows: their BilledCost sums to each document's total."""
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if form is Format.parquet and to is None:
        raise ConfigurationError("Parquet is no text: say with --to which file to write")
    month = parse_month(period)
    rows = with_database(lambda connection: _focus_rows(connection, month, service))
    if form is Format.parquet:
        _write_parquet(rows, to or Path())
    else:
        from services.billing.exports.focus import COLUMNS  # noqa: PLC0415

        with _writer(to) as lines:
            lines.writerow(COLUMNS)
            lines.writerows([_cell(value) for value in astuple(row)] for row in rows)
    _say(plural(len(rows), "row"), to)
    return 0


@app.command()
def journal(
    period: Month,
    to: To = None,
    *,
    account: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="The number of an account in your chart; may be given often."),
    ] = None,
) -> int:
    """Write a month as a journal for accounting: invoices, credit notes, payments, refunds, credits used. Every entry balances."""
    numbers = _accounts(account or [])
    month = parse_month(period)
    postings: list[Posting] = with_database(lambda connection: _journal(connection, month))
    with _writer(to) as lines:
        lines.writerow(("date", "document", "account", "name", "debit", "credit", "currency", "customer", "text"))
        for p in postings:
            debit, credit = (p.amount, "") if p.amount > 0 else ("", -p.amount)
            lines.writerow(
                (p.booked_on, p.document, numbers[p.account], p.account, debit, credit, p.currency, p.customer, p.text)
            )
    _say(f"{plural(len(postings), 'posting')} of {plural(len({p.document for p in postings}), 'document')}", to)
    return 0


async def _focus_rows(connection: Any, month: Period, service: str) -> list[FocusRow]:
    from services.billing.exports.store import read_focus  # noqa: PLC0415

    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return [row async for row in read_focus(connection, month, service=service)]


async def _journal(connection: Any, month: Period) -> list[Posting]:
    from services.billing.exports.store import read_journal  # noqa: PLC0415

    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return await read_journal(connection, month)


def parse_month(text: str) -> Period:
    """Return the month that a flag names. Raises `ConfigurationError`."""
    from shared.errors import ConfigurationError  # noqa: PLC0415
    from shared.period import Period  # noqa: PLC0415

    try:
        return Period.parse_month(text)
    except ValueError as error:
        raise ConfigurationError(f"--period: {error}") from None


def _accounts(given: list[str]) -> dict[Account, str]:
    from services.billing.exports.journal import ACCOUNTS  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    numbers = dict(ACCOUNTS)
    for text in given:
        name, _, number = text.partition("=")
        if name not in numbers or not number:
            raise ConfigurationError(f"--account {text}: write NAME=NUMBER, with a NAME of {', '.join(numbers)}")
        numbers[name] = number
    return numbers


@contextmanager
def _writer(to: Path | None) -> Iterator[Any]:
    if to is None:
        yield csv.writer(sys.stdout)
        return
    with to.open("w", newline="", encoding="utf-8") as file:
        yield csv.writer(file)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _write_parquet(rows: list[FocusRow], to: Path) -> None:
    from services.billing.exports.focus import AMOUNTS, COLUMNS, TIMES  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError("pyarrow is not installed: pip install 'tallystick[archive]'") from None
    kinds = {**dict.fromkeys(AMOUNTS, pa.decimal128(38, 18)), **dict.fromkeys(TIMES, pa.timestamp("us", tz="UTC"))}
    schema = pa.schema([(column, kinds.get(column, pa.string())) for column in COLUMNS])
    columns = [[getattr(row, column) for row in rows] for column in COLUMNS]
    parquet.write_table(
        pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema), to
    )


def _say(what: str, to: Path | None) -> None:
    typer.echo(f"{what} written" + (f" to {to}" if to else ""), err=True)

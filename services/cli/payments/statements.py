"""`tallystick payments import-statement | unmatched | match`."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import operator
from services.cli.payments import AsJson, By, money, parse_id, tell_json, with_payments
from shared.errors import ConfigurationError

MOST_BYTES = 50_000_000


def import_statement(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Statement as CSV, UTF-8.", exists=True, dir_okay=False)],
    *,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Import a bank statement, and match its lines with invoices by the numbers that payers wrote.

    The first line names the columns: booked_on, amount, currency, reference, and maybe counterparty, account, bank_id. A line counts
    once, however often it is imported. What nothing is found for waits: `unmatched` lists it, `match` says what it is.
    """
    from services.billing.payments.statements import import_statement as bring_in  # noqa: PLC0415 (slow to import)

    who = operator.actor(by)
    if file.stat().st_size > MOST_BYTES:
        raise ConfigurationError(f"{file} has more than {MOST_BYTES // 1_000_000} MB: split it")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 (byte {error.start}): export it as UTF-8") from None

    async def write(pool: Any, _providers: Any, clock: Any) -> Any:
        async with pool.acquire() as connection:
            return await bring_in(connection, text, file.name, actor=who, now=clock.now())

    result = with_payments(write)
    if as_json:
        tell_json(
            {
                "lines": result.lines,
                "known": result.known,
                "ignored": result.ignored,
                "matched": [{"line": line.line_number, "payment": paid.id} for line, paid in result.matched],
                "unmatched": [{"line": line.line_number, "why": why} for line, why in result.unmatched],
            }
        )
        return
    for line, paid in result.matched:
        over = paid.amount - paid.allocated_amount if paid.package_id is None else Decimal(0)
        left = f"; {money(over, line.currency)} left over" if over else ""
        typer.echo(f"line {line.line_number}: {money(line.amount, line.currency)} is payment {paid.id}{left}")
    for line, why in result.unmatched:
        typer.echo(f"line {line.line_number}: {money(line.amount, line.currency)} not matched: {why}")
    typer.echo(
        f"{operator.plural(result.lines, 'line')}: {len(result.matched):,} matched, {len(result.unmatched):,} not matched, "
        f"{result.known:,} known already, {result.ignored:,} going out"
    )


def unmatched(
    *,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most lines, and most payments, to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List money that came and that nobody could place: lines of statements, and payments of which something is left over."""
    from services.billing.payments import statements  # noqa: PLC0415

    async def read(pool: Any, _providers: Any, _clock: Any) -> Any:
        async with pool.acquire() as connection:
            return await statements.unmatched_lines(connection, limit), await statements.overpaid(connection, limit)

    lines, overpaid = with_payments(read)
    if as_json:
        tell_json({"lines": [dict(row) for row in lines], "left_over": [dict(row) for row in overpaid]})
        return
    for row in lines:
        told = operator.harmless(f"{row['counterparty'] or 'somebody'} wrote '{row['reference']}'")
        typer.echo(
            f"{row['id']}  {row['booked_on']}  {money(row['amount'], row['currency']):>16}  {told}: {row['why']}"
        )
    for row in overpaid:
        left = money(row["left_over"], row["currency"])
        typer.echo(
            f"{row['id']}  {row['processed_at']:%Y-%m-%d}  {left:>16}  left over of a payment of {operator.harmless(row['email'])}"
        )
    if not lines and not overpaid:
        typer.echo("everything is placed")


def match(
    line: Annotated[str, typer.Argument(metavar="LINE", help="Id of the line, as `unmatched` prints it.")],
    target: Annotated[
        str,
        typer.Argument(
            metavar="INVOICE|PAYMENT", help="The invoice it pays (number or id), or the payment that it is (id)."
        ),
    ],
    *,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Say what a line of a statement is: money for an invoice, or a payment that was recorded by hand."""
    from services.billing.payments.statements import match_line  # noqa: PLC0415

    who = operator.actor(by)

    async def write(pool: Any, _providers: Any, clock: Any) -> Any:
        async with pool.acquire() as connection:
            return await match_line(connection, parse_id(line), target, actor=who, now=clock.now())

    paid = with_payments(write)
    if as_json:
        tell_json({"line": line, "payment": paid.id, "allocated": paid.allocated_amount, "amount": paid.amount})
        return
    typer.echo(
        f"line {line} is payment {paid.id}: {money(paid.allocated_amount, paid.currency)} of "
        f"{money(paid.amount, paid.currency)} pay invoices"
    )

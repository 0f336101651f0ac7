"""`tallystick reprice`: what a corrected price would have done to a period's usage, and the correction."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.operator import actor, ask, parse_why, plural, with_database

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from services.billing.rating.price_file import NewPrice
    from services.billing.reprice import Applied, Preview
    from services.billing.reprice.changes import Change
    from shared.period import Period

SHOWN = 20
COLUMNS = (
    "user_id", "subscription_id", "subject", "power_level", "byok", "billing_mode", "currency", "events", "before", "after", "difference",
)  # fmt: skip


def reprice(
    *,
    start: Annotated[str, typer.Option("--from", metavar="HOUR", help="First hour (UTC), such as 2026-10-01.")],
    end: Annotated[str, typer.Option("--to", metavar="HOUR", help="End: the first hour that is not in it.")],
    prices: Annotated[Path, typer.Option(help="The prices as they should have been: JSON or CSV, as for 'price set'.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change; nothing is written.")
    ] = False,
    why: Annotated[str, typer.Option(help="Why, for those who ask later; needed to apply.")] = "",
    by: Annotated[str | None, typer.Option(help="Who applies it; else who is logged in here.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before applying.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every changed line as CSV.")] = False,
) -> int:
    """Rate usage of the past again by corrected prices: show the difference for each customer and line, and apply it.

    What was billed is never edited: a difference becomes adjustments of the next settlement or invoice. Applying the same again does nothing.
    """
    from services.billing.rating.price_file import parse_hour, read_price_file  # noqa: PLC0415
    from services.billing.reprice import apply, preview  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if as_json and as_csv:
        raise ConfigurationError("--json and --csv exclude each other: choose one")
    reason, who = ("", "") if dry_run else (parse_why(why), actor(by))
    period = _period(parse_hour("--from", start), parse_hour("--to", end))
    wanted: Sequence[NewPrice] = read_price_file(prices)

    seen = with_database(lambda connection: preview(connection, period, wanted))
    if dry_run or not (seen.new_prices or seen.changes):
        _print(seen, as_json=as_json, as_csv=as_csv, applied=None)
        return 0
    if not yes:
        _print(seen, as_json=False, as_csv=False, applied=None, to_stderr=True)
    customers = plural(len({change.user_id for change in seen.changes}), "customer")
    ask(f"Put these prices in force for {period} and correct what {customers} used?", yes=yes)
    done = with_database(
        lambda connection: _with_progress(
            lambda progress: apply(connection, period, wanted, why=reason, by=who, progress=progress)
        )
    )
    _print(seen, as_json=as_json, as_csv=as_csv, applied=done)
    return 0


def _period(start: Any, end: Any) -> Period:
    from shared.errors import ConfigurationError  # noqa: PLC0415
    from shared.period import Period  # noqa: PLC0415

    try:
        return Period(start, end)
    except ValueError as error:
        raise ConfigurationError(f"--from and --to: {error}") from None


async def _with_progress(work: Callable[[Callable[[int, int], None]], Any]) -> Any:
    from rich.progress import Progress  # noqa: PLC0415

    from services.cli.checks import console  # noqa: PLC0415

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("correcting subscriptions", total=None)
        return await work(lambda done, every: bar.update(task, completed=done, total=every))


def _print(seen: Preview, *, as_json: bool, as_csv: bool, applied: Applied | None, to_stderr: bool = False) -> None:
    found = applied.changes if applied else seen.changes
    if as_json:
        typer.echo(json.dumps(_document(seen, found, applied), default=str))
    elif as_csv:
        lines = csv.writer(sys.stdout)
        lines.writerow(COLUMNS)
        lines.writerows([_text(getattr(change, column)) for column in COLUMNS] for change in found)
    else:
        _table(seen, found, applied, to_stderr=to_stderr)


def _document(seen: Preview, found: Sequence[Change], applied: Applied | None) -> dict[str, Any]:
    from services.billing.amounts import amount_text  # noqa: PLC0415
    from services.billing.reprice.changes import totals  # noqa: PLC0415

    return {
        "from": seen.period.start.isoformat(),
        "to": seen.period.end.isoformat(),
        "applied": bool(applied and applied.id),
        "reprice": applied and applied.id,
        "rows_written": applied.rows if applied else 0,
        "new_prices": [
            {"id": p.id, "kind": p.kind, "subject": p.subject, "currency": p.currency, "revision": p.revision,
             "valid_from": p.valid_from.isoformat(), "valid_to": p.valid_to and p.valid_to.isoformat()}
            for p in (applied.new_prices if applied else seen.new_prices)
        ],
        "waiting_for_a_price": seen.waiting,
        "totals": {
            currency: {"before": amount_text(before), "after": amount_text(after)}
            for currency, (before, after) in totals(found).items()
        },
        "changes": [
            {**asdict(change), **{name: amount_text(getattr(change, name)) for name in ("before", "after", "difference")}}
            for change in found
        ],
    }  # fmt: skip


def _table(seen: Preview, found: Sequence[Change], applied: Applied | None, *, to_stderr: bool) -> None:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from services.billing.amounts import amount_text  # noqa: PLC0415
    from services.billing.reprice.changes import totals  # noqa: PLC0415
    from services.cli.checks import console  # noqa: PLC0415

    out = console(stderr=to_stderr)
    if found:
        table = Table(title=f"Usage of {seen.period}", title_justify="left", show_edge=False, pad_edge=False)
        for column in ("customer", "subscription", "what"):
            table.add_column(column, overflow="fold")
        for column in ("events", "before", "after", "difference"):
            table.add_column(column, justify="right", no_wrap=True)
        for change in sorted(found, key=lambda c: -abs(c.difference))[:SHOWN]:
            what = f"{change.subject} ({change.power_level}{', own key' if change.byok else ''}, {change.billing_mode})"
            table.add_row(
                str(change.user_id)[:13], str(change.subscription_id)[:13], escape(what), f"{change.events:,}",
                amount_text(change.before), amount_text(change.after), f"{change.currency} {_signed(change.difference)}",
            )  # fmt: skip
        if len(found) > SHOWN:
            table.caption = f"the {SHOWN} largest of {len(found):,} lines; --csv has them all"
        out.print(table)
    for currency, (before, after) in totals(found).items():
        out.print(
            f"{currency}: {amount_text(before)} before, {amount_text(after)} after, {_signed(after - before)}",
            highlight=False,
        )
    if seen.waiting:
        out.print(
            f"{plural(seen.waiting, 'event')} had no price: the new ones rate them where they are theirs",
            highlight=False,
        )
    if applied is not None and applied.id:
        out.print(
            f"applied as reprice {applied.id}: {plural(len(applied.new_prices), 'price')} in force, {plural(applied.rows, 'row')} of correction; "
            "the next settlement or invoice has the difference",
            highlight=False,
        )
    elif not found and not seen.new_prices:
        out.print(
            "nothing would change: these prices are in force, and all usage of the period is rated by them",
            highlight=False,
        )
    elif not found:
        out.print(
            f"no usage of the period is concerned; {plural(len(seen.new_prices), 'price')} would come into force",
            highlight=False,
        )


def _signed(amount: Decimal) -> str:
    from services.billing.amounts import amount_text  # noqa: PLC0415

    return f"+{amount_text(amount)}" if amount > 0 else amount_text(amount)


def _text(value: Any) -> str:
    from decimal import Decimal  # noqa: PLC0415

    from services.billing.amounts import amount_text  # noqa: PLC0415

    return amount_text(value) if isinstance(value, Decimal) else str(value)

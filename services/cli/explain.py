"""`tallystick explain`: from an invoice line, a debit or a summary down to the usage events behind it."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.operator import harmless, plural, with_database

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.billing.plans.desk.explaining import ChargeExplanation
    from services.billing.provenance import Explanation, SetOffExplanation, SummaryExplanation
    from services.billing.provenance.anything import AnyExplanation
    from shared.postgres import Connection

EXIT_DIFFERS = 1
COLUMNS = (
    "created_at", "source", "request_id", "subscription_id", "api_key_id", "model_id", "tool_name", "feature_type", "power_level", "byok",
    "status_code", "request_tokens", "cached_tokens", "response_tokens", "sign", "id", "batch_id",
)  # fmt: skip


def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="LINE|INVOICE|DEBIT|SUMMARY",
            help="An invoice line (its id, or INV-2026-000001/3), all lines of an invoice (INV-2026-000001), a debit (the id of its "
            "settlement or ledger entry), or a summary (SUBSCRIPTION/hour|day|month/START/MODEL).",
        ),
    ],
    events: Annotated[int, typer.Option(min=0, help="How many events to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print every event as CSV, and the verdict to standard error.")
    ] = False,
) -> int:
    """Show what is behind an amount or a count: prices, formula, broker offsets and the events, and prove that they sum to it.

    Exit code 0 if they do, to the last digit; 1 if they do not, which is then said loudly.
    """
    from services.billing.provenance.anything import (  # noqa: PLC0415 (slow to import)
        as_document,
        every_event,
        explain_anything,
        parse_name,
    )
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if as_json and as_csv:
        raise ConfigurationError("--json and --csv exclude each other: choose one")

    async def work(connection: Connection) -> Sequence[AnyExplanation]:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = await explain_anything(connection, parse_name(what), events_shown=events)
            if as_csv:
                lines = csv.writer(sys.stdout)
                lines.writerow(COLUMNS)
                for each in found:
                    async for event in every_event(connection, each):
                        lines.writerow([event[column] for column in COLUMNS])
            return found

    found = with_database(work)
    if as_json:
        documents = [as_document(each) for each in found]
        typer.echo(json.dumps(documents[0] if len(documents) == 1 else documents, default=str))
    else:
        _show(found, to_stderr=as_csv, short=as_csv or len(found) > 1)
    return 0 if all(each.holds for each in found) else EXIT_DIFFERS


def _show(found: Sequence[Any], *, to_stderr: bool, short: bool) -> None:
    from rich.markup import escape  # noqa: PLC0415

    from services.billing.plans.desk.explaining import ChargeExplanation  # noqa: PLC0415
    from services.billing.provenance import SetOffExplanation, SummaryExplanation  # noqa: PLC0415
    from services.cli.checks import console  # noqa: PLC0415

    out = console(stderr=to_stderr)
    for each in found:
        if isinstance(each, ChargeExplanation):
            _show_charge(out, each, short=short)
            continue
        if isinstance(each, SetOffExplanation):
            _show_set_off(out, each)
            continue
        if isinstance(each, SummaryExplanation):
            _show_summary(out, each)
        else:
            _show_amount(out, each, short=short)
        if not short:
            _show_sources(out, each)
        for problem in each.problems:
            out.print(f"[bold red]DOES NOT AGREE[/]: {escape(problem)}", highlight=False)
        if each.holds:
            out.print("[green]the events give exactly this[/]", highlight=False)


def _show_amount(out: Any, found: Explanation, *, short: bool) -> None:
    from rich.markup import escape  # noqa: PLC0415

    from services.billing.amounts import amount_text  # noqa: PLC0415

    out.print(f"[bold]{escape(harmless(found.title))}[/]", highlight=False)
    out.print(f"  stated {amount_text(found.stated)} {found.currency}; {plural(found.event_count, 'event')} give "
              f"{amount_text(found.recomputed)}", highlight=False)  # fmt: skip
    if short:
        return
    out.print(f"  formula: {found.formula}", highlight=False)
    for used in found.prices:
        price = used.price
        until = f" to {price.valid_to:%Y-%m-%d %H:%M}" if price.valid_to else " on"
        out.print(
            f"  price {price.id} of {escape(price.subject)}, revision {price.revision}, from {price.valid_from:%Y-%m-%d %H:%M}{until}: "
            f"request {price.per_request}, 1k input {price.input_per_1k}, cached {price.cached_input_per_1k}, output {price.output_per_1k}; "
            f"times {used.multiplier}: {plural(used.events, 'event')}, {amount_text(used.amount)} {price.currency}",
            highlight=False,
        )


def _show_charge(out: Any, found: ChargeExplanation, *, short: bool) -> None:
    from rich.markup import escape  # noqa: PLC0415

    from services.billing.amounts import amount_text  # noqa: PLC0415

    again = "nothing" if found.recomputed is None else amount_text(found.recomputed)
    out.print(f"[bold]{escape(harmless(found.title))}[/]", highlight=False)
    out.print(
        f"  stated {amount_text(found.stated)} {found.currency}; its terms and usage give {again}", highlight=False
    )
    for name, fact in {} if short else found.facts.items():
        if fact is not None:
            out.print(f"  {name.replace('_', ' ')}: {escape(str(fact))}", highlight=False)
    for line in () if short else found.usage:
        out.print(
            f"  {line.number}/{line.position} {escape(harmless(line.description))}: {plural(line.events, 'event')}, {line.requests:,} successful, "
            f"{line.request_tokens + line.response_tokens:,} tokens, {amount_text(line.amount)}: 'tallystick explain {line.id}'",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for problem in found.problems:
        out.print(f"[bold red]DOES NOT AGREE[/]: {escape(problem)}", highlight=False)
    if found.holds:
        out.print("[green]the history gives exactly this[/]", highlight=False)


def _show_set_off(out: Any, found: SetOffExplanation) -> None:
    from rich.markup import escape  # noqa: PLC0415

    from services.billing.amounts import amount_text  # noqa: PLC0415

    out.print(f"[bold]{escape(harmless(found.title))}[/]", highlight=False)
    out.print(
        f"  stated {amount_text(found.stated)} {found.currency}, off what {', '.join(found.corrections)} give back",
        highlight=False,
    )
    out.print(
        f"  {found.note} gave back {amount_text(found.noted)} of {found.of_line}, {amount_text(found.set_off)} set off in all: "
        f"{escape(harmless(found.reason))}", highlight=False, soft_wrap=True,
    )  # fmt: skip
    for problem in found.problems:
        out.print(f"[bold red]DOES NOT AGREE[/]: {escape(problem)}", highlight=False)
    if found.holds:
        out.print("[green]nothing is given back twice[/]", highlight=False)


def _show_summary(out: Any, found: SummaryExplanation) -> None:
    out.print(f"[bold]{found.name}[/]", highlight=False)
    for measure, stored in found.stored.items():
        out.print(
            f"  {measure.replace('_', ' ')}: {stored:,} stored, {found.logged[measure]:,} by the events",
            highlight=False,
        )


def _show_sources(out: Any, found: Explanation | SummaryExplanation) -> None:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    for origin in found.origins:
        place = f"{origin['topic']}[{origin['partition']}]"
        offsets = (
            f", offsets {origin['first_offset']} to {origin['next_offset']}"
            if origin["first_offset"] is not None
            else ""
        )
        out.print(
            f"  from {escape(place)}{offsets}, {plural(origin['batches'], 'batch').replace('batchs', 'batches')}",
            highlight=False,
        )
    if not found.events:
        return
    table = Table(show_edge=False, pad_edge=False)
    for column in ("time", "source", "id", "status"):
        table.add_column(column, overflow="fold")
    for column in ("input", "cached", "output"):
        table.add_column(column, justify="right")
    for event in found.events:
        back = "-" if event["sign"] < 0 else ""
        table.add_row(
            f"{event['created_at']:%Y-%m-%d %H:%M:%S.%f}", escape(harmless(event["source"])), escape(back + harmless(event["request_id"])),
            str(event["status_code"]), *(f"{event[n]:,}" for n in ("request_tokens", "cached_tokens", "response_tokens")),
        )  # fmt: skip
    out.print(table)
    count = found.event_count if hasattr(found, "event_count") else found.logged["request_count"]
    if count > len(found.events):
        out.print(
            f"  the first {len(found.events)} of {plural(count, 'event')}; --csv prints them all", highlight=False
        )

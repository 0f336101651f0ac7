"""`tallystick announce`: batches that a reader of usage.recorded has not heard of, announced again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.announcing import Announced, Unheard

EXIT_UNHEARD = 1
SHOWN = 20


def announce(
    *,
    minutes: Annotated[
        int, typer.Option(min=0, help="Only batches older than so many minutes: younger ones may be on their way.")
    ] = 10,
    apply: Annotated[bool, typer.Option("--apply", help="Announce them again; without it only show them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show the batches that the aggregator or billing has not heard of and, with --apply, announce them again from the log.

    A running ingest worker publishes what was announced; readers that had heard of it drop it. Exit code 1 if batches remain unheard.
    """
    from services.ingest import announcing  # noqa: PLC0415 (slow to import)

    before, who = datetime.now(UTC) - timedelta(minutes=minutes), operator.actor(by)
    unheard = operator.with_database(lambda connection: announcing.find_unheard(connection, before))
    if not as_json:
        _show(unheard, minutes)
    announced: Announced | None = None
    if apply and unheard:
        operator.ask(f"Announce {_batches(len(unheard))} again?", yes=yes)

        async def again(connection: Any) -> Announced:
            async with connection.transaction():
                return await announcing.announce_again(connection, unheard, actor=who)

        announced = operator.with_database(again)
    if as_json:
        typer.echo(json.dumps(_document(unheard, announced), default=str))
    elif announced is not None:
        typer.echo(f"announced {_batches(len(announced.announced))} again")
        for batch_id in announced.left_alone:
            typer.echo(f"{batch_id} was left alone: its messages cannot be made as they were", err=True)
    remain = announced.left_alone if announced is not None else unheard
    return EXIT_UNHEARD if remain else 0


def _show(unheard: Sequence[Unheard], minutes: int) -> None:
    if not unheard:
        typer.echo(f"every batch older than {minutes} minutes was heard of")
    for batch in unheard[:SHOWN]:
        typer.echo(
            f"{batch.batch_id}  {batch.recorded_at:%Y-%m-%d %H:%M} UTC  {operator.plural(batch.rows, 'row')}, "
            f"{operator.plural(batch.message_count, 'message')}: aggregator heard {batch.aggregated}, billing {batch.rated}"
        )
    if len(unheard) > SHOWN:
        typer.echo(f"and {len(unheard) - SHOWN:,} more; --json lists all")


def _document(unheard: Sequence[Unheard], announced: Announced | None) -> dict[str, Any]:
    return {
        "unheard": [batch._asdict() for batch in unheard],
        "announced": None if announced is None else [str(batch_id) for batch_id in announced.announced],
        "left_alone": None if announced is None else [str(batch_id) for batch_id in announced.left_alone],
    }


def _batches(number: int) -> str:
    return f"{number:,} batch{'' if number == 1 else 'es'}"

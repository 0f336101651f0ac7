"""`tallystick quarantine`: what ingest refused is shown, replayed or discarded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator

if TYPE_CHECKING:
    from services.ingest.quarantine import Choice, Quarantined, Replayed

EXIT_REMAINS = 1
SHOWN = 90

app = typer.Typer(
    help="What ingest refused: see it, replay it once it can be accepted, or discard it. docs/how-to/repair-refused-events.md leads through it.",
    no_args_is_help=True,
)

Reason = Annotated[str | None, typer.Option("--reason", metavar="R", help="Only records refused for this reason.")]
Ids = Annotated[
    list[str] | None,
    typer.Option("--ids", metavar="ID,…", help="Only these records; several with commas, or repeated."),
]
By = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who acts, for the audit trail; the user of this machine without it."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_records(
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most records to list.")] = 20,
    as_json: Json = False,
) -> None:
    """List the open records, the newest first, and how many there are of each reason."""
    from services.ingest import quarantine  # noqa: PLC0415 (slow to import)

    async def read(connection: Any) -> Any:
        await quarantine.check_choice(connection, quarantine.Choice(reason))
        return await quarantine.count_open(connection, reason), await quarantine.list_open(connection, reason, limit)

    counts, records = operator.with_database(read)
    if as_json:
        by_reason = {c.reason: {"records": c.records, "since": c.since.isoformat()} for c in counts}
        typer.echo(json.dumps({"open": by_reason, "records": [operator.document(r) for r in records]}))
        return
    total = sum(c.records for c in counts)
    if not total:
        typer.echo("nothing is in quarantine" + (f" for the reason {reason}" if reason else ""))
        return
    for record in records:
        typer.echo(_line(record))
    reasons = ", ".join(f"{c.reason} {c.records:,}" for c in counts)
    typer.echo(f"\n{operator.plural(total, 'open record')}: {reasons}" + _shown(len(records), total))


@app.command()
def show(
    record: Annotated[str, typer.Argument(metavar="ID", help="Id of a record, as `list` prints it.")],
    as_json: Json = False,
) -> None:
    """Show one record, open or resolved: why it was refused, where it came from, its bytes; and what is stored under its identity."""
    from services.ingest import quarantine  # noqa: PLC0415

    (id_,) = operator.parse_ids([record])[:1]

    async def read(connection: Any) -> Any:
        found = await quarantine.show(connection, id_)
        return found, await quarantine.stored_version(connection, found)

    found, stored = operator.with_database(read)
    if as_json:
        typer.echo(json.dumps({**operator.document(found), "stored": stored}, default=str))
        return
    operator.show_record(found)
    for name, content in (stored or {}).items():
        typer.echo(f"{'stored ' + name:24} {operator.harmless(str(content))}")


@app.command()
def replay(
    *,
    reason: Reason = None,
    ids: Ids = None,
    accept_late: Annotated[
        bool,
        typer.Option(
            "--accept-late", help="Also take in events that came too late (reason too_old), up to ten years old."
        ),
    ] = False,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for the audit trail.")] = "replayed",
    by: By = None,
    yes: Yes = False,
) -> int:
    """Send open records through ingest once more: all, those of a reason, or single ones.

    Each counts once, however often it is replayed. What is refused again stays open, with the reason that holds now. Exit code 1 if
    something was refused again.
    """
    from services.cli.quarantine_replay import run  # noqa: PLC0415

    choice = _choice(reason, ids)
    count, resolved = _check(choice)
    _tell_resolved(resolved)
    if not count:
        typer.echo("nothing to replay")
        return 0
    late = " Late events will be accepted." if accept_late else ""
    operator.ask(f"Replay {operator.plural(count, 'record')}?{late}", yes=yes)
    replayed, published = asyncio.run(
        run(choice, actor=operator.actor(by), why=operator.parse_why(why), accept_late=accept_late)
    )
    _tell(replayed, published)
    return EXIT_REMAINS if replayed.refused_again else 0


@app.command()
def discard(
    *,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why they are given up, for the audit trail.")],
    reason: Reason = None,
    ids: Ids = None,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Give open records up: they are kept with their bytes, but not open any more, and cannot be replayed."""
    from services.ingest import quarantine  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if reason is None and not ids:
        raise ConfigurationError("say which records: --reason R or --ids ID,…")
    choice, reasoned, who = _choice(reason, ids), operator.parse_why(why), operator.actor(by)
    count, resolved = _check(choice)
    _tell_resolved(resolved)
    if not count:
        typer.echo("nothing to discard")
        return
    operator.ask(f"Discard {operator.plural(count, 'record')}? They cannot be replayed after that.", yes=yes)

    async def give_up(connection: Any) -> int:
        async with connection.transaction():
            return await quarantine.discard(connection, choice, actor=who, why=reasoned)

    discarded = operator.with_database(give_up)
    left = f"; {count - discarded:,} are in the hands of another session" if discarded < count else ""
    typer.echo(f"discarded {operator.plural(discarded, 'record')}{left}")


def _choice(reason: str | None, ids: Sequence[str] | None) -> Choice:
    from services.ingest.quarantine import Choice  # noqa: PLC0415

    return Choice(reason, operator.parse_ids(ids) if ids else None)


def _check(choice: Choice) -> tuple[int, list[Quarantined]]:
    from services.ingest.quarantine import check_choice  # noqa: PLC0415

    return operator.with_database(lambda connection: check_choice(connection, choice))


def _tell_resolved(resolved: Sequence[Quarantined]) -> None:
    for record in resolved:
        typer.echo(
            f"{record.id} was {record.resolution} already, {record.resolved_at:%Y-%m-%d %H:%M} UTC by {record.resolved_by}"
        )


def _tell(replayed: Replayed, published: str) -> None:
    if not replayed.resolved:
        typer.echo("nothing was taken in")
    else:
        typer.echo(
            f"replayed {operator.plural(replayed.resolved, 'record')}: {replayed.inserted:,} stored, {replayed.duplicates:,} were stored already, "
            f"{replayed.held:,} held until their subscription or key is known"
        )
    if published:
        typer.echo(published)
    for reason, count in replayed.refused_again.most_common():
        detail = operator.harmless(replayed.examples[reason])
        typer.echo(f"refused again, and still open: {reason} {count:,}, for example: {detail}")


def _shown(shown: int, total: int) -> str:
    return f"; the newest {shown:,} are listed, --limit lists more" if shown < total else ""


def _line(record: Quarantined) -> str:
    detail = operator.harmless(record.detail).replace("\n", " ")
    return f"{record.id}  {record.quarantined_at:%Y-%m-%d %H:%M}  {record.reason:19}  {detail if len(detail) <= SHOWN else detail[: SHOWN - 1] + '…'}"

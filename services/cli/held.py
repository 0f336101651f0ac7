"""`tallystick held`: valid events that wait for their subscription or key, and corrections that wait for their original."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import operator

if TYPE_CHECKING:
    from services.ingest.holding import WaitingFor

app = typer.Typer(
    help="Valid events that wait for a subscription, key or original: see them, or give them up. They are stored by themselves once it exists.",
    no_args_is_help=True,
)


@app.command("list")
def list_events(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most events to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List who is waited for and since when, and the events that have waited longest."""
    from services.ingest import holding  # noqa: PLC0415 (slow to import)

    async def read(connection: Any) -> Any:
        return await holding.count_waiting(connection), await holding.list_waiting(connection, limit)

    owners, events = operator.with_database(read)
    if as_json:
        waiting = [operator.document(owner) for owner in owners]
        typer.echo(json.dumps({"waiting_for": waiting, "events": [operator.document(event) for event in events]}))
        return
    if not owners:
        typer.echo("no event is held")
        return
    for owner in owners:
        typer.echo(
            f"{operator.plural(owner.events, 'event')}, for {_age(owner.oldest_seconds)}: {owner.reason} {_named(owner)}"
        )
    typer.echo("")
    for event in events:
        typer.echo(
            f"{event.id}  held {event.held_at:%Y-%m-%d %H:%M}  used {event.occurred_at:%Y-%m-%d %H:%M} UTC  {_named(event)}"
        )
    total = sum(owner.events for owner in owners)
    shown = f"; the oldest {len(events):,} are listed, --limit lists more" if len(events) < total else ""
    typer.echo(f"\n{operator.plural(total, 'event')} held{shown}")


@app.command()
def show(
    event: Annotated[str, typer.Argument(metavar="ID", help="Id of a held event, as `list` prints it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show one event: whom it names, where it came from, its bytes, and what became of it."""
    from services.ingest import holding  # noqa: PLC0415

    (found,) = operator.with_database(lambda connection: holding.find(connection, operator.parse_ids([event])[:1]))
    if as_json:
        typer.echo(json.dumps(operator.document(found)))
    else:
        operator.show_record(found)


@app.command()
def expire(
    *,
    ids: Annotated[
        list[str],
        typer.Option("--ids", metavar="ID,…", help="The events to give up; several with commas, or repeated."),
    ],
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why they are given up, for the audit trail.")],
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who acts; the user of this machine without it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Give up waiting: the events are kept, but never stored as usage, even if their subscription appears."""
    from services.ingest import holding  # noqa: PLC0415

    wanted, reasoned, who = operator.parse_ids(ids), operator.parse_why(why), operator.actor(by)
    waiting = [
        event
        for event in operator.with_database(lambda connection: holding.find(connection, wanted))
        if not _tell_settled(event)
    ]
    if not waiting:
        typer.echo("nothing to expire")
        return
    operator.ask(f"Expire {operator.plural(len(waiting), 'event')}? They will never count as usage.", yes=yes)

    async def give_up(connection: Any) -> int:
        async with connection.transaction():
            return await holding.expire(connection, wanted, actor=who, why=reasoned)

    expired = operator.with_database(give_up)
    left = f"; {len(waiting) - expired:,} were attributed meanwhile" if expired < len(waiting) else ""
    typer.echo(f"expired {operator.plural(expired, 'event')}{left}")


def _tell_settled(event: Any) -> bool:
    if event.attributed_at:
        typer.echo(f"{event.id} was attributed {event.attributed_at:%Y-%m-%d %H:%M} UTC")
    elif event.expired_at:
        typer.echo(f"{event.id} was expired already, {event.expired_at:%Y-%m-%d %H:%M} UTC by {event.expired_by}")
    return bool(event.attributed_at or event.expired_at)


def _named(owner: WaitingFor | Any) -> str:
    names = {
        "subscription": owner.subscription_id,
        "key": owner.api_key_id,
        "key hash": owner.api_key_hash,
        "original": owner.original_id,
    }
    return operator.harmless(", ".join(f"{what} {name}" for what, name in names.items() if name))


def _age(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))

"""`tallystick verify` and `tallystick rebuild`: what is derived from the log, compared with it, and put right."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

if TYPE_CHECKING:
    from services.aggregator.rebuild import Findings, Healed, Scope
    from services.billing.rating.comparison import RatedDifference

EXIT_DIFFERS = 1
SHOWN = 20

From = Annotated[
    str | None,
    typer.Option("--from", metavar="HOUR", help="First hour (UTC), such as 2026-11-01 or 2026-11-01T05:00Z."),
]
To = Annotated[
    str | None, typer.Option("--to", metavar="HOUR", help="End of the range: the first hour that is not in it.")
]
Subscription = Annotated[str | None, typer.Option("--subscription", metavar="ID", help="Only this subscription.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def verify(start: From = None, end: To = None, subscription: Subscription = None, as_json: Json = False) -> int:
    """Compute summaries, quota counters and rated quantities anew from usage_logs, and show what differs from what is stored.

    Reads only, in one snapshot, while traffic flows. Without --from and --to, all event times. Exit code 0 if nothing differs, 1 if something does.
    """
    return asyncio.run(_run(start, end, subscription, apply=False, yes=True, as_json=as_json))


def rebuild(
    *,
    start: From = None,
    end: To = None,
    subscription: Subscription = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write what was computed; without it only show it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before writing.")] = False,
    as_json: Json = False,
) -> int:
    """Verify, and with --apply write what the log gives into summaries and quota counters, in one transaction, while traffic flows.

    Only subscriptions with a difference are locked and written. Rated usage is compared but never rewritten. Exit code 1 if a difference remains.
    """
    return asyncio.run(_run(start, end, subscription, apply=apply, yes=yes, as_json=as_json))


async def _run(
    start: str | None, end: str | None, subscription: str | None, *, apply: bool, yes: bool, as_json: bool
) -> int:
    from deploy.local import connect as servers  # noqa: PLC0415 (slow to import)
    from services.aggregator.rebuild import heal  # noqa: PLC0415
    from services.aggregator.rebuild import verify as find  # noqa: PLC0415
    from services.billing.rating.comparison import compare_with_log  # noqa: PLC0415
    from shared.postgres import connect  # noqa: PLC0415

    asked = scope(start, end, subscription)
    connection = await connect(servers.database_url(), application_name="tallystick-rebuild")
    try:
        await _check_subscription(connection, asked)
        findings = await find(connection, asked)
        _check_archived(asked, findings)
        rated_total, rated = await compare_with_log(
            connection, asked.start, asked.end, asked.subscription_id, limit=1000
        )
        if not as_json:
            _show(asked, findings, rated_total, rated)
        healed = None
        if apply and findings.total:
            _ask(findings, yes)
            healed = await heal(connection, asked, findings.subscriptions)
    finally:
        await connection.close()
    if as_json:
        typer.echo(json.dumps(_document(asked, findings, rated_total, rated, healed), default=str))
    elif healed is not None:
        typer.echo(
            f"wrote {healed.summaries} summary rows and the counters of {healed.counters} subscriptions"
            + (f"; {len(healed.left_out)} subscriptions were left out" if healed.left_out else "")
        )
    remains = rated_total or findings.left_out or findings.negative or (healed.left_out if healed else findings.total)
    return EXIT_DIFFERS if remains else 0


def scope(start: str | None, end: str | None, subscription: str | None) -> Scope:
    """Return what the flags ask for. Raises `ConfigurationError` that names the one that is wrong."""
    from services.aggregator.rebuild import parse_hour, widened  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    try:
        return widened(start and parse_hour(start), end and parse_hour(end), _id(subscription))  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _id(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise ValueError(f"'{text}' is not the id of a subscription: a UUID is expected") from None


async def _check_subscription(connection: Any, asked: Scope) -> None:
    import asyncpg  # noqa: PLC0415

    from services.aggregator.rebuild.store import subscription_exists  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    try:
        if asked.subscription_id and not await subscription_exists(connection, asked.subscription_id):
            raise ConfigurationError(f"there is no subscription {asked.subscription_id}")
        await connection.fetchval("SELECT count(*) FROM archived_months")
    except asyncpg.UndefinedTableError as error:
        raise ConfigurationError(
            f"the schema of the database is missing or old ({error}): run 'tallystick migrate'"
        ) from None


def _check_archived(asked: Scope, findings: Findings) -> None:
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if findings.archived and asked.is_bounded:
        month = f"{findings.archived[0]:%Y-%m}"
        raise ConfigurationError(
            f"{month} is archived, nothing can be computed for it: 'tallystick partitions restore' its file first, or choose another range"
        )


def _ask(findings: Findings, yes: bool) -> None:
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError("--apply writes summaries and counters: repeat with --yes if that is meant")
    typer.confirm(f"Write what was computed for {len(findings.subscriptions)} subscriptions?", abort=True, err=True)


def _show(asked: Scope, findings: Findings, rated_total: int, rated: Any) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415

    console = Console()
    if asked.widened_from:
        console.print(
            f"widened to whole months, because days and months can only be computed whole: {asked}", highlight=False
        )
    console.print(
        f"{findings.events:,} events of {escape(str(asked))}: {findings.compared:,} summary rows", highlight=False
    )
    if findings.archived:
        months = ", ".join(f"{month:%Y-%m}" for month in findings.archived)
        console.print(f"without {months}: archived", highlight=False)
    if findings.total or rated_total:
        console.print(_table(findings, rated))
    counts = [f"{count:,} {kind}{'' if count == 1 else 's'}" for kind, count in findings.counts.items()]
    counts += [f"{rated_total:,} rated key{'' if rated_total == 1 else 's'}"] if rated_total else []
    verdict = f"[bold red]{', '.join(counts)} differ[/]" if counts else "[green]nothing differs[/]"
    console.print(verdict, highlight=False)
    for hour in findings.negative[:SHOWN]:
        console.print(
            f"[bold red]more was taken back than was used[/]: subscription {hour.subscription_id}, hour {hour.hour:%Y-%m-%d %H:%M}, "
            f"{escape(hour.model_id or hour.tool_name)}: "
            + ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in hour.figures.items() if value < 0),
            highlight=False,
        )
    if findings.left_out:
        console.print(
            f"[yellow]{len(findings.left_out)} subscriptions could not be judged[/]: the aggregator has applied a part of a "
            "batch of theirs; run this again when it has caught up",
            highlight=False,
        )
    if rated_total:
        console.print("rated usage is never rewritten: see docs/how-to/rebuild-summaries.md", highlight=False)


def _table(findings: Findings, rated: list[RatedDifference]) -> Any:
    """Return the first differences, a line for each measure."""
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="Differences", title_justify="left", show_edge=False, pad_edge=False)
    for column in ("what", "subscription", "from", "of", "measure"):
        table.add_column(column)
    table.add_column("stored", justify="right")
    table.add_column("by the log", justify="right")
    lines = [
        (d.kind, d.subscription_id, d.period_start, d.model_id or d.tool_name, name, d.stored[name], d.recomputed[name])
        for d in findings.differences
        for name in d.measures
    ] + [
        (
            "rated",
            d.key.subscription_id,
            d.key.hour,
            d.key.model_id or d.key.tool_name,
            name,
            d.rated[name],
            d.logged[name],
        )
        for d in rated
        for name in d.measures
    ]
    for kind, subscription, at, subject, name, stored, recomputed in lines[:SHOWN]:
        sides = (str(side) if isinstance(side, list) else f"{side:,}" for side in (stored, recomputed))
        table.add_row(kind, str(subscription), f"{at:%Y-%m-%d %H:%M}", subject, name.replace("_", " "), *sides)
    if len(lines) > SHOWN:
        table.caption = f"the first {SHOWN} lines; --json has up to 1,000 keys"
    return table


def _document(asked: Scope, findings: Findings, rated_total: int, rated: Any, healed: Healed | None) -> dict[str, Any]:
    """Return everything as JSON-ready values."""
    return {
        "scope": asdict(asked),
        "events": findings.events,
        "summary_rows": findings.compared,
        "differing": {**findings.counts, **({"rated": rated_total} if rated_total else {})},
        "differences": [{**asdict(d), "measures": d.measures} for d in findings.differences],
        "rated_differences": [{**d.key._asdict(), "rated": d.rated, "logged": d.logged} for d in rated],
        "archived": [f"{month:%Y-%m}" for month in findings.archived],
        "left_out": [str(id_) for id_ in findings.left_out],
        "negative_hours": [asdict(hour) for hour in findings.negative],
        "written": None if healed is None else asdict(healed),
    }

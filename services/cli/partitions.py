"""`tallystick partitions`: the months of usage_logs – made ahead, archived, restored, held."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from uuid import UUID

import typer

if TYPE_CHECKING:
    from shared.period import Period
    from shared.postgres import Connection

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make, archive and restore the months of usage_logs."
)
T = TypeVar("T")
EXIT_KEPT = 2


@app.command("list")
def list_() -> None:
    """Show every month: whether it is in usage_logs, archived or restored, its rows and its size."""
    from rich.console import Console  # noqa: PLC0415 (slow to import)
    from rich.table import Table  # noqa: PLC0415

    from services.ingest.partitions import store  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for column, justify in (("month", "left"), ("state", "left"), ("rows", "right"), ("MB", "right"), ("file", "left")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for month in asyncio.run(_with_connection(store.months)):
        state = month.state if month.attached or month.state == "archived" else "archiving (detached)"
        label = month.name.removeprefix("usage_logs_").replace("_", "-")
        table.add_row(label, state, f"{month.rows:,}", f"{month.bytes / 1e6:,.1f}", month.file or "")
    Console().print(table)


@app.command()
def ensure(
    months: Annotated[
        int | None,
        typer.Option(min=0, max=120, help="Months after the current one; as ingest's setting says without it."),
    ] = None,
) -> None:
    """Make the current month and those after it, where they are missing. Ingest does the same by a timer."""
    from services.cli.servers import ingest_number  # noqa: PLC0415
    from services.ingest.partitions import ahead  # noqa: PLC0415

    wanted = months if months is not None else ingest_number("ingest_partitions_ahead")
    names = asyncio.run(_with_connection(lambda connection: ahead.ensure(connection, datetime.now(UTC), wanted)))
    typer.echo(f"there: {', '.join(names)}")


@app.command()
def archive(
    *,
    before: Annotated[str, typer.Option(metavar="MONTH", help="Archive the months before this one, such as 2026-06.")],
    directory: Annotated[Path, typer.Option(help="Where the files go.")] = Path("archive"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Move whole months from usage_logs to Parquet files, each verified before its rows are dropped.

    A month stays, with the reason, while a legal hold, an open or disputed invoice, unbilled usage, or quarantined or held events refer to it,
    or while its summaries differ from it. Exit code 2 if one stayed. An interrupted run is ended by the next.
    """
    end = _month(before)
    return asyncio.run(_with_connection(lambda connection: _archive_all(connection, end, directory, yes)))


@app.command()
def restore(file: Annotated[Path, typer.Argument(metavar="FILE", help="The .parquet file of an archive.")]) -> None:
    """Bring an archived month back into usage_logs, after its file was verified. Done twice, it is there once."""
    from services.ingest.partitions.archive import restore as bring_back  # noqa: PLC0415

    manifest, changed = asyncio.run(_with_connection(lambda connection: bring_back(connection, file)))
    typer.echo(
        f"{manifest.month}: {manifest.sums.rows:,} events "
        + ("are back in usage_logs" if changed else "were there already")
    )


@app.command()
def hold(
    *,
    start: Annotated[str, typer.Option("--from", metavar="MONTH", help="First month that is held.")],
    end: Annotated[str, typer.Option("--to", metavar="MONTH", help="Last month that is held.")],
    why: Annotated[str, typer.Option(help="Who wants it, and for what.")],
    subscription: Annotated[
        UUID | None, typer.Option(metavar="ID", help="Whose usage it is about; a month stays whole anyway.")
    ] = None,
) -> None:
    """Place a legal hold: these months are not archived until it is released."""
    from services.ingest.partitions.holds import place_hold  # noqa: PLC0415

    period = _span(start, end)
    id_ = asyncio.run(_with_connection(lambda connection: place_hold(connection, period, why, subscription)))
    typer.echo(f"hold {id_} placed")


@app.command()
def release(
    id_: Annotated[UUID, typer.Argument(metavar="ID", help="The hold.")],
    *,
    why: Annotated[str, typer.Option(help="Who has said that it is over.")],
) -> None:
    """Release a legal hold."""
    from services.ingest.partitions.holds import release_hold  # noqa: PLC0415

    asyncio.run(_with_connection(lambda connection: release_hold(connection, id_, why)))
    typer.echo(f"hold {id_} released")


async def _archive_all(connection: Connection, end: Period, directory: Path, yes: bool) -> int:
    from datetime import timedelta  # noqa: PLC0415

    from services.cli.servers import ingest_number  # noqa: PLC0415
    from services.ingest.partitions import store  # noqa: PLC0415
    from services.ingest.partitions.archive import archive as move  # noqa: PLC0415
    from services.ingest.partitions.manifest import PartitionError, month_of, spelled  # noqa: PLC0415

    months = [month_of(m.name) for m in await store.months(connection) if m.state != "archived"]
    months = [month for month in months if month.start < end.start]
    if not months:
        typer.echo(f"no month before {spelled(end)} is in usage_logs")
        return 0
    _ask([spelled(month) for month in months], directory, yes)
    kept = 0
    for month in months:
        try:
            await _check_derived(connection, month)
            late = timedelta(days=ingest_number("ingest_late_days"))
            manifest = await move(connection, month, directory, now=datetime.now(UTC), late=late)
        except PartitionError as error:
            kept += 1
            print(f"tallystick: {error}", file=sys.stderr)
        else:
            typer.echo(
                f"{spelled(month)}: {manifest.sums.rows:,} events, {manifest.bytes / 1e6:,.1f} MB, in {manifest.file}"
            )
    return EXIT_KEPT if kept else 0


async def _check_derived(connection: Connection, month: Period) -> None:
    """Raise `PartitionError` if a month that is in the log does not give what is derived from it: afterwards nothing can be rebuilt."""
    from services.aggregator.rebuild import verify, widened  # noqa: PLC0415
    from services.billing.rating.comparison import compare_with_log  # noqa: PLC0415
    from services.ingest.partitions import store  # noqa: PLC0415
    from services.ingest.partitions.manifest import PartitionError, spelled  # noqa: PLC0415

    if await store.place(connection, month) != "attached":
        return
    span = f"--from {spelled(month)}-01 --to {month.end:%Y-%m-%d}"
    findings = await verify(connection, widened(month.start, month.end))
    if findings.total or findings.left_out:
        raise PartitionError(
            f"{store.describe(month)} stays: its summaries or counters differ from it; run "
            f"'tallystick rebuild {span} --apply' first"
        )
    if (await compare_with_log(connection, month.start, month.end, None, limit=1))[0]:
        raise PartitionError(
            f"{store.describe(month)} stays: what was rated is not what it says; see 'tallystick verify {span}'"
        )


def _ask(months: list[str], directory: Path, yes: bool) -> None:
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"archiving drops {', '.join(months)} from the database: repeat with --yes if that is meant"
        )
    typer.confirm(f"Move {', '.join(months)} from the database to {directory}?", abort=True)


def _month(text: str) -> Period:
    from shared.errors import ConfigurationError  # noqa: PLC0415
    from shared.period import Period  # noqa: PLC0415

    try:
        return Period.parse_month(text)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _span(start: str, end: str) -> Period:
    from shared.errors import ConfigurationError  # noqa: PLC0415
    from shared.period import Period  # noqa: PLC0415

    first, last = _month(start), _month(end)
    if last < first:
        raise ConfigurationError(f"the range ends ({end}) before it begins ({start})")
    return Period(first.start, last.end)


async def _with_connection(work: Callable[[Connection], Awaitable[T]]) -> T:
    import asyncpg  # noqa: PLC0415

    from deploy.local import connect as servers  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415
    from shared.postgres import connect  # noqa: PLC0415

    connection = await connect(servers.database_url(), application_name="tallystick-partitions")
    try:
        return await work(connection)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError) as error:
        raise ConfigurationError(
            f"the schema of the database is missing or old ({error}): run 'tallystick migrate'"
        ) from None
    finally:
        await connection.close()

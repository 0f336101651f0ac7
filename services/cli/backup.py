"""`tallystick backup` and `tallystick restore`: copies of the database that are proved to be good."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from deploy.backup import Manifest
    from deploy.backup.taking import Show

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Back up the database, and prove that a backup can be restored. `tallystick restore` restores one.",
)
T = TypeVar("T")
DIRECTORY = Path("backups")
Jobs = Annotated[int, typer.Option(min=1, max=64, help="Tables at once.")]


@app.command()
def create(
    *,
    directory: Annotated[Path, typer.Option(help="Where the backup goes, in a new directory of its own.")] = DIRECTORY,
    jobs: Jobs = 1,
    verify: Annotated[
        bool, typer.Option("--verify", help="Then restore it into a scratch database, as verify does.")
    ] = False,
    keep: Annotated[
        int, typer.Option(min=0, max=10_000, help="Afterwards remove all but so many of the newest; 0 keeps all.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Back up the database while everything goes on: one consistent snapshot, with a manifest and checksums.

    Positions in Kafka are part of it. Interrupted, it leaves no backup. Needs a pg_dump that is not older than the server.
    """
    from deploy import backup  # noqa: PLC0415 (slow to import)
    from deploy.local import connect  # noqa: PLC0415

    url = connect.database_url()
    with _progress() as show:
        path, manifest = _run(backup.take(url, directory, jobs=jobs, show=show))
    if verify:
        _verify(path, url, None, jobs)
    removed = _keep_newest(directory, keep) if keep else []
    if as_json:
        typer.echo(
            json.dumps(_document(path, manifest) | {"verified": verify, "removed": [str(old) for old in removed]})
        )
        return
    typer.echo(_line(path, manifest) + ("; verified" if verify else ""))
    for old in removed:
        typer.echo(f"removed {old}")


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="BACKUP", help="The backup's directory.")],
    *,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A database of the server to try it on; DATABASE_URL without it.")
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An empty database to use, where none may be created. It stays filled."),
    ] = None,
    jobs: Jobs = 1,
) -> None:
    """Prove that a backup is good: check every byte, restore it into a scratch database, count its rows and reconcile there.

    The scratch database is dropped afterwards. It takes the disk space of the original while it is there.
    """
    from deploy.local import connect  # noqa: PLC0415

    manifest = _verify(path, server or into or connect.database_url(), into, jobs)
    typer.echo(f"{_line(path, manifest)}; restored, counted and reconciled: it is good")


@app.command("list")
def list_(
    directory: Annotated[Path, typer.Option(help="Where the backups are.")] = DIRECTORY,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the whole backups of a directory, oldest first."""
    from deploy import backup  # noqa: PLC0415

    found = backup.find_backups(directory)
    if as_json:
        typer.echo(json.dumps({"backups": [_document(*each) for each in found]}))
        return
    for each in found:
        typer.echo(_line(*each))
    if not found:
        typer.echo(f"no backup is in {directory}")


def restore(
    path: Annotated[Path, typer.Argument(metavar="BACKUP", help="The backup's directory.")],
    *,
    into: Annotated[
        str | None, typer.Option(metavar="URL", help="The empty database that it goes into; DATABASE_URL without it.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="First drop everything that is there, with all data. Asks before it does."),
    ] = False,
    jobs: Jobs = 1,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Restore a backup, prove it, and give the services their rights. Stop the workers first.

    Every byte is checked before. With one job it is one transaction: interrupted, it leaves nothing. Rows are counted and the books reconciled
    before the services' roles get their rights. Then start the workers: they go on at the restored positions, and read from Kafka what came later.
    """
    from deploy import backup  # noqa: PLC0415
    from deploy.local import connect  # noqa: PLC0415

    url = into or connect.database_url()
    if overwrite and not yes:
        _ask(url)
    manifest = backup.read_backup(path)
    with _progress() as show:
        _run(backup.restore(path, manifest, url, prove=_broken, jobs=jobs, overwrite=overwrite, show=show))
    typer.echo(f"{_line(path, manifest)}; restored, counted and reconciled")
    for line in _going_on(manifest):
        typer.echo(line)


def _verify(path: Path, server: str, into: str | None, jobs: int) -> Manifest:
    from deploy import backup  # noqa: PLC0415

    manifest = backup.read_backup(path)

    async def try_it() -> None:
        if into:
            await backup.restore(path, manifest, into, prove=_broken, jobs=jobs, show=show)
            return
        async with backup.scratch_database(server) as url:
            await backup.restore(path, manifest, url, prove=_broken, jobs=jobs, show=show)

    with _progress() as show:
        _run(try_it())
    return manifest


async def _broken(url: str) -> Sequence[str]:
    """Return the checks of reconciliation that do not hold, but for those that wait for messages to arrive."""
    from services.cli.reconcile import prove  # noqa: PLC0415

    return [
        f"{check.name}: {check.left} and {check.right}"
        for check in await prove(url)
        if not check.holds and not check.eventual
    ]


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C and SIGTERM end it in order, so that nothing half-made stays."""

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"  # noqa: S101
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextmanager
def _progress() -> Iterator[Show]:
    """Show a bar to a person, and nothing to a log."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _keep_newest(directory: Path, keep: int) -> list[Path]:
    from deploy import backup  # noqa: PLC0415

    old = [path for path, _ in backup.find_backups(directory)[:-keep]]
    for path in old:
        shutil.rmtree(path)
    return old


def _document(path: Path, manifest: Manifest) -> dict[str, Any]:
    from deploy.backup.taking import summary  # noqa: PLC0415

    return {"path": str(path), **summary(manifest)}


def _line(path: Path, manifest: Manifest) -> str:
    rows = sum(manifest.rows.values())
    return (
        f"{path}: {manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC, {rows:,} rows in {len(manifest.rows)} tables, "
        f"{manifest.bytes / 1e6:,.1f} MB, schema {manifest.schema_version}"
    )


def _going_on(manifest: Manifest) -> Iterator[str]:
    """Say where each service goes on in Kafka."""
    partitions = Counter((at.service, at.topic) for at in manifest.positions)
    for (service, topic), count in partitions.items():
        yield f"{service} goes on in {count} partition{'' if count == 1 else 's'} of {topic}, where it was at that time"


def _ask(url: str) -> None:
    from deploy.local.external import without_password  # noqa: PLC0415
    from shared.errors import ConfigurationError  # noqa: PLC0415

    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"--overwrite drops all data in {without_password(url)}: repeat with --yes if that is meant"
        )
    typer.confirm(f"Drop everything in {without_password(url)}, with all data?", abort=True)

"""Taking a backup: one snapshot for the dump, the row counts and the positions; a name that says whole only when it is."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import asyncpg

from deploy.backup import programs
from deploy.backup.errors import BackupError
from deploy.backup.manifest import FILE, Manifest, Position
from deploy.backup.reading import DUMP, PARTIAL, PREFIX, checksums
from shared.postgres import connect
from shared.sql import Queries
from shared.version import installed_version

SQL: Final = Queries.load("deploy.backup")
SCHEMA: Final = "public"

Show = Callable[[str, int, int], None]
"""Hears what is being done, how many steps of it are done, and of how many."""


async def take(url: str, directory: Path, *, jobs: int = 1, show: Show = lambda *_: None) -> tuple[Path, Manifest]:
    """Dump the database into a new directory below `directory` and return that, with its manifest.

    It can go on while workers write: dump, counts and positions are of one snapshot. Interrupted, it leaves nothing that looks like a backup.
    Raises `BackupError`, and `ServiceUnavailable` when the database does not answer.
    """
    connection = await connect(url, application_name="tallystick backup")
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            server = await _server(connection)
            final = directory / f"{PREFIX}{server['taken_at'].astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
            partial = final.with_name(final.name + PARTIAL)
            _make(partial)
            try:
                manifest = await _dump(connection, url, partial, dict(server), jobs, show)
                _write(partial / FILE, manifest.encode())
                partial.rename(final)
                _sync(directory)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            return final, manifest
    finally:
        await connection.close()


async def _server(connection: asyncpg.Connection) -> Any:
    """Return what is dumped. Raises `BackupError` for a database that is not ours, or of which we would not see all."""
    if not await connection.fetchval(SQL["has_schema"]):
        raise BackupError("the database has no tables of Tallystick: nothing to back up; check DATABASE_URL")
    server = await connection.fetchrow(SQL["server"])
    if server["under_row_security"] and (hidden := await connection.fetch(SQL["hidden_tables"])):
        names = ", ".join(row["relation"] for row in hidden)
        raise BackupError(
            f"this login does not see every row of {names}: back up as the owner of the tables, as a superuser or with BYPASSRLS"
        )
    return server


async def _dump(  # noqa: PLR0917
    connection: asyncpg.Connection, url: str, partial: Path, server: dict[str, Any], jobs: int, show: Show
) -> Manifest:
    """Run pg_dump in our snapshot, count beside it, and return what the manifest says."""
    program = programs.find("pg_dump", at_least=int(server["version"].partition(".")[0]), environ=os.environ)
    snapshot = await connection.fetchval(SQL["snapshot"])
    tables = [row["relation"] for row in await connection.fetch(SQL["tables"])]
    shown, secret = programs.address(url)
    options = ["--format=directory", f"--jobs={jobs}", f"--snapshot={snapshot}", f"--schema={SCHEMA}", "--verbose"]
    options += ["--no-owner", "--no-privileges", "--lock-wait-timeout=30s"]
    options += ["--enable-row-security"] if server["under_row_security"] else []
    dumped = 0

    def hear(line: str) -> None:
        nonlocal dumped
        _, found, table = line.partition("dumping contents of table ")
        if found:
            dumped += 1
            show(f"dumping {programs.plain_name(table)}", dumped, len(tables))

    argv: list[str | Path] = [program, *options, f"--file={partial / DUMP}", f"--dbname={shown}"]
    async with asyncio.TaskGroup() as group:
        group.create_task(programs.run(argv, secret, hear))
        facts = group.create_task(_facts(connection, tables))
    show("computing checksums", len(tables), len(tables))
    files = await asyncio.to_thread(checksums, partial / DUMP)
    return Manifest(
        database=server["database"],
        taken_at=server["taken_at"],
        server_version=server["version"],
        dumped_with=programs.version(program),
        tallystick=installed_version(),
        files=files,
        bytes=sum(file.stat().st_size for file in (partial / DUMP).iterdir()),
        **facts.result(),
    )


async def _facts(connection: asyncpg.Connection, tables: list[str]) -> dict[str, Any]:
    """Read from the snapshot what a restored database is compared with."""
    return {
        "schema_version": await connection.fetchval(SQL["schema_version"]),
        "positions": tuple(Position(**row) for row in await connection.fetch(SQL["positions"])),
        "closed_functions": tuple(row["function"] for row in await connection.fetch(SQL["closed_functions"])),
        "rows": await count_rows(connection, tables),
    }


async def count_rows(connection: asyncpg.Connection, tables: list[str] | None = None) -> dict[str, int]:
    """Return how many rows each table has, exactly."""
    if tables is None:
        tables = [row["relation"] for row in await connection.fetch(SQL["tables"])]
    return {
        table: await connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 – as the catalogue quotes it
        for table in sorted(tables)
    }


def _make(partial: Path) -> None:
    try:
        partial.mkdir(mode=0o700, parents=True)  # it has everybody's usage
    except OSError as error:
        raise BackupError(f"{partial.parent} cannot be written ({error.strerror}): name another --directory") from error


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Let the new name outlive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def summary(manifest: Manifest) -> dict[str, Any]:
    """Return what a person or a program wants to know of a backup at a glance."""
    content = asdict(manifest)
    return {
        "taken_at": manifest.taken_at.isoformat(),
        "rows": sum(manifest.rows.values()),
        "tables": len(manifest.rows),
        **{name: content[name] for name in ("database", "schema_version", "server_version", "tallystick", "bytes")},
    }

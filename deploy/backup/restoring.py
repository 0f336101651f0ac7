"""Restoring a backup: only where nothing is, whole or not at all, proved before the services get their rights."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from deploy.backup import programs
from deploy.backup.errors import BackupError
from deploy.backup.manifest import Manifest, differences
from deploy.backup.reading import DUMP
from deploy.backup.taking import SQL, Show, count_rows
from deploy.migrate import drop_everything, migrate, migrator, pending, read_migrations
from shared.postgres import connect

PARAMETER_SINCE: Final = 17
"""The first major version of PostgreSQL that knows the parameter transaction_timeout, which its programs set in every session of a restore."""
SCRATCH: Final = "tallystick_verify_"
MADE_ANEW: Final = re.compile(
    r"\d+; \d+ \d+ (SCHEMA - |COMMENT - SCHEMA |POLICY \S+ \S+ service_roles |MATERIALIZED VIEW DATA )"
)
"""Entries of a dump that are left out: the schema is there already; apply_role_rights() makes the policies that name roles, which may not exist
on this server; materialized views are computed when their owner may see what they are computed from."""

Prove = Callable[[str], Awaitable[Sequence[str]]]
"""Proves the books of the database at a URL; returns a line for each statement that does not hold."""


async def restore(
    path: Path,
    manifest: Manifest,
    url: str,
    *,
    prove: Prove,
    jobs: int = 1,
    overwrite: bool = False,
    show: Show = lambda *_: None,
) -> None:
    """Restore a backup that `read_backup` has read into the database at `url`, and prove that it is good.

    Nothing may be in it, unless `overwrite` says to drop that. Counts of rows and the books are compared before the services' roles get
    their rights. Raises `BackupError` that says what differs; `ServiceUnavailable`; whatever `prove` raises.
    """
    _check_release(manifest)
    program = programs.find("pg_restore", at_least=manifest.dumped_with_major, environ=os.environ)
    async with migrator(url) as connection:
        await _check_target(connection, manifest, overwrite=overwrite)
        if overwrite:
            await drop_everything(connection)
        try:
            await _load(program, path / DUMP, url, tables=len(manifest.rows), jobs=jobs, show=show)
        except BaseException:
            if jobs > 1:  # alone it is one transaction, of which nothing stays
                await asyncio.shield(drop_everything(connection))
            raise
    await _judge(manifest, url, prove, show)


async def _load(program: Path, dump: Path, url: str, *, tables: int, jobs: int, show: Show) -> None:
    shown, secret = programs.address(url)
    how = ["--single-transaction"] if jobs == 1 else [f"--jobs={jobs}"]
    options = ["--exit-on-error", "--no-owner", "--no-privileges", "--verbose", *how]
    loaded = 0

    def hear(line: str) -> None:
        nonlocal loaded
        _, found, table = line.partition("processing data for table ")
        if found:
            loaded += 1
            show(f"restoring {programs.plain_name(table)}", loaded, tables)

    with tempfile.NamedTemporaryFile("w", prefix="tallystick-restore-", suffix=".list") as wanted:
        entries = (await programs.output([program, "--list", dump])).splitlines(keepends=True)
        wanted.writelines(entry for entry in entries if not MADE_ANEW.match(entry))
        wanted.flush()
        argv: list[str | Path] = [program, *options, f"--use-list={wanted.name}", f"--dbname={shown}", dump]
        await programs.run(argv, secret, hear)


async def _judge(manifest: Manifest, url: str, prove: Prove, show: Show) -> None:
    """Compare what was restored with what was backed up, prove the books, then let the services in."""
    connection = await connect(url, application_name="tallystick restore")
    try:
        await _let_the_owner_see(connection)
        show("counting rows", 0, 1)
        if differing := differences(manifest.rows, await count_rows(connection)):
            raise BackupError(f"what was restored is not what was backed up – {'; '.join(differing[:5])}")
        await connection.execute(SQL["analyze"])
        for function in manifest.closed_functions:
            await connection.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        if await pending(url):
            await migrate(url)
        show("reconciling", 0, 1)
        if broken := await prove(url):
            raise BackupError(f"the restored books do not agree – {'; '.join(broken[:5])}")
        await connection.execute(SQL["apply_role_rights"])
    finally:
        await connection.close()


async def _let_the_owner_see(connection: asyncpg.Connection) -> None:
    """Make the policy by which the owner sees all, to which apply_role_rights() adds the services; compute what is derived by the server."""
    async with connection.transaction():
        for row in await connection.fetch(SQL["secured_tables"]):
            owner = row["owner"].replace('"', '""')
            await connection.execute(f'CREATE POLICY service_roles ON {row["relation"]} TO "{owner}" USING (true)')
        for row in await connection.fetch(SQL["materialized_views"]):
            await connection.execute(f"REFRESH MATERIALIZED VIEW {row['relation']}")


def _check_release(manifest: Manifest) -> None:
    newest = max(migration.version for migration in read_migrations())
    if manifest.schema_version > newest:
        raise BackupError(
            f"the backup has the schema of a newer release (migration {manifest.schema_version}, here {newest}): restore it with that release"
        )


async def _check_target(connection: asyncpg.Connection, manifest: Manifest, *, overwrite: bool) -> None:
    major = connection.get_server_version().major
    if major < manifest.server_major:
        raise BackupError(
            f"the backup is of PostgreSQL {manifest.server_major}, the server is {major}: restore it on {manifest.server_major} or newer"
        )
    if major < PARAMETER_SINCE <= manifest.dumped_with_major:
        raise BackupError(
            f"pg_dump {manifest.dumped_with} wrote the backup, and a server older than {PARAMETER_SINCE} does not understand it "
            f"(transaction_timeout): restore it on {PARAMETER_SINCE} or newer, and back this server up with postgresql-client-{major}"
        )
    if not overwrite and (contents := await connection.fetchval(SQL["contents"])):
        raise BackupError(
            f"the database is not empty ({contents} tables, indexes and functions are in it): name an empty one, "
            "or repeat with --overwrite if what is there may go"
        )


@asynccontextmanager
async def scratch_database(server: str) -> AsyncIterator[str]:
    """The URL of an empty database on the server at this URL, which is dropped at the end. Raises `BackupError` if we may not make one."""
    name = SCRATCH + secrets.token_hex(6)
    connection = await connect(server, application_name="tallystick backup verify")
    try:
        if not await connection.fetchval(SQL["may_create_databases"]):
            raise BackupError(
                "this login may not create the database that the backup is tried in: ALTER ROLE … CREATEDB, name a server "
                "where it may with --server, or an empty database with --into"
            )
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        try:
            yield urlsplit(server)._replace(path=f"/{name}").geturl()
        finally:
            await asyncio.shield(connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
    finally:
        await connection.close()

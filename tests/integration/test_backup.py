"""Backups: what is restored is what was backed up, with its rights; what is damaged, half-made or in the way is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy import backup
from deploy.backup import BackupError, programs
from deploy.backup.reading import DUMP
from deploy.migrate import migrate
from shared.postgres import Pool
from tests.integration.billing_facts import ingest, make_customer, usage

TALLYSTICK = (sys.executable, "-c", "from services.cli.main import main; main()")
COUNTED = """INSERT INTO ingest_positions (cluster, topic, partition, start_offset, next_offset, inserted)
VALUES ('main', 'usage.events', 7, 0, 41, 41)"""


async def holds(_: str) -> Sequence[str]:
    """For tests of everything but the books."""
    return []


async def filled(pool: Pool) -> None:
    """Usage of one customer, and a position."""
    async with pool.acquire() as connection:
        customer = await make_customer(connection)
        await ingest(connection, [usage(customer.subscription_id) for _ in range(20)])


async def fetch(url: str, query: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


RIGHTS = """
SELECT 'relation', c.relname::text, coalesce(c.relacl::text, ''), c.relrowsecurity, c.relforcerowsecurity FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
UNION ALL SELECT 'column', a.attrelid::regclass || '.' || attname, a.attacl::text, false, false FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'public'::regnamespace AND a.attacl IS NOT NULL
UNION ALL SELECT 'function', p.oid::regprocedure::text, coalesce(p.proacl::text, ''), p.prosecdef, false FROM pg_proc p
WHERE p.pronamespace = 'public'::regnamespace
UNION ALL SELECT 'policy', polrelid::regclass || '.' || polname,
    ARRAY(SELECT rolname::text FROM pg_roles WHERE oid = ANY (polroles) ORDER BY 1)::text, false, false FROM pg_policy
ORDER BY 1, 2"""
"""Who may do what, as the catalogue has it."""


def sorted_grants(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Rights without the order in which they were granted."""
    return [(kind, name, sorted(str(acl).strip("{}").split(",")), *rest) for kind, name, acl, *rest in rows]


async def test_what_is_restored_is_what_was_backed_up_with_its_rights(
    database: str, database_pool: Pool, empty_database: str, tmp_path: Path
) -> None:
    await filled(database_pool)
    path, manifest = await backup.take(database, tmp_path, jobs=2)
    assert manifest.rows["usage_batches"] == 1
    assert sum(rows for table, rows in manifest.rows.items() if table.startswith("usage_logs_")) == 20
    assert [(at.service, at.next_offset) for at in manifest.positions] == [("ingest", 20)]
    await backup.restore(path, backup.read_backup(path), empty_database, prove=holds)
    assert sorted_grants(await fetch(empty_database, RIGHTS)) == sorted_grants(await fetch(database, RIGHTS))
    for table in ("usage_logs", "subscriptions", "role_rights", "schema_migrations"):
        query = f"SELECT t::text FROM {table} t ORDER BY 1"  # noqa: S608
        assert await fetch(empty_database, query) == await fetch(database, query)


async def test_the_tool_proves_a_backup_and_restores_it(
    database: str, database_pool: Pool, empty_database: str, tmp_path: Path
) -> None:
    await filled(database_pool)
    environ = {**os.environ, "DATABASE_URL": database}
    old, _ = await backup.take(database, tmp_path)
    made = command(environ, "backup", "create", "--directory", str(tmp_path), "--verify", "--keep", "1", "--json")
    said = json.loads(made.stdout)
    assert (said["verified"], said["removed"]) == (True, [str(old)])
    assert await fetch(database, "SELECT datname FROM pg_database WHERE datname LIKE 'tallystick_verify_%'") == []
    assert [path for path, _ in backup.find_backups(tmp_path)] == [Path(said["path"])]
    restored = command(environ, "restore", said["path"], "--into", empty_database)
    assert "ingest goes on in 1 partition of usage.events" in restored.stdout, restored.stderr


async def test_a_database_with_data_is_left_alone_unless_told(
    database: str, database_pool: Pool, empty_database: str, tmp_path: Path
) -> None:
    path, manifest = await backup.take(database, tmp_path)
    await filled(database_pool)
    with pytest.raises(BackupError, match=r"the database is not empty .* repeat with --overwrite"):
        await backup.restore(path, manifest, database, prove=holds)
    assert await fetch(database, "SELECT count(*) FROM usage_batches") == [(1,)]
    await database_pool.close()
    await backup.restore(path, manifest, database, prove=holds, overwrite=True, jobs=2)
    assert await fetch(database, "SELECT count(*) FROM usage_batches") == [(0,)]
    damaged = {**manifest.rows, "usage_batches": 3}
    with pytest.raises(BackupError, match="usage_batches: 3 rows in the backup, 0 rows restored"):
        await backup.restore(path, dataclasses.replace(manifest, rows=damaged), empty_database, prove=holds)


async def test_books_that_do_not_agree_are_no_good_backup(
    database: str, database_pool: Pool, empty_database: str, tmp_path: Path
) -> None:
    """The proof is made of what was restored: here what was backed up was wrong already."""
    await filled(database_pool)
    await database_pool.execute(COUNTED)
    environ = {**os.environ, "DATABASE_URL": database}
    path, manifest = await backup.take(database, tmp_path)
    refused = command(environ, "backup", "verify", str(path))
    assert refused.returncode == 2
    assert "the restored books do not agree – positions = batches" in refused.stderr

    async def broken(_: str) -> Sequence[str]:
        return ["a check: 1 and 2"]

    with pytest.raises(BackupError, match="a check: 1 and 2"):
        await backup.restore(path, manifest, empty_database, prove=broken)
    assert await fetch(empty_database, "SELECT has_table_privilege('tallystick_ingest', 'usage_logs', 'SELECT')") == [
        (False,)
    ], "services are let in last"


async def test_damage_is_found_by_checksum(database: str, empty_database: str, tmp_path: Path) -> None:
    path, _ = await backup.take(database, tmp_path / "whole")
    victim = max((path / DUMP).glob("*.gz"), key=lambda file: file.stat().st_size)
    copies = {damage: shutil.copytree(path, tmp_path / damage) for damage in ("flipped", "missing", "cut", "manifest")}
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    (copies["flipped"] / DUMP / victim.name).write_bytes(content)
    (copies["missing"] / DUMP / victim.name).unlink()
    (copies["cut"] / DUMP / victim.name).write_bytes(victim.read_bytes()[:-1])
    text = (copies["manifest"] / "manifest.json").read_text()
    (copies["manifest"] / "manifest.json").write_text(text.replace('"database": "', '"database": "x', 1))
    for damage, said in {
        "flipped": f"{victim.name} is not what was written (checksum)",
        "missing": f"{victim.name} is missing",
        "cut": f"{victim.name} is not what was written (checksum)",
        "manifest": "manifest.json is damaged",
    }.items():
        with pytest.raises(BackupError, match=re.escape(said)):
            backup.read_backup(copies[damage])
    refused = command({**os.environ, "DATABASE_URL": empty_database}, "restore", str(copies["flipped"]))
    assert refused.returncode == 2
    assert "(checksum): the backup is damaged, use another copy of it" in refused.stderr
    relations = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert await fetch(empty_database, relations) == [(0,)]
    assert backup.read_backup(path), "the damage is what is refused"


async def test_an_interrupted_backup_is_none(database: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(database)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")  # pg_dump waits here
            process = await asyncio.create_subprocess_exec(
                *(*TALLYSTICK, "backup", "create", "--directory", str(tmp_path)),
                env={**os.environ, "DATABASE_URL": database},
                stderr=asyncio.subprocess.PIPE,
            )
            query = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pg_dump' AND wait_event_type = 'Lock'"
            async with asyncio.timeout(60):
                while not await fetch(database, query):  # noqa: ASYNC110 – of another process
                    await asyncio.sleep(0.05)
            assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]  # noqa: ASYNC240 – nothing else runs
            assert backup.find_backups(tmp_path) == []
            process.send_signal(signal.SIGINT)
            _, said = await asyncio.wait_for(process.communicate(), 30)
    finally:
        await connection.close()
    assert (process.returncode, said) == (130, b"")
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 – nothing else runs


async def test_an_owner_without_special_rights_backs_up_and_restores_on_a_server_without_the_roles(
    postgres: str, database: str, tmp_path: Path
) -> None:
    """Roles belong to a server: here the owner may make none, and there were none before."""
    server = await asyncpg.connect(postgres)
    owner = f"owner_{tmp_path.name[-20:].replace('-', '_')}".lower()
    source, target = f"{owner}_a", f"{owner}_b"
    try:
        await server.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'hidden' NOSUPERUSER")
        for name in (source, target):
            await server.execute(f"CREATE DATABASE {name} OWNER {owner}")
        urls = [
            parts._replace(netloc=f"{owner}:hidden@{parts.netloc.rpartition('@')[2]}", path=f"/{name}").geturl()
            for parts, name in ((urlsplit(postgres), source), (urlsplit(postgres), target))
        ]
        await migrate(urls[0])
        path, manifest = await backup.take(urls[0], tmp_path / "backups")
        await backup.restore(path, manifest, urls[1], prove=holds)
        assert await fetch(urls[1], "SELECT count(*) FROM schema_migrations") == [(manifest.rows["schema_migrations"],)]
        forced = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relforcerowsecurity"
        assert await fetch(urls[1], forced) == await fetch(database, forced)
        reader = await asyncpg.connect(urls[1])
        await reader.execute(
            "ALTER TABLE users DISABLE ROW LEVEL SECURITY; DROP POLICY service_roles ON users; ALTER TABLE users ENABLE ROW LEVEL SECURITY"
        )
        await reader.close()
        with pytest.raises(BackupError, match="does not see every row of users"):
            await backup.take(urls[1], tmp_path / "hidden")
    finally:
        for name in (source, target):
            await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await server.execute(f"DROP ROLE IF EXISTS {owner}")
        await server.close()


def test_a_password_is_not_among_what_everybody_sees() -> None:
    shown, secret = programs.address("postgresql://me:p%40ss@db:5433/books?sslmode=verify-full&password=other")
    assert shown == "postgresql://me@db:5433/books?sslmode=verify-full"
    assert secret == {"PGPASSWORD": "other"}
    assert programs.address("postgresql://me:p%40ss@db/books") == ("postgresql://me@db/books", {"PGPASSWORD": "p@ss"})
    assert programs.address("postgresql://db/books") == ("postgresql://db/books", {})


def test_the_oldest_program_that_fits_the_server_is_taken(tmp_path: Path) -> None:
    for major in (15, 16, 17, 18):
        program = tmp_path / str(major) / "pg_dump"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {major}.3'\n")
        program.chmod(0o755)
        (program.parent / "initdb").touch()
    environ = {"PATH": str(tmp_path / "15"), "TALLYSTICK_POSTGRES_BIN": str(tmp_path / "16")}
    assert programs.find("pg_dump", at_least=16, environ=environ) == tmp_path / "16" / "pg_dump"
    for named, taken in (("17", "17"), ("18", "18"), ("embedded", "15")):
        environ["TALLYSTICK_POSTGRES_BIN"] = str(tmp_path / named) if named != "embedded" else named
        assert programs.find("pg_dump", at_least=15, environ=environ) == tmp_path / taken / "pg_dump"
    assert programs.version(programs.find("pg_dump", at_least=16, environ={"PATH": str(tmp_path / "17")})) < "17"
    environ["TALLYSTICK_POSTGRES_BIN"] = str(tmp_path / "16")
    with pytest.raises(BackupError, match=r"no pg_dump of PostgreSQL 99 or newer is here .*/16/pg_dump is 16"):
        programs.find("pg_dump", at_least=99, environ=environ)


def command(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TALLYSTICK, *arguments], env=environ, capture_output=True, text=True, timeout=120, check=False
    )

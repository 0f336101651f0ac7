"""The schema on every PostgreSQL that can be had here: those of the wheel, and those that Debian has installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest

from deploy import backup
from deploy.local.postgres_programs import find_programs, version_of
from deploy.local.stack import running_stack
from deploy.migrate import migrate, pending, read_migrations, reset

_WHEEL = find_programs({}).parents[1]
NEWER = "18.4"
PROGRAMS = [*_WHEEL.glob("pginstall*/bin"), *Path("/usr/lib/postgresql").glob("*/bin")]


@pytest.mark.parametrize("programs", PROGRAMS, ids=lambda programs: version_of(programs).partition(".")[0])
async def test_the_schema_can_be_made_and_made_again_and_comes_back_from_a_backup(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("TALLYSTICK_POSTGRES_BIN", str(programs))
    with running_stack(servers=("postgres",), durable=False) as running:
        url = running.stack.database_url
        assert await migrate(url) == read_migrations() == await reset(url)
        assert await pending(url) == []
        connection = await asyncpg.connect(url)
        try:
            major = connection.get_server_version().major
        finally:
            await connection.close()
        monkeypatch.delenv("TALLYSTICK_POSTGRES_BIN")  # whatever the server is, a program for it is found
        await _back_up_and_restore(url, tmp_path, major)
    assert str(major) == version_of(programs).partition(".")[0]


async def _back_up_and_restore(url: str, directory: Path, major: int) -> None:
    path, manifest = await backup.take(url, directory)
    async with backup.scratch_database(url) as scratch:
        if major < 17:
            with pytest.raises(backup.BackupError, match=f"transaction_timeout.*postgresql-client-{major}"):
                await backup.restore(path, dataclasses.replace(manifest, dumped_with=NEWER), scratch, prove=_holds)
        await backup.restore(path, backup.read_backup(path), scratch, prove=_holds)


async def _holds(_: str) -> Sequence[str]:
    return []

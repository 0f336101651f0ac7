"""The schema on every PostgreSQL that can be had here: those of the wheel, and those that Debian has installed."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from deploy.local.postgres_programs import find_programs, version_of
from deploy.local.stack import running_stack
from deploy.migrate import migrate, pending, read_migrations, reset

_WHEEL = find_programs({}).parents[1]
PROGRAMS = [*_WHEEL.glob("pginstall*/bin"), *Path("/usr/lib/postgresql").glob("*/bin")]


@pytest.mark.parametrize("programs", PROGRAMS, ids=lambda programs: version_of(programs).partition(".")[0])
async def test_the_schema_can_be_made_and_made_again(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert str(major) == version_of(programs).partition(".")[0]

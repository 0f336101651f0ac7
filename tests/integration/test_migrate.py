"""The migration runner against a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from deploy.migrate import MigrationError, migrate, pending, read_migrations, reset


def write(directory: Path, name: str, *statements: str) -> Path:
    path = directory / name
    path.write_text("\n".join(["-- migrate:up", *statements]) + "\n", encoding="utf-8")
    return path


async def tables(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    finally:
        await connection.close()
    return {row["tablename"] for row in rows} - {"schema_migrations"}


async def test_applies_in_order_and_once(empty_database: str, tmp_path: Path) -> None:
    write(tmp_path, "0001_a.sql", "CREATE TABLE a (x int);")
    write(tmp_path, "0002_b.sql", "ALTER TABLE a ADD y int;", "CREATE TABLE b AS SELECT y FROM a;")
    assert [m.file for m in await pending(empty_database, directory=tmp_path)] == ["0001_a.sql", "0002_b.sql"]
    assert [m.file for m in await migrate(empty_database, directory=tmp_path)] == ["0001_a.sql", "0002_b.sql"]
    assert await migrate(empty_database, directory=tmp_path) == []
    assert await tables(empty_database) == {"a", "b"}


async def test_two_at_once_apply_everything_once(empty_database: str, tmp_path: Path) -> None:
    for number in range(1, 6):
        write(tmp_path, f"{number:04}_t.sql", f"CREATE TABLE t{number} (x int); SELECT pg_sleep(0.02);")
    results = await asyncio.gather(*(migrate(empty_database, directory=tmp_path) for _ in range(4)))
    assert sorted(len(applied) for applied in results) == [0, 0, 0, 5]


async def test_failing_file_is_undone_and_named_with_its_line(empty_database: str, tmp_path: Path) -> None:
    write(tmp_path, "0001_good.sql", "CREATE TABLE good (x int);")
    write(
        tmp_path, "0002_bad.sql", "CREATE TABLE bad (x int);", "", "INSERT INTO bad", "  SELECT missing", "  FROM good;"
    )
    with pytest.raises(MigrationError, match=r'0002_bad\.sql, line 5: column "missing" does not exist'):
        await migrate(empty_database, directory=tmp_path)
    assert await tables(empty_database) == {"good"}
    assert [m.version for m in await pending(empty_database, directory=tmp_path)] == ["0002"]


async def test_error_without_a_position_names_the_statements_line(empty_database: str, tmp_path: Path) -> None:
    write(tmp_path, "0001_twice.sql", "CREATE TABLE a (x int);", "-- again", "CREATE TABLE a (x int);")
    with pytest.raises(MigrationError, match=r'0001_twice\.sql, line 4: relation "a" already exists'):
        await migrate(empty_database, directory=tmp_path)


async def test_changed_file_is_refused(empty_database: str, tmp_path: Path) -> None:
    path = write(tmp_path, "0001_a.sql", "CREATE TABLE a (x int);")
    await migrate(empty_database, directory=tmp_path)
    path.write_text(path.read_text() + "-- an afterthought\n")
    with pytest.raises(MigrationError, match=r"0001_a\.sql has changed since it was applied"):
        await migrate(empty_database, directory=tmp_path)


async def test_database_of_a_newer_release_is_refused(empty_database: str, tmp_path: Path) -> None:
    write(tmp_path, "0001_a.sql", "CREATE TABLE a (x int);")
    newer = write(tmp_path, "0002_b.sql", "CREATE TABLE b (x int);")
    await migrate(empty_database, directory=tmp_path)
    newer.unlink()
    with pytest.raises(MigrationError, match=r"0002_b\.sql, which is not among the files here"):
        await migrate(empty_database, directory=tmp_path)


async def test_file_slipped_in_before_an_applied_one_is_refused(empty_database: str, tmp_path: Path) -> None:
    write(tmp_path, "0002_b.sql", "CREATE TABLE b (x int);")
    await migrate(empty_database, directory=tmp_path)
    write(tmp_path, "0001_a.sql", "CREATE TABLE a (x int);")
    with pytest.raises(MigrationError, match=r"0001_a\.sql was never applied although 0002 was"):
        await migrate(empty_database, directory=tmp_path)


async def test_reset_drops_everything_and_applies_again(empty_database: str, tmp_path: Path) -> None:
    path = write(tmp_path, "0001_a.sql", "CREATE TABLE a (x int);")
    await migrate(empty_database, directory=tmp_path)
    path.unlink()
    write(tmp_path, "0001_b.sql", "CREATE TABLE b (x int);")
    assert [m.file for m in await reset(empty_database, directory=tmp_path)] == ["0001_b.sql"]
    assert await tables(empty_database) == {"b"}


async def test_the_real_migrations_apply_to_an_empty_database(empty_database: str) -> None:
    applied = await migrate(empty_database)
    assert applied == read_migrations()
    assert await pending(empty_database) == []
    assert await reset(empty_database) == applied


async def hold(url: str, table: str) -> asyncpg.Connection:
    """A session in whose transaction a table is locked, until it is closed."""
    connection = await asyncpg.connect(url, server_settings={"application_name": "somebody"})
    await connection.execute(f"BEGIN; LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
    return connection


async def test_a_lock_that_is_held_for_a_while_is_waited_for_without_holding_up_others(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.migrate._PAUSE_SECONDS", (0.05, 0.05))
    write(tmp_path, "0001_a.sql", "CREATE TABLE a (x int);")
    await migrate(empty_database, directory=tmp_path)
    write(tmp_path, "0002_b.sql", "SET LOCAL lock_timeout = '50ms';", "ALTER TABLE a ADD y int;")
    holder, said, waited = await hold(empty_database, "a"), list[str](), asyncio.Event()

    def hear(line: str) -> None:
        said.append(line)
        if "waits for a lock" in line:
            waited.set()

    migrating = asyncio.create_task(migrate(empty_database, directory=tmp_path, say=hear))
    async with asyncio.timeout(30):
        await waited.wait()
        await holder.execute("INSERT INTO a VALUES (1)")  # who works goes on working
        await holder.close()
        assert [m.file for m in await migrating] == ["0002_b.sql"]
    assert "somebody" in said[1]


async def test_a_lock_that_is_never_let_go_is_named(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.migrate._PAUSE_SECONDS", (0.01, 0.01))
    monkeypatch.setattr("deploy.migrate._ATTEMPTS", 2)
    write(tmp_path, "0001_a.sql", "CREATE TABLE a (x int);")
    await migrate(empty_database, directory=tmp_path)
    write(tmp_path, "0002_b.sql", "SET LOCAL lock_timeout = '50ms';", "ALTER TABLE a ADD y int;")
    holder = await hold(empty_database, "a")
    with pytest.raises(MigrationError, match=r"0002_b\.sql: others held a lock that it needs, 2 times .* somebody"):
        await migrate(empty_database, directory=tmp_path)
    await holder.close()
    assert [m.version for m in await pending(empty_database, directory=tmp_path)] == ["0002"]


async def test_an_index_is_built_concurrently_outside_a_transaction(empty_database: str, tmp_path: Path) -> None:
    path = write(tmp_path, "0001_a.sql", "CREATE TABLE a (x int);")
    await migrate(empty_database, directory=tmp_path)
    path = tmp_path / "0002_b.sql"
    path.write_text(
        "-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_x ON a (x);\nSELECT oops;\n"
    )
    with pytest.raises(MigrationError, match=r'line 3: column "oops" .*; what is before it in the file has been done'):
        await migrate(empty_database, directory=tmp_path)
    path.write_text("-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_x ON a (x);\n")
    assert [m.file for m in await migrate(empty_database, directory=tmp_path)] == ["0002_b.sql"]

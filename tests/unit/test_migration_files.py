"""The rules for migration files."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.migrate import MigrationError, read_migrations


def test_the_committed_migrations_follow_the_rules() -> None:
    versions = [migration.version for migration in read_migrations()]
    assert versions[0] == "0001"
    assert versions == sorted(set(versions))


@pytest.mark.parametrize(
    ("name", "script", "message"),
    [
        ("1_short.sql", "-- migrate:up\n", "not named like"),
        ("0001_Upper.sql", "-- migrate:up\n", "not named like"),
        ("0001_unmarked.sql", "CREATE TABLE a ();\n", "does not begin with the line '-- migrate:up'"),
        ("0001_late.sql", "CREATE TABLE a ();\n-- migrate:up\n", "does not begin with the line '-- migrate:up'"),
        ("0001_option.sql", "-- migrate:up transaction:true\n", "does not begin with the line '-- migrate:up'"),
    ],
)
def test_file_that_breaks_a_rule_is_named(tmp_path: Path, name: str, script: str, message: str) -> None:
    (tmp_path / name).write_text(script)
    with pytest.raises(MigrationError, match=message) as caught:
        read_migrations(tmp_path)
    assert name in str(caught.value)


def test_two_files_with_one_number_are_refused(tmp_path: Path) -> None:
    for name in ("0001_a.sql", "0001_b.sql"):
        (tmp_path / name).write_text("-- migrate:up\n")
    with pytest.raises(MigrationError, match=r"0001_a\.sql and 0001_b\.sql have the same number"):
        read_migrations(tmp_path)


def test_comments_may_come_before_the_mark(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("-- why this is here\n\n-- migrate:up\nSELECT 1;\n")
    assert [migration.name for migration in read_migrations(tmp_path)] == ["a"]

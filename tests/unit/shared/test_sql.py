"""Named queries."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.sql import Queries

TEXT = """-- What this file is about.

-- name: one
-- Says one.
SELECT 1;

--name: two
SELECT $1::int
FROM {table};
"""


def test_queries_come_by_name_in_the_order_of_the_file() -> None:
    queries = Queries(TEXT, origin="a file")

    assert list(queries) == ["one", "two"]
    assert len(queries) == 2
    assert queries["one"] == "-- Says one.\nSELECT 1"
    assert queries["two"].endswith("FROM {table}")


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(KeyError, match="a file has no query 'three'; it has one, two"):
        Queries(TEXT, origin="a file")["three"]


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="the query 'one' is defined twice"):
        Queries(TEXT + "-- name: one\nSELECT 2;", origin="a file")


def test_tables_are_put_in_by_name_but_only_plain_ones() -> None:
    assert "FROM ingest_positions" in Queries.load("shared", "positions.sql", table="ingest_positions")["read"]
    with pytest.raises(ValueError, match="not a plain table name"):
        Queries.load("shared", "positions.sql", table="x; DROP TABLE users")


def test_no_sql_file_of_the_services_repeats_a_name_or_leaves_a_query_without_purpose() -> None:
    for file in [*Path("services").rglob("*.sql"), *Path("shared").glob("*.sql")]:
        for name, text in Queries(file.read_text(), origin=str(file)).items():
            assert text.startswith("--"), f"{file}: say in a comment what '{name}' is for"

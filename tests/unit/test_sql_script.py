"""Splitting SQL scripts into statements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.sql_script import Statement, split


def texts(script: str) -> list[str]:
    return [statement.text for statement in split(script)]


def test_statements_know_the_line_they_begin_on() -> None:
    script = "-- migrate:up\n\nCREATE TABLE a (x int);\n\n-- what follows\n/* in two\nlines */ CREATE TABLE b (x int); SELECT 1"
    assert list(split(script)) == [
        Statement("CREATE TABLE a (x int)", 3),
        Statement("CREATE TABLE b (x int)", 7),
        Statement("SELECT 1", 7),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'a;b', 'it''s; fine', E'a\\';b'",
        'SELECT 1 AS "a;b"',
        "SELECT 1 -- not here; no\n+ 1",
        "SELECT /* nor; here */ 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END; $$",
        "DO $body$ BEGIN EXECUTE $$ SELECT 1; $$; END; $body$",
    ],
)
def test_semicolons_inside_do_not_end_a_statement(statement: str) -> None:
    assert texts(f"{statement}; SELECT 2;") == [statement, "SELECT 2"]


def test_parameters_are_not_dollar_quotes() -> None:
    assert texts("PREPARE p AS SELECT $1, $2; SELECT 1") == ["PREPARE p AS SELECT $1, $2", "SELECT 1"]


def test_comments_alone_are_no_statement() -> None:
    assert texts("-- nothing\n;;/* at all */\n") == []


def test_atomic_body_is_refused_with_its_line() -> None:
    with pytest.raises(ValueError, match="line 2: BEGIN ATOMIC is not supported"):
        texts("SELECT 1;\nCREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END;")


def test_position_in_a_statement_is_a_line_of_the_script() -> None:
    (_, second) = split("SELECT 1;\nSELECT\n  2,\n  missing;")
    assert [second.line_at(None), second.line_at(1), second.line_at(second.text.index("missing") + 1)] == [2, 2, 4]


@given(
    st.lists(st.sampled_from(["SELECT 1", "SELECT ';'", "DO $x$ ; $x$", 'SELECT ";"', "SELECT 1 -- ;\n"]), max_size=20)
)
def test_joining_and_splitting_gives_the_same_back(statements: list[str]) -> None:
    assert texts(";\n".join(statements)) == [statement.rstrip() for statement in statements]

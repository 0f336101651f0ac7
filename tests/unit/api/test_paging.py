"""Cursors: what goes in comes out, for the same query alone, and nothing that somebody made up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.paging import Paging, encode, page
from services.api.problems import Problem
from shared.ids import uuid7

QUERY = {"list": "things", "user": UUID(int=7), "model": None}
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2199, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 (Hypothesis adds the zone)


@given(
    TIMES,
    st.uuids(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.text().filter(lambda text: "\0" not in text),
    st.booleans(),
)
def test_a_key_comes_back_as_it_was(at: datetime, id_: UUID, number: int, text: str, flag: bool) -> None:
    cursor = encode([at, id_, number, text, flag], QUERY)
    assert Paging(1, cursor=cursor).key(QUERY, datetime, UUID, int, str, bool) == [at, id_, number, text, flag]


def test_at_the_beginning_there_is_no_key() -> None:
    assert Paging(1).key(QUERY, datetime, UUID) == [None, None]


@pytest.mark.parametrize(
    ("key", "kinds"),
    [
        ([1, 2], (int,)),
        ([1], (int, int)),
        (["1"], (int,)),
        ([True], (int,)),
        ([2**63], (int,)),
        (["a\0b"], (str,)),
        ([uuid7()], (datetime,)),
    ],
)
def test_a_cursor_that_somebody_made_up_is_refused(key: list[Any], kinds: tuple[type, ...]) -> None:
    with pytest.raises(Problem, match="damaged"):
        Paging(1, cursor=encode(key, QUERY)).key(QUERY, *kinds)


@given(st.text())
def test_noise_is_refused(noise: str) -> None:
    with pytest.raises(Problem, match="cursor"):
        Paging(1, cursor=noise).key(QUERY, int)


def test_a_cursor_of_another_query_is_refused() -> None:
    cursor = encode([1], QUERY)
    for other in ({**QUERY, "model": "gpt-4o"}, {**QUERY, "user": UUID(int=8)}, {**QUERY, "list": "others"}):
        with pytest.raises(Problem, match="another query"):
            Paging(1, cursor=cursor).key(other, int)


@given(st.lists(st.integers(0, 1_000), unique=True), st.integers(1, 20))
def test_pages_are_the_whole_list_once(numbers: list[int], limit: int) -> None:
    rows, seen, cursor = sorted(numbers), list[int](), None
    while True:
        asked = Paging(limit, cursor=cursor)
        [after] = asked.key(QUERY, int)
        fetched = [row for row in rows if after is None or row > after][: limit + 1]
        shown, cursor = page(fetched, asked, QUERY, lambda row: [row])
        seen += shown
        if cursor is None:
            break
    assert seen == rows

"""Pages of lists: by `limit` and `offset` as in the seeds, or by an opaque cursor, which is bound to the query that it came from (pure).

A cursor holds the sort key of the last row shown, so that rows which come or go meanwhile shift nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar
from uuid import UUID

import msgspec
from fastapi import Depends, Query
from pydantic import Field

from services.api.fields import Answer
from services.api.problems import MALFORMED, Problem
from shared.period import utc

DEFAULT_LIMIT: Final = 50
MOST_LIMIT: Final = 500
MOST_OFFSET: Final = 100_000
"""Pages by offset cost what they skip; who wants to go further takes the cursor."""

T = TypeVar("T")

Cursor = Annotated[
    str | None, Query(max_length=2_000, description="`next_cursor` of the page before, for the same query.")
]


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page is asked for. At most one of `offset` and `cursor` is given; who gives an offset is told how many rows there are."""

    limit: int
    offset: int = 0
    cursor: str | None = None
    counted: bool = False

    def after(self, query: Mapping[str, Any]) -> list[Any] | None:
        """Return the sort key to go on after, None at the beginning. Raises `Problem` for a cursor of another query."""
        return None if self.cursor is None else decode(self.cursor, query)

    def key(self, query: Mapping[str, Any], *kinds: type) -> list[Any]:
        """Return the sort key to go on after, a value of each of these kinds; None for each at the beginning. Raises `Problem`."""
        found = self.after(query)
        if found is None:
            return [None] * len(kinds)
        if len(found) != len(kinds) or not all(map(_fits, found, kinds)):
            raise Problem(MALFORMED, "cursor: it is damaged; begin again without one")
        return found


def paging(
    limit: Annotated[int, Query(ge=1, le=MOST_LIMIT, description="Most rows of a page.")] = DEFAULT_LIMIT,
    offset: Annotated[
        int | None, Query(ge=0, le=MOST_OFFSET, description="Rows to skip; not together with `cursor`.")
    ] = None,
    cursor: Cursor = None,
) -> Paging:
    """Return what the query string asks for."""
    if cursor is not None and offset is not None:
        raise Problem(MALFORMED, "give either offset or cursor, not both")
    return Paging(limit, offset or 0, cursor, counted=offset is not None)


def by_cursor(
    limit: Annotated[int, Query(ge=1, le=MOST_LIMIT, description="Most rows of a page.")] = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Paging:
    """Return what the query string asks for, of a list that is too long for offsets."""
    return Paging(limit, cursor=cursor)


Page = Annotated[Paging, Depends(paging)]
CursorPage = Annotated[Paging, Depends(by_cursor)]


class Listing(Answer, Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None = Field(
        None, description="What to give as `cursor` for the next page; null on the last one."
    )
    total: int | None = Field(None, description="How many rows there are in all, where `offset` was given; else null.")


def page(
    rows: Sequence[Any], asked: Paging, query: Mapping[str, Any], key: Callable[[Any], Sequence[Any]]
) -> tuple[Sequence[Any], str | None]:
    """Cut `limit + 1` fetched rows to a page, and make the cursor of the next one from the sort key of its last row."""
    if len(rows) <= asked.limit:
        return rows, None
    shown = rows[: asked.limit]
    return shown, encode(key(shown[-1]), query)


def encode(key: Sequence[Any], query: Mapping[str, Any]) -> str:
    """Return a cursor. `key` may hold text, numbers, times and ids."""
    return (
        base64.urlsafe_b64encode(msgspec.msgpack.encode([_fingerprint(query), [_tagged(v) for v in key]]))
        .decode()
        .rstrip("=")
    )


def decode(cursor: str, query: Mapping[str, Any]) -> list[Any]:
    """Return the sort key that a cursor holds. Raises `Problem` if it is damaged or of another query."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        fingerprint, key = msgspec.msgpack.decode(raw, type=tuple[bytes, list[tuple[str, Any]]])
        if fingerprint == _fingerprint(query):
            return [_untagged(kind, value) for kind, value in key]
    except (binascii.Error, ValueError, TypeError, AttributeError, OverflowError, msgspec.DecodeError):
        raise Problem(MALFORMED, "cursor: it is damaged; begin again without one") from None
    raise Problem(
        MALFORMED, "cursor: it comes from another query; begin again without one, or repeat that query's parameters"
    )


def _fits(value: Any, kind: type) -> bool:
    """Tell whether a value from outside is one that a query can be asked with."""
    if isinstance(value, str) and "\0" in value:
        return False
    return type(value) is kind and not (isinstance(value, int) and abs(value) >= 2**63)


def _fingerprint(query: Mapping[str, Any]) -> bytes:
    shown = repr(sorted((name, str(value)) for name, value in query.items() if value is not None))
    return hashlib.sha256(shown.encode()).digest()[:9]


def _tagged(value: Any) -> tuple[str, Any]:
    if isinstance(value, datetime):
        return "t", value.isoformat()
    return ("u", str(value)) if isinstance(value, UUID) else ("v", value)


def _untagged(kind: str, value: Any) -> Any:
    if kind == "t":
        return utc(datetime.fromisoformat(value))
    return UUID(value) if kind == "u" else value

"""Pages of what administrators list: newest first, from a query whose last parameters are the place to go on after, a limit and an offset."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator

from services.api.fields import Answer
from services.api.paging import Listing, Paging, page
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.api.admin")
T = TypeVar("T", bound=Answer)

KEY = ("created_at", "id")
"""The columns that most lists are in the order of."""


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


Json = Annotated[Any, BeforeValidator(_parsed)]
"""A JSON column."""


async def fetch_page(
    connection: Connection,
    query: str,
    filters: Mapping[str, Any],
    asked: Paging,
    item: type[T],
    *,
    key: Sequence[str] = KEY,
    beside: Sequence[Any] = (),
    complete: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
    sql: Queries = SQL,
) -> Listing[T]:
    """Return one page of a query. Its parameters are the filters in their order, the sort key of the row before, limit and offset.

    `beside` are parameters after the filters that a cursor is not bound to: the present, for instance. `complete` makes an item's facts of a row.
    """
    bound = {"list": query, **filters}
    after = asked.after(bound) or [None] * len(key)
    rows = await connection.fetch(sql[query], *filters.values(), *beside, *after, asked.limit + 1, asked.offset)
    shown, cursor = page(rows, asked, bound, lambda row: [row[name] for name in key])
    return Listing[item](items=[item.model_validate(complete(row)) for row in shown], next_cursor=cursor)  # type: ignore[valid-type]

"""Routes that explain: lines of invoices, debits of credits, summaries, down to the usage events behind them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Path, Query, Request
from pydantic import Field

from services.api.auth.asking import Asking
from services.api.fields import Answer, Exact, Instant
from services.api.paging import CursorPage, Listing, page
from services.api.problems import NOT_FOUND, Problem, invalid
from services.api.state import state_of
from services.billing.provenance import (
    SummaryName,
    some_events_behind,
    some_events_of,
)
from services.billing.provenance.anything import Name, Numbered, as_document, explain_anything, parse_name
from shared.postgres import Connection
from shared.sql import Queries

router = APIRouter(prefix="/api/v1", tags=["explaining"])

_SQL: Final = Queries.load("services.api.explaining")

What = Annotated[
    str,
    Path(
        max_length=500,
        pattern=r"^[^\x00]+$",
        description="An invoice line (its id, or INV-2026-000001/3), an invoice (INV-2026-000001), a debit (the id of its settlement or of "
        "its ledger entry), or a summary (SUBSCRIPTION/hour|day|month/START/MODEL).",
        examples=["INV-2026-000001/3"],
    ),
]


class ExplainedEvent(Answer):
    """A usage event behind an amount or a count."""

    created_at: Instant
    id: UUID
    source: str
    request_id: str
    subscription_id: UUID
    api_key_id: UUID | None
    model_id: str | None
    tool_name: str | None
    feature_type: str | None
    power_level: str
    byok: bool
    status_code: int
    request_tokens: int
    cached_tokens: int
    response_tokens: int
    sign: int = Field(description="1: it counts; -1: it is taken back.")


class Explanation(Answer):
    """What is behind an amount or a count, and whether the events still give exactly that."""

    kind: Literal["line", "debit", "charge", "set_off", "summary"]
    holds: bool
    problems: list[str] = Field(description="What does not agree; empty where it holds.")
    title: str | None
    currency: str | None
    stated: Exact | None = Field(description="The exact amount that was billed.")
    recomputed: Exact | None = Field(description="What comes out when it is computed anew.")
    event_count: int | None
    formula: str | None
    details: dict[str, Any] = Field(
        description="By kind: prices and offsets of a line or a debit, the terms of a charge, stored and logged of a summary."
    )
    events: list[ExplainedEvent] = Field(description="The first of them; `/explained-events` has all.")


class Explanations(Answer):
    """One explanation, or one for each line of usage of an invoice."""

    holds: bool
    items: list[Explanation]


@router.get("/explain/{what:path}")
async def explain(
    request: Request,
    principal: Asking,
    what: What,
    events: Annotated[int, Query(ge=0, le=500, description="How many events to show.")] = 20,
) -> Explanations:
    """Say why an amount or a count is what it is: prices, formula, broker offsets, events; and prove that they sum to it."""
    name = parse_name(what)
    database = state_of(request).database
    async with database.reading(principal) as connection:
        await _seen(connection, name, what)
        await database.see_all(connection)
        found = [
            _explanation(as_document(each)) for each in await explain_anything(connection, name, events_shown=events)
        ]
    return Explanations(holds=all(each.holds for each in found), items=found)


@router.get("/explained-events/{what:path}")
async def list_explained_events(
    request: Request, principal: Asking, what: What, paging: CursorPage
) -> Listing[ExplainedEvent]:
    """Every event behind a line, a debit or a summary, in the order in which they happened."""
    name = parse_name(what)
    asked = {"list": "explained", "what": what, "user": principal.user_id}
    after: Any = tuple(paging.key(asked, datetime, UUID, bool))
    database = state_of(request).database
    async with database.reading(principal) as connection:
        kind, id_ = await _seen(connection, name, what)
        await database.see_all(connection)
        if isinstance(name, SummaryName):
            rows = await some_events_of(connection, name, wanted=paging.limit + 1, after=after)
        elif id_ is None:
            raise invalid("path.what", f"name one line of it, such as {what}/1")
        elif kind == "entry":
            raise Problem(NOT_FOUND, f"entry {what} of the ledger is no usage: there are no events behind it")
        else:
            rows = await some_events_behind(
                connection,
                line_id=id_ if kind == "line" else None,
                settlement_id=id_ if kind == "debit" else None,
                wanted=paging.limit + 1,
                after=after,
            )
    shown, cursor = page(rows, paging, asked, lambda row: (row["created_at"], row["id"], row["takes_back"]))
    return Listing(items=[ExplainedEvent(**row) for row in shown], next_cursor=cursor)


async def _seen(connection: Connection, name: Name, what: str) -> tuple[str, UUID | None]:
    """Return what is named: its kind and its id. Raises `Problem` (404) unless who asks may see it."""
    if isinstance(name, SummaryName):
        if await connection.fetchval(_SQL["has_subscription"], name.subscription_id):
            return "summary", name.subscription_id
    elif isinstance(name, Numbered):
        if name.position is None and await connection.fetchval(_SQL["has_invoice"], name.number):
            return "invoice", None
        if line := name.position and await connection.fetchval(_SQL["line_of_number"], name.number, name.position):
            return "line", line
    elif found := await connection.fetchrow(_SQL["what_is"], name):
        return found["kind"], found["id"]
    raise Problem(NOT_FOUND, f"there is nothing that {what} names")


def _explanation(document: dict[str, Any]) -> Explanation:
    told = {name: document.pop(name, None) for name in _TOLD}
    events = document.pop("events", [])
    return Explanation(
        **told,
        events=[ExplainedEvent(**event) for event in events],
        details=msgspec.to_builtins(document, str_keys=True),
    )


_TOLD: Final = ("kind", "holds", "problems", "title", "currency", "stated", "recomputed", "event_count", "formula")

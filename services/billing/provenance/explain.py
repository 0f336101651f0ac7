"""Explains an invoice line or a debit: prices, formula, broker offsets, the events, and whether they still sum to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.rating.rating import COMPONENTS
from shared.errors import TallystickError
from shared.money import exact
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.provenance")
EVENTS_SHOWN: Final = 100
FORMULA: Final = (
    "(requests x price_per_request + (request_tokens - cached_tokens) x input_price_per_1k / 1000 "
    "+ cached_tokens x cached_input_price_per_1k / 1000 + response_tokens x output_price_per_1k / 1000) x multiplier"
)


class NothingToExplain(TallystickError):
    """There is no such line or debit, or it bills no usage."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is behind a line or a debit. `recomputed` is rated anew from the events and must be `stated`, to the last digit.

    `problems` says loudly what does not agree. `events` are the first ones in order of time; `event_count` counts all.
    """

    kind: str
    id: UUID
    title: str
    currency: str
    stated: Decimal
    recomputed: Decimal
    event_count: int
    first_event_at: datetime | None
    last_event_at: datetime | None
    formula: str
    prices: Sequence[Mapping[str, Any]]
    origins: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    problems: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether the events give exactly what was billed."""
        return not self.problems


async def explain_line(connection: Connection, line_id: UUID, *, events_shown: int = EVENTS_SHOWN) -> Explanation:
    """Explain an invoice line of usage. Raises `NothingToExplain` for an unknown line, or for one that is not of usage."""
    line = await connection.fetchrow(SQL["line"], line_id)
    if line is None or line["usage_line_id"] is None:
        raise NothingToExplain(f"there is no invoice line {line_id} that bills usage: 'tallystick invoice' lists lines")
    behind = _Behind(connection, line["usage_line_id"], None)
    scope, events = await behind.read(events_shown)
    recomputed = events[line["component"]]
    problems = _disagreements(line["exact_amount"], recomputed, line["event_count"], scope, events)
    if scope["checksum"] != line["checksum"]:
        problems.append("the rated usage behind the line is not what it was when the line was made")
    title = f"{line['description']}, invoice {line['number']}"
    return await behind.explanation(
        events, problems, kind="line", id=line_id, title=title, currency=line["currency"], stated=line["exact_amount"],
        recomputed=recomputed,
    )  # fmt: skip


async def explain_debit(
    connection: Connection, settlement_id: UUID, *, events_shown: int = EVENTS_SHOWN
) -> Explanation:
    """Explain a settlement of prepaid usage. Raises `NothingToExplain` for an unknown one."""
    debit = await connection.fetchrow(SQL["debit"], settlement_id)
    if debit is None:
        raise NothingToExplain(
            f"there is no settlement {settlement_id}: the ledger names it in the metadata of its entry"
        )
    behind = _Behind(connection, None, settlement_id)
    scope, events = await behind.read(events_shown)
    with exact():
        recomputed = sum((events[component] for component in COMPONENTS), Decimal(0))
    problems = _disagreements(debit["rated_amount"], recomputed, int(scope["events"]), scope, events)
    title = (
        f"{amount_text(debit['debited'])} credits debited, {amount_text(debit['owed'])} owed, "
        f"at {amount_text(debit['credits_per_unit'])} for one {debit['currency']}"
    )
    return await behind.explanation(
        events, problems, kind="debit", id=settlement_id, title=title, currency=debit["currency"], stated=debit["rated_amount"],
        recomputed=recomputed,
    )  # fmt: skip


def _disagreements(
    stated: Decimal, recomputed: Decimal, stated_events: int, scope: Mapping[str, Any], events: Mapping[str, Any]
) -> list[str]:
    problems = []
    if recomputed != stated:
        problems.append(f"the events give {amount_text(recomputed)}, not {amount_text(stated)}")
    if not events["events"] == scope["events"] == stated_events:
        problems.append(
            f"{stated_events} events are stated, {scope['events']} were rated, {events['events']} are in the log"
        )
    return problems


@dataclass(slots=True)
class _Behind:
    """Reads what rated usage points to a line, or to a settlement."""

    connection: Connection
    line_id: UUID | None
    settlement_id: UUID | None
    _where: tuple[Any, ...] = ()
    _events: Sequence[Mapping[str, Any]] = ()

    async def read(self, events_shown: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the scope of the rated usage, and the sums of the events found anew."""
        ends = (self.line_id, self.settlement_id)
        scope = await self.connection.fetchrow(SQL["scope"], *ends)
        self._where = (*ends, scope["subscriptions"] or [], scope["first_hour"], scope["end_hour"])
        self._events = await self.connection.fetch(SQL["events"], *self._where, events_shown)
        return scope, await self.connection.fetchrow(SQL["recomputed"], *self._where)

    async def explanation(self, events: Mapping[str, Any], problems: Sequence[str], **stated: Any) -> Explanation:
        ends = (self.line_id, self.settlement_id)
        return Explanation(
            event_count=events["events"],
            first_event_at=events["first_event_at"],
            last_event_at=events["last_event_at"],
            formula=FORMULA,
            prices=await self.connection.fetch(SQL["prices"], *ends),
            origins=await self.connection.fetch(SQL["origins"], *ends),
            events=self._events,
            problems=problems,
            **stated,
        )

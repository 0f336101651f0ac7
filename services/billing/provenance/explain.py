"""Explains an invoice line or a debit: prices, formula, broker offsets, the events, and whether they still sum to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.provenance.explanation import Explanation, Recomputed, recompute
from services.billing.rating.store import read_price_book
from shared.errors import NotFound
from shared.period import HOUR
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.provenance")
EVENTS_SHOWN: Final = 100
SECONDS: Final = 600
"""How long a question about a large line may take."""
FORMULA: Final = (
    "(requests x price_per_request + (request_tokens - cached_tokens) x input_price_per_1k / 1000 "
    "+ cached_tokens x cached_input_price_per_1k / 1000 + response_tokens x output_price_per_1k / 1000 + units x price_per_unit) x multiplier"
)

After = tuple[datetime, UUID, bool] | tuple[None, None, None]
"""An event in the order of events: its time, its id, and whether it is taken back."""
FROM_THE_FIRST: Final[After] = (None, None, None)


class NothingToExplain(NotFound):
    """There is no such line or debit, or it bills no usage."""


async def explain_line(connection: Connection, line_id: UUID, *, events_shown: int = EVENTS_SHOWN) -> Explanation:
    """Explain an invoice line of usage. Raises `NothingToExplain` for an unknown line, or for one that is not of usage."""
    line = await connection.fetchrow(SQL["line"], line_id)
    if line is None:
        raise NothingToExplain(
            f"there is no invoice line {line_id}: 'tallystick invoice show' lists the lines of an invoice"
        )
    if line["usage_line_id"] is None:
        raise NothingToExplain(
            f"line {line_id} of invoice {line['number']} ({line['description']}) is no usage by itself: it is a {line['kind']}"
        )
    behind = await Behind.read(connection, line=line["usage_line_id"])
    found, stated = await behind.recompute(), line["exact_amount"]
    recomputed = found.components[line["component"]]
    problems = behind.disagreements(stated, recomputed, line["event_count"], found)
    if behind.checksum != line["checksum"]:
        problems.append("the rated usage behind the line is not what it was when the line was made")
    return await behind.explanation(
        found, problems, events_shown, kind="line", id=line_id, title=f"{line['description']}, invoice {line['number']}",
        currency=line["currency"], stated=stated, recomputed=recomputed,
    )  # fmt: skip


async def explain_debit(
    connection: Connection, settlement_id: UUID, *, events_shown: int = EVENTS_SHOWN
) -> Explanation:
    """Explain a settlement of prepaid usage, named by its id or by that of its ledger entry. Raises `NothingToExplain`."""
    debit = await connection.fetchrow(SQL["debit"], settlement_id)
    if debit is None:
        raise NothingToExplain(
            f"there is no settlement {settlement_id}: the ledger names it in the metadata of its entry"
        )
    behind = await Behind.read(connection, settlement=debit["id"])
    found, stated = await behind.recompute(), debit["rated_amount"]
    title = (
        f"{amount_text(debit['debited'])} credits debited, {amount_text(debit['owed'])} owed, "
        f"at {amount_text(debit['credits_per_unit'])} for one {debit['currency']}"
    )
    return await behind.explanation(
        found, behind.disagreements(stated, found.amount, behind.events, found), events_shown, kind="debit", id=debit["id"],
        title=title, currency=debit["currency"], stated=stated, recomputed=found.amount,
    )  # fmt: skip


async def events_behind(connection: Connection, explanation: Explanation) -> AsyncIterator[Mapping[str, Any]]:
    """Yield every event behind a line or a debit, in order of time, without holding them all. Call it in a transaction."""
    line = await connection.fetchrow(SQL["line"], explanation.id) if explanation.kind == "line" else None
    sources = await _Sources.read(connection, *((line["usage_line_id"], None) if line else (None, explanation.id)))
    async for row in connection.cursor(SQL["events"], *sources.arguments, None, *FROM_THE_FIRST, prefetch=5_000):
        yield row


async def some_events_behind(
    connection: Connection,
    *,
    line_id: UUID | None = None,
    settlement_id: UUID | None = None,
    wanted: int,
    after: After = FROM_THE_FIRST,
) -> Sequence[Mapping[str, Any]]:
    """Return at most `wanted` events behind a line or a settlement, in order of time, after one of them. Raises `NothingToExplain`."""
    line = await connection.fetchrow(SQL["line"], line_id) if line_id else None
    if line_id and (line is None or line["usage_line_id"] is None):
        raise NothingToExplain(f"line {line_id} is no usage by itself: there are no events behind it")
    sources = await _Sources.read(connection, line and line["usage_line_id"], settlement_id)
    return await sources.first_events(connection, wanted, after)


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where the events behind something are: `arguments` are those of the queries `sums` and `events`."""

    arguments: tuple[Any, ...]
    batches: Sequence[UUID]

    @classmethod
    async def read(cls, connection: Connection, line: UUID | None, settlement: UUID | None) -> _Sources:
        """Read the sources of a line or of a settlement."""
        rows = await connection.fetch(SQL["sources"], line, settlement, timeout=SECONDS)
        columns = [[row[name] for row in rows] for name in _SOURCE_COLUMNS]
        hours = [row["hour"] for row in rows] or [datetime.min.replace(tzinfo=UTC)]
        subscriptions = sorted({row["subscription_id"] for row in rows})
        batches = sorted({row["batch_id"] for row in rows})
        return cls((*columns, subscriptions, min(hours), max(hours) + HOUR), batches)

    async def first_events(
        self, connection: Connection, wanted: int, after: After = FROM_THE_FIRST
    ) -> Sequence[Mapping[str, Any]]:
        """Return the first events after one: from its hour, and from ever more of the hours until there are enough."""
        *columns, start, end = self.arguments
        start = max(start, after[0]) if after[0] else start
        hours = 1
        while True:
            until = min(start + hours * HOUR, end)
            found = await connection.fetch(SQL["events"], *columns, start, until, wanted, *after, timeout=SECONDS)
            if len(found) >= wanted or until >= end:
                return found  # type: ignore[no-any-return]
            hours *= 8


_SOURCE_COLUMNS: Final = (
    "takes_back", "price_id", "multiplier", "subscription_id", "hour", "model_id", "tool_name", "feature_type", "power_level", "byok",
    "status_class", "batch_id",
)  # fmt: skip


@dataclass(slots=True)
class Behind:
    """The rated usage that a line or a settlement bills."""

    connection: Connection
    sources: _Sources
    events: int
    checksum: str
    archived: Sequence[Any]

    @classmethod
    async def read(cls, connection: Connection, *, line: UUID | None = None, settlement: UUID | None = None) -> Behind:
        """Read what is rated."""
        scope = await connection.fetchrow(SQL["scope"], line, settlement, timeout=SECONDS)
        sources = await _Sources.read(connection, line, settlement)
        return cls(connection, sources, int(scope["events"]), scope["checksum"], scope["archived"])

    async def recompute(self) -> Recomputed:
        """Rate the events anew, by the price versions that are frozen with the usage."""
        sums = await self.connection.fetch(SQL["sums"], *self.sources.arguments, timeout=SECONDS)
        book = await read_price_book(self.connection, Decimal(0))
        return recompute(sums, {price.id: price for price in book.prices})

    def disagreements(self, stated: Decimal, recomputed: Decimal, stated_events: int, found: Recomputed) -> list[str]:
        """Say what the events do not confirm."""
        if self.archived:
            months = ", ".join(f"{month:%Y-%m}" for month in self.archived)
            return [f"events of {months} are archived: 'tallystick partitions restore' them, then ask again"]
        problems = []
        if recomputed != stated:
            problems.append(f"the events give {amount_text(recomputed)}, not {amount_text(stated)}")
        if not found.events == self.events == stated_events:
            problems.append(
                f"{stated_events} events are stated, {self.events} were rated, {found.events} are in the log"
            )
        return problems

    async def explanation(
        self, found: Recomputed, problems: Sequence[str], events_shown: int, **stated: Any
    ) -> Explanation:
        """Read the rest, and put it all together."""
        return Explanation(
            event_count=found.events,
            first_event_at=found.first_event_at,
            last_event_at=found.last_event_at,
            formula=FORMULA,
            prices=found.prices,
            origins=await self.connection.fetch(SQL["origins"], self.sources.batches, timeout=SECONDS),
            events=await self.sources.first_events(self.connection, events_shown),
            problems=problems,
            **stated,
        )


async def is_line(connection: Connection, id_: UUID) -> bool:
    """Return whether an id is that of an invoice line."""
    return await connection.fetchrow(SQL["line"], id_) is not None


async def lines_of(connection: Connection, number: str, position: int | None) -> list[UUID]:
    """Return the line at a position of an invoice, or all that bill usage. Raises `NothingToExplain` if there is none."""
    if position is None:
        lines = await connection.fetch(SQL["usage_lines"], number)
    else:
        lines = await connection.fetch(SQL["line_of_number"], number, position)
    if not lines:
        which = "line of usage" if position is None else f"line {position}"
        raise NothingToExplain(
            f"there is no invoice {number} with a {which}: 'tallystick invoice list' shows what there is"
        )
    return [line["id"] for line in lines]

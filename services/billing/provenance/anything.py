"""Explains whatever somebody names: lines and debits of usage, charges of plans, summaries. And explanations as JSON."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.credits.desk.explaining import explain_prepaid_fee
from services.billing.plans.desk.explaining import ChargeExplanation, explain_charge
from services.billing.provenance.explain import (
    EVENTS_SHOWN,
    NothingToExplain,
    events_behind,
    explain_debit,
    explain_line,
    is_line,
    lines_of,
)
from services.billing.provenance.explanation import Explanation
from services.billing.provenance.set_offs import SetOffExplanation, explain_set_off
from services.billing.provenance.summaries import (
    SummaryExplanation,
    SummaryName,
    events_of,
    explain_summary,
    parse_summary,
)
from shared.postgres import Connection

_NUMBERED: Final = re.compile(r"(?P<number>[A-Z][^\0/]*-\d+)(/(?P<position>\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Numbered:
    """A line of an invoice by its position; position None: all that bill usage."""

    number: str
    position: int | None


Name = SummaryName | Numbered | UUID
"""What can be named: a summary, lines of an invoice by number, or the id of a line, a settlement or its ledger entry."""
AnyExplanation = Explanation | ChargeExplanation | SetOffExplanation | SummaryExplanation


def parse_name(text: str) -> Name:
    """Return what a text names. Raises `NothingToExplain` for what names nothing."""
    if summary := parse_summary(text):
        return summary
    if named := _NUMBERED.fullmatch(text):
        return Numbered(named["number"], int(named["position"]) if named["position"] else None)
    try:
        return UUID(text)
    except ValueError:
        raise NothingToExplain(
            f"'{text}' names nothing that can be explained: give the id of a line or debit, INVOICE/LINE, or SUBSCRIPTION/day/DATE"
        ) from None


async def explain_anything(
    connection: Connection, name: Name, *, events_shown: int = EVENTS_SHOWN
) -> list[AnyExplanation]:
    """Explain what was named; several where an invoice was. Raises `NothingToExplain`. Call it in one snapshot."""
    if isinstance(name, SummaryName):
        return [await explain_summary(connection, name, events_shown=events_shown)]
    if isinstance(name, Numbered):
        lines = await lines_of(connection, name.number, name.position)
        return [
            await _charge_or_set_off(connection, line)
            or await explain_line(connection, line, events_shown=events_shown)
            for line in lines
        ]
    if found := await _charge_or_set_off(connection, name) or await explain_prepaid_fee(connection, name):
        return [found]
    explain_it = explain_line if await is_line(connection, name) else explain_debit
    return [await explain_it(connection, name, events_shown=events_shown)]


async def _charge_or_set_off(connection: Connection, line_id: UUID) -> ChargeExplanation | SetOffExplanation | None:
    return await explain_charge(connection, line_id) or await explain_set_off(connection, line_id)


async def every_event(connection: Connection, found: AnyExplanation) -> AsyncIterator[Mapping[str, Any]]:
    """Yield every event behind an explanation, in order of time. Charges and set-offs have none of their own: their usage lines have them."""
    if isinstance(found, ChargeExplanation | SetOffExplanation):
        return
    events = (
        events_of(connection, found.name) if isinstance(found, SummaryExplanation) else events_behind(connection, found)
    )
    async for event in events:
        yield event


def as_document(found: AnyExplanation) -> dict[str, Any]:
    """Return an explanation as JSON-ready values, but for ids, times and Decimals; amounts as exact text."""
    if isinstance(found, SetOffExplanation):
        return {"kind": "set_off", **asdict(found), "holds": found.holds}
    if isinstance(found, ChargeExplanation):
        return {"kind": "charge", **asdict(found), "holds": found.holds}
    rows = {
        "origins": [dict(row) for row in found.origins],
        "events": _events(found.events),
        "problems": list(found.problems),
        "holds": found.holds,
    }
    if isinstance(found, SummaryExplanation):
        return {"kind": "summary", **asdict(found.name), "stored": found.stored, "logged": found.logged, **rows}
    return {
        **{name: getattr(found, name) for name in ("kind", "id", "title", "currency", "event_count", "formula")},
        "first_event_at": found.first_event_at and found.first_event_at.isoformat(),
        "last_event_at": found.last_event_at and found.last_event_at.isoformat(),
        "stated": amount_text(found.stated),
        "recomputed": amount_text(found.recomputed),
        "prices": [
            {**asdict(p.price), "multiplier": p.multiplier, "events": p.events, "amount": amount_text(p.amount)}
            for p in found.prices
        ],
        **rows,
    }


def _events(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "takes_back"} for row in rows]

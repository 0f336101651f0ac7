"""Sets corrections of usage off against what credit notes gave back of the same lines. Runs in the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from services.billing.customer import Customer
from services.billing.invoices.credited_once import Standing, spread
from services.billing.invoices.lines import Line, UsageGroup, set_off_line
from shared.money import exact
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.invoices", "set_offs.sql")
_NOT_PREVIEWED: Final[tuple[list[Any], ...]] = ([], [], [])
_SUBJECT = ("model_id", "tool_name", "feature_type", "power_level", "byok")

LineOf = tuple[UUID, str]
"""The lines of one group of usage: the one that rated usage points to, and the component."""


@dataclass(slots=True)
class SetOffs:
    """Lines to be added to invoices, by invoice; the line of a credit note that each of them sets off; and the groups of late usage that
    are concerned, by their line: no credit note is to give these back."""

    lines: dict[UUID, list[Line]] = field(default_factory=dict)
    of: list[tuple[UUID, UUID, Decimal]] = field(default_factory=list)
    groups: set[UUID] = field(default_factory=set)

    def add(self, other: SetOffs) -> None:
        """Take over what was found elsewhere."""
        for invoice_id, lines in other.lines.items():
            self.lines.setdefault(invoice_id, []).extend(lines)
        self.of += other.of
        self.groups |= other.groups

    async def write(self, connection: Connection) -> None:
        """Write down what was set off, when the lines are stored."""
        if self.of:
            await connection.execute(SQL["insert_set_offs"], *zip(*self.of, strict=True))


async def set_offs(
    connection: Connection,
    period: Period,
    drafts: Mapping[UUID, Customer],
    groups: Sequence[UsageGroup],
    *,
    claimed: bool = True,
) -> SetOffs:
    """Return what of late usage in `groups` credit notes gave back already; `claimed` says whether it is tied to its lines."""
    found = SetOffs()
    late = [group for group in groups if group.is_late(period)]
    if not late:
        return found
    users = list({drafts[group.invoice_id].user_id for group in late})
    if claimed:  # whoever writes a credit note meanwhile would not see what is being taken back here, nor this the note
        await connection.execute(SQL["lock_invoices_of"], users)
    noted: dict[LineOf, list[Any]] = {}
    for row in await connection.fetch(SQL["noted_lines"], users):
        if row["usage_line_id"] and row["exact_amount"] > 0:
            noted.setdefault((row["usage_line_id"], row["component"]), []).append(row)
    if not noted:
        return found
    previewed = _NOT_PREVIEWED if claimed else _columns(drafts)
    lines, lost = [group.line_id for group in late], [line for line, _ in noted]
    taken = await connection.fetch(SQL["taken_back"], lost, lines, *previewed, period.start, period.end)
    invoices = {customer: id_ for id_, customer in drafts.items()}
    for row in taken:
        notes = noted.get((row["line_id"], row["component"]))
        if notes and (off := standing(notes, row["before"]).set_off_of(row["now"])) > 0:
            _add(found, invoices[Customer(notes[0]["user_id"], notes[0]["currency"])], notes, off)
            found.groups |= {group.line_id for group in late if _same_usage(group, notes[0])}
    return found


def standing(notes: Sequence[Any], taken: Decimal) -> Standing:
    """Return how far a line has been given back by these lines of credit notes, and by `taken` of its usage."""
    with exact():
        return Standing(
            noted=sum([note["exact_amount"] for note in notes], Decimal(0)),
            reduced=sum([note["reduced"] for note in notes], Decimal(0)),
            taken=taken,
            set_off=sum([note["set_off"] for note in notes], Decimal(0)),
        )


async def standings(connection: Connection, user_id: UUID, lines: Sequence[LineOf]) -> dict[LineOf, Standing]:
    """Return how far lines of usage have been given back, for those of which anything was."""
    notes: dict[LineOf, list[Any]] = {}
    for row in await connection.fetch(SQL["noted_lines"], [user_id]):
        notes.setdefault((row["usage_line_id"], row["component"]), []).append(row)
    rows = await connection.fetch(SQL["taken_back"], list({line for line, _ in lines}), [], *_NOT_PREVIEWED, None, None)
    taken = {(row["line_id"], row["component"]): row["before"] for row in rows}
    return {
        line: standing(notes.get(line, ()), taken.get(line, Decimal(0)))
        for line in lines
        if line in notes or line in taken
    }


async def write_reductions(connection: Connection, reduced: Mapping[UUID, Decimal]) -> None:
    """Write down how much less lines of a credit note give than was asked for, because it had been given back already."""
    if reduced:
        await connection.execute(SQL["insert_set_offs"], list(reduced), [None] * len(reduced), list(reduced.values()))


def _columns(drafts: Mapping[UUID, Customer]) -> tuple[list[Any], ...]:
    return list(drafts), [c.user_id for c in drafts.values()], [c.currency for c in drafts.values()]


def _add(found: SetOffs, invoice_id: UUID, notes: Sequence[Any], amount: Decimal) -> None:
    with exact():
        parts = spread(amount, [note["exact_amount"] - note["set_off"] for note in notes])
    for note, part in zip(notes, parts, strict=True):
        if part > 0:
            line = set_off_line(note, part)
            found.lines.setdefault(invoice_id, []).append(line)
            found.of.append((note["id"], line.id, part))


def _same_usage(group: UsageGroup, note: Any) -> bool:
    facts = json.loads(note["dimensions"])
    return (
        group.subscription_id == note["subscription_id"]
        and all(getattr(group, name) == facts.get(name) for name in _SUBJECT)
        and group.period_start < note["period_end"]
        and group.period_end > note["period_start"]
    )

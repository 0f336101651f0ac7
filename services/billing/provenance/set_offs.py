"""Explains a line that takes off what corrected usage or a plan gives back, because a credit note gave it back before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.provenance.explain import SQL
from shared.postgres import Connection


@dataclass(frozen=True, slots=True)
class SetOffExplanation:
    """Which credit note gave back what `corrections` (lines of the same invoice) would give back once more.

    `noted` is what the line of the note gave, `set_off` what was set off against it on all invoices; exact amounts in `currency`.
    `problems` says loudly what does not agree.
    """

    line_id: UUID
    title: str
    currency: str
    stated: Decimal
    note: str
    reason: str
    noted: Decimal
    set_off: Decimal
    of_line: str
    corrections: Sequence[str]
    problems: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether no more is taken off than the note gave, and than corrections give."""
        return not self.problems


async def explain_set_off(connection: Connection, line_id: UUID) -> SetOffExplanation | None:
    """Explain a line that sets off; None for any other."""
    row = await connection.fetchrow(SQL["set_off"], line_id)
    if row is None:
        return None
    stated, set_off = row["exact_amount"], row["set_off"] or Decimal(0)
    problems = []
    if stated != row["amount"]:
        problems.append(f"{amount_text(row['amount'])} were set off, not {amount_text(stated)}")
    if abs(set_off) > abs(row["noted"]):
        problems.append(
            f"{amount_text(set_off)} were set off in all, of the {amount_text(row['noted'])} that the note gave"
        )
    if abs(stated) > abs(row["corrected"]):
        problems.append(f"corrections on this invoice give back {amount_text(row['corrected'])} only")
    return SetOffExplanation(
        line_id, f"{row['description']}, invoice {row['number']}", row["currency"], stated, f"{row['note']}/{row['note_position']}",
        row["reason"], row["noted"], set_off, row["of_line"], row["corrections"], problems,
    )  # fmt: skip

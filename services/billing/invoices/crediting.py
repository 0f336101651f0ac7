"""What a credit note takes back (pure): line by line, never more than was invoiced less what earlier notes took back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.billing.invoices.credited_once import Standing
from services.billing.invoices.document import DocumentLine, InvoiceDocument, TaxAmount
from services.billing.invoices.taxes import Tax, tax_amounts
from shared.errors import TallystickError
from shared.ids import uuid7
from shared.money import exact, minor_unit, round_money


class CreditRefused(TallystickError):
    """What was asked for cannot be taken back; the message says what can."""


@dataclass(frozen=True, slots=True)
class Credited:
    """What was taken back of an invoice so far: by credit notes of each line, net, and of each tax; by corrections of its usage that are
    on later invoices, of each line. `standings` are those of lines of usage of which anything was."""

    lines: Mapping[UUID, Decimal] = field(default_factory=dict)
    taxes: Sequence[TaxAmount] = ()
    elsewhere: Mapping[UUID, Decimal] = field(default_factory=dict)
    standings: Mapping[UUID, Standing] = field(default_factory=dict)

    def left(self, line: DocumentLine) -> Decimal:
        """Return what is left of a line."""
        nothing = Decimal(0)
        with exact():
            left = line.amount - self.lines.get(line.id, nothing) - self.elsewhere.get(line.id, nothing)
        return max(left, nothing) if line.amount > 0 else min(left, nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteLine:
    """A line of a credit note to be: `amount` (whole minor units, the sign of the invoice's line) of `of` is taken back; `reduced` is what
    more was asked for, and given back already by corrections of its usage."""

    of: DocumentLine
    amount: Decimal
    exact_amount: Decimal
    quantity: Decimal
    unit: str
    unit_price: Decimal | None
    reduced: Decimal = Decimal(0)
    id: UUID = field(default_factory=uuid7)
    usage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A credit note to be."""

    lines: tuple[NoteLine, ...]
    taxes: tuple[TaxAmount, ...]
    exact_subtotal: Decimal
    subtotal: Decimal
    tax: Decimal
    total: Decimal


def take_back(
    invoice: InvoiceDocument,
    credited: Credited,
    wanted: Mapping[int, Decimal | None] | None = None,
    *,
    goodwill: bool = False,
) -> Note:
    """Return the note that takes back of each line by position what is `wanted` (None: the rest of it), or the rest of all lines.

    What corrections of a line's usage gave back already is taken off what is wanted of it, but for `goodwill`.
    Raises `CreditRefused` for a draft, a line that does not exist, an amount that is not whole minor units, is of the other sign or
    above what is left, and for a note that would take back more than is left of the invoice.
    """
    name = invoice.number or f"draft {invoice.id}"
    if invoice.number is None:
        raise CreditRefused(f"{name} is not issued: there is nothing to take back")
    if invoice.status == "cancelled":
        raise CreditRefused(f"{name} is void: all of it has been taken back")
    left = {line.position: credited.left(line) for line in invoice.lines}
    by_position = {line.position: line for line in invoice.lines}
    if whole := wanted is None:
        wanted = {position: None for position, amount in left.items() if amount} or dict.fromkeys(left)
    lines = []
    for position, amount in sorted(wanted.items()):
        if position not in by_position:
            raise CreditRefused(f"{name} has no line {position}: it has {len(left)} lines")
        line = by_position[position]
        if not whole and "credit_note" in line.dimensions:
            raise CreditRefused(
                f"line {position} of {name} takes off what {line.dimensions['credit_note']} gave back already: nothing of it can be given again"
            )
        standing = None if goodwill or whole else credited.standings.get(line.id)
        lines.append(_line(name, line, left[position], amount, invoice.currency, standing=standing))
    return make_note(invoice, credited, lines)


def make_note(invoice: InvoiceDocument, credited: Credited, lines: Sequence[NoteLine]) -> Note:
    """Return the note of these lines, with the tax that the invoice had on them. Raises `CreditRefused` if it is not within the invoice."""
    with exact():
        subtotal = sum([line.amount for line in lines], Decimal(0))
        reasons = {(t.category, t.rate): t.reason for t in invoice.taxes}
        taxed = [
            (Tax(ln.of.tax_category, ln.of.tax_rate, reasons.get((ln.of.tax_category, ln.of.tax_rate))), ln.amount)
            for ln in lines
        ]
        taxes = tax_amounts(taxed, invoice.currency, before=credited.taxes)
        tax = sum([part.tax for part in taxes], Decimal(0))
        left = invoice.total - invoice.amount_credited
        if not 0 <= subtotal + tax <= left:
            raise CreditRefused(
                f"{subtotal + tax} {invoice.currency} cannot be taken back of {invoice.number}: {left} {invoice.currency} are left of it"
            )
        exact_subtotal = sum([line.exact_amount for line in lines], Decimal(0))
    return Note(
        lines=tuple(lines), taxes=taxes, exact_subtotal=exact_subtotal, subtotal=subtotal, tax=tax, total=subtotal + tax
    )


def _line(
    name: str, line: DocumentLine, left: Decimal, amount: Decimal | None, currency: str, *, standing: Standing | None
) -> NoteLine:
    asked = left if amount is None else amount
    if asked % minor_unit(currency):
        raise CreditRefused(f"{asked} {currency} has too many digits: the smallest amount is {minor_unit(currency)}")
    rest = (
        amount is None and standing is not None and standing.charged is None
    )  # what is left already heeds what usage gave back
    wanted = round_money(standing.left_to_give(asked), currency) if standing and asked > 0 and not rest else asked
    if asked and not wanted:
        raise CreditRefused(
            f"{asked} {currency} of line {line.position} of {name} were given back already, as usage of it was taken back: "
            "with --goodwill they are given beside that"
        )
    if line.kind == "credit" and wanted not in (0, line.amount):
        raise CreditRefused(
            f"line {line.position} of {name} is what a grant paid: it goes back to the grant whole ({line.amount} {currency}), or stays"
        )
    if not min(left, Decimal(0)) <= wanted <= max(left, Decimal(0)):
        raise CreditRefused(
            f"{wanted} {currency} cannot be taken back of line {line.position} of {name}: {left} are left of it"
        )
    if wanted == line.amount:
        return whole_line(line)
    return NoteLine(
        of=line, amount=wanted, exact_amount=wanted, quantity=Decimal(1), unit="correction", unit_price=wanted, reduced=asked - wanted
    )  # fmt: skip


def whole_line(line: DocumentLine) -> NoteLine:
    """Return what takes back all of a line."""
    return NoteLine(
        of=line,
        amount=line.amount,
        exact_amount=line.exact_amount,
        quantity=line.quantity,
        unit=line.unit,
        unit_price=line.unit_price,
    )

"""Sets what plans give back of their charges off against what credit notes gave back of them. Runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.billing.customer import Customer
from services.billing.invoices.charge_families import Charged, Family, families, family_of, gives_back
from services.billing.invoices.credited_once import spread
from services.billing.invoices.document import DocumentLine
from services.billing.invoices.lines import set_off_line
from services.billing.invoices.setting_off import SQL, SetOffs
from services.billing.plans.charge import Charge
from shared.money import exact
from shared.postgres import Connection


async def set_offs_of_charges(
    connection: Connection,
    drafts: Mapping[UUID, Customer],
    charges: Mapping[Customer, Sequence[Charge]],
    *,
    claimed: bool = True,
) -> SetOffs:
    """Return what of the charges that are about to be billed credit notes gave back already; `claimed`: they are billed now, not previewed."""
    found = SetOffs()
    giving = {customer for customer, due in charges.items() if any(gives_back(charge.key) for charge in due)}
    if not giving:
        return found
    users = sorted({customer.user_id for customer in giving})
    if claimed:  # whoever writes a credit note meanwhile would not see what is given back here, nor this the note
        await connection.execute(SQL["lock_invoices_of"], users)
    notes = by_line(await connection.fetch(SQL["noted_charges"], users))
    if not notes:
        return found
    subscriptions = list({note["subscription_id"] for noted in notes.values() for note in noted})
    rows = await connection.fetch(SQL["charged"], subscriptions)
    for id_, customer in drafts.items():
        _set_off(found, id_, rows, notes, charges.get(customer, ()) if customer in giving else ())
    return found


def known_families(
    charged: Sequence[Any], notes: Mapping[UUID, Sequence[Any]], more: Sequence[Charged] = ()
) -> dict[str, Family]:
    """Return the families of charges as `charged` and `noted_charges` read them, with `more` that are about to be billed."""
    lines = [_charged(row, notes.get(row["id"], ())) for row in charged]
    among = [*lines, *more]
    found = families(among)
    with exact():
        for row, line in zip(charged, lines, strict=True):
            family = found[family_of(line, among)]
            for note in notes.get(row["id"], ()):
                family.reduced += note["reduced"]
                family.set_off += note["set_off"]
    return found


def by_line(notes: Iterable[Any]) -> dict[UUID, list[Any]]:
    """Return lines of credit notes by the line of the invoice that they take back."""
    found: dict[UUID, list[Any]] = {}
    for note in notes:
        found.setdefault(note["invoice_line_id"], []).append(note)
    return found


def _charged(row: Any, notes: Sequence[Any]) -> Charged:
    with exact():
        noted = sum([note["exact_amount"] for note in notes], Decimal(0))
    return Charged(
        row["invoice_id"], row["charge_key"], row["subscription_id"], row["period_start"], row["period_end"], row["exact_amount"], noted
    )  # fmt: skip


async def families_of(connection: Connection, user_id: UUID, lines: Sequence[DocumentLine]) -> dict[UUID, Family]:
    """Return the family of each of these lines of issued invoices that a plan charged."""
    if not lines:
        return {}
    notes = by_line(await connection.fetch(SQL["noted_charges"], [user_id]))
    rows = await connection.fetch(SQL["charged"], list({line.subscription_id for line in lines}))
    by_key = {charge.key: family for family in known_families(rows, notes).values() for charge in family.charges}
    return {line.id: by_key[line.charge_key] for line in lines if line.charge_key in by_key}


def _set_off(
    found: SetOffs, invoice_id: UUID, rows: Sequence[Any], notes: Mapping[UUID, Sequence[Any]], due: Sequence[Charge]
) -> None:
    """Add to `found` the lines of one invoice."""
    new = [Charged(invoice_id, c.key, c.subscription_id, c.period_start, c.period_end, c.amount) for c in due]
    for family in known_families(rows, notes, new).values():
        if all(charge.invoice_id != invoice_id for charge in family.charges):
            continue
        standing = family.standing()
        with exact():
            more = standing.set_off_in_all - standing.set_off
        if more:
            keys = {charge.key for charge in family.charges}
            of_family = [note for row in rows if row["charge_key"] in keys for note in notes.get(row["id"], ())]
            _spread(found, invoice_id, of_family, family.sign, more)


def _spread(found: SetOffs, invoice_id: UUID, notes: Sequence[Any], sign: int, more: Decimal) -> None:
    """Set off `more` against lines of credit notes; where it is negative, take back what was set off."""
    with exact():
        off = [abs(note["set_off"]) for note in notes]
        room = [sign * note["exact_amount"] - before for note, before in zip(notes, off, strict=True)]
        parts = spread(abs(more), room if more > 0 else off)
    for note, part in zip(notes, parts, strict=True):
        if part:
            amount = part if more * sign > 0 else -part
            line = set_off_line(note, amount)
            found.lines.setdefault(invoice_id, []).append(line)
            found.of.append((note["id"], line.id, amount))

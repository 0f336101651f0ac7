"""Reconciles bank statements: each line once, matched by the numbers that payers write, the rest kept for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.payments import store
from services.billing.payments.invoice_state import allocate, find_invoice
from services.billing.payments.matching import Candidate, Match, NoMatch, match, possible_numbers
from services.billing.payments.provider import PaymentReport
from services.billing.payments.recording import record_payment
from services.billing.payments.reports import apply_payment_report
from services.billing.payments.statement import StatementLine, read_statement
from services.billing.payments.store import SQL, Payment
from shared.errors import ConfigurationError
from shared.ids import uuid7
from shared.postgres import Connection


class LineRefused(ConfigurationError):
    """A line cannot be matched so: says why. Nothing was changed."""


@dataclass(slots=True)
class Imported:
    """What an import came to, in lines: `known` were imported before, `ignored` is money going out."""

    lines: int
    known: int = 0
    ignored: int = 0
    matched: list[tuple[StatementLine, Payment]] = field(default_factory=list)
    unmatched: list[tuple[StatementLine, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Order:
    """A package that waits for this transfer."""

    payment_id: UUID
    user_id: UUID


async def import_statement(connection: Connection, text: str, file_name: str, *, actor: str, now: datetime) -> Imported:
    """Import a statement, all of it or nothing; importing it again does nothing. Raises `StatementRefused`."""
    lines = read_statement(text)
    result = Imported(len(lines))
    async with connection.transaction():
        await store.act_as(connection, actor)
        await connection.execute(SQL["lock_imports"])
        decided: list[tuple[UUID, UUID, StatementLine, Match | _Order]] = []
        for line in lines:
            line_id = await _keep(connection, line, file_name, now)
            if line_id is None:
                result.known += 1
            elif line.amount < 0:
                result.ignored += 1
            elif isinstance(found := await _decide(connection, line), NoMatch):
                await connection.execute(SQL["leave_line"], line_id, "unmatched", found.reason)
                result.unmatched.append((line, found.reason))
            else:
                decided.append((found.user_id, line_id, line, found))
        # Customers are locked in the order of their ids, as whoever locks several does.
        for user_id, line_id, line, found in sorted(decided, key=lambda d: (d[0], d[2].booked_on, d[2].line_number)):
            await store.begin(connection, user_id)
            if by_hand := await _recorded_by_hand(connection, user_id, line):
                reason = f"payment {by_hand} of the same amount was recorded by hand: match the line with it, or with the invoice"
                await connection.execute(SQL["leave_line"], line_id, "unmatched", reason)
                result.unmatched.append((line, reason))
                continue
            paid = await _pay(connection, line, line.identity, found)
            await connection.execute(SQL["match_line"], line_id, paid.id, now, actor)
            result.matched.append((line, paid))
    return result


async def _keep(connection: Connection, line: StatementLine, file_name: str, now: datetime) -> UUID | None:
    status, reason = ("ignored", "money going out") if line.amount < 0 else ("unmatched", "just imported")
    found: UUID | None = await connection.fetchval(
        SQL["keep_line"], uuid7(), line.identity, line.booked_on, line.amount, line.currency, line.reference, line.counterparty,
        line.account, line.bank_id, file_name, line.line_number, status, reason, now,
    )  # fmt: skip
    return found


async def _decide(connection: Connection, line: StatementLine) -> Match | _Order | NoMatch:
    names = sorted(possible_numbers(line.reference))
    orders = await connection.fetch(SQL["named_orders"], names)
    if len(orders) == 1:
        order = orders[0]
        if (order["amount"], order["currency"]) == (line.amount, line.currency):
            return _Order(order["id"], order["user_id"])
        wanted = f"{amount_text(order['amount'])} {order['currency']}"
        return NoMatch(f"{order['reference']} asks for {wanted}: this is {amount_text(line.amount)} {line.currency}")
    named = [Candidate(**row) for row in await connection.fetch(SQL["named_invoices"], names)]
    return match(line.currency, named)


async def _recorded_by_hand(connection: Connection, user_id: UUID, line: StatementLine) -> UUID | None:
    found: UUID | None = await connection.fetchval(
        SQL["recorded_by_hand"], user_id, line.amount, line.currency, booked_at(line.booked_on)
    )
    return found


async def _pay(connection: Connection, line: StatementLine | Any, identity: str, found: Match | _Order) -> Payment:
    """Let a line be a payment: of the invoices it names, in their order, or of the package that waits for it."""
    at = booked_at(line.booked_on)
    if isinstance(found, _Order):
        report = PaymentReport("completed", f"statement:{identity}", line.amount, line.currency, found.payment_id)
        applied = await apply_payment_report(connection, "manual", report, at=at)
        assert applied.payment is not None  # noqa: S101 (it was found)
        return applied.payment
    first, *others = found.invoices
    recorded = await record_payment(
        connection,
        first,
        line.amount,
        line.currency,
        provider="manual",
        reference=line.reference or "bank transfer",
        paid_at=at,
        idempotency_key=f"statement:{identity}",
    )
    left = recorded.left_over
    for invoice_id in others:
        left -= await allocate(connection, recorded.payment, invoice_id, left, at=at)
    return await store.payment(connection, recorded.payment.id)


@dataclass(frozen=True, slots=True)
class _Line:
    """A stored line, as `_pay` reads it."""

    booked_on: date
    amount: Decimal
    currency: str
    reference: str


async def match_line(connection: Connection, line_id: UUID, target: str, *, actor: str, now: datetime) -> Payment:
    """Say what a line is: money for an invoice (number or id), or a payment that was recorded by hand (its id). Raises `LineRefused`."""
    async with connection.transaction():
        await store.act_as(connection, actor)
        row = await connection.fetchrow(SQL["lock_line"], line_id)
        if row is None:
            raise LineRefused(f"there is no line {line_id}: 'tallystick payments unmatched' lists them")
        if row["status"] == "matched":
            raise LineRefused(f"line {line_id} is matched already, with payment {row['payment_id']}")
        if row["amount"] < 0:
            raise LineRefused(f"line {line_id} is money going out: it pays nothing")
        paid = await _recorded_payment(connection, target, row)
        if paid is None:
            invoice_id, user_id = await find_invoice(connection, target)
            await store.begin(connection, user_id)
            line = _Line(row["booked_on"], row["amount"], row["currency"], row["reference"])
            paid = await _pay(connection, line, str(line_id), Match(user_id, [invoice_id]))
        await connection.execute(SQL["match_line"], line_id, paid.id, now, actor)
        return paid


async def _recorded_payment(connection: Connection, target: str, line: Any) -> Payment | None:
    """Return the payment that `target` names, if it names one. Raises `LineRefused` if it cannot be the line."""
    try:
        paid = await store.payment(connection, UUID(target))
    except (ValueError, LookupError):
        return None
    if not paid.is_completed or (paid.amount, paid.currency) != (line["amount"], line["currency"]):
        raise LineRefused(
            f"payment {paid.id} is {paid.status}, of {amount_text(paid.amount)} {paid.currency}: "
            f"it is not this line of {amount_text(line['amount'])} {line['currency']}"
        )
    return paid


async def unmatched_lines(connection: Connection, limit: int) -> Sequence[Any]:
    """Return lines that wait for a person, the oldest first."""
    found: Sequence[Any] = await connection.fetch(SQL["unmatched_lines"], limit)
    return found


async def overpaid(connection: Connection, limit: int) -> Sequence[Any]:
    """Return payments of which something is left over, the oldest first."""
    found: Sequence[Any] = await connection.fetch(SQL["overpaid"], limit)
    return found


def booked_at(day: date) -> datetime:
    """Return when a line counts as paid: the start of its day, UTC; a bank tells no time."""
    return datetime.combine(day, time(), UTC)

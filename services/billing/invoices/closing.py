"""Closes a period: for each customer and currency one invoice, issued once, whatever is retried or runs beside it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg
import structlog

from services.billing import metrics
from services.billing.events import INVOICE_ISSUED, billing_event
from services.billing.invoices import store
from services.billing.invoices.fees import fees_due
from services.billing.invoices.invoicing import Invoice, make_invoice
from services.billing.invoices.lines import Fee, Line, fee_line, usage_lines
from services.billing.invoices.store import Customer
from shared.clock import Clock
from shared.errors import BrokenInvariant, TallystickError
from shared.outbox import Message, Outbox
from shared.period import Period
from shared.postgres import Connection, Pool, transaction

log = structlog.get_logger("billing.closing")

CUSTOMERS_AT_ONCE = 50
"""Customers whose invoices are issued in one transaction."""
LANES = 2
"""Transactions that issue invoices beside each other. They meet at the row of the number only, which each takes last."""
NO_TAX = Decimal(0)

Fees = Mapping[Customer, Sequence[Fee]]


class PeriodStillOpen(TallystickError):
    """A period was to be closed before its end and grace have passed: late events are still expected."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms invoices are issued: by which legal entity, payable after how long."""

    entity: str = "default"
    payment: timedelta = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class IssuedInvoice:
    """An invoice that this run issued."""

    id: UUID
    number: str
    user_id: UUID
    currency: str
    total: Decimal
    lines: int


@dataclass(frozen=True, slots=True)
class Closing:
    """What came of closing a period. A customer in `failures` has no invoice yet: close the period again."""

    period: Period
    invoices: list[IssuedInvoice] = field(default_factory=list)
    failures: list[tuple[Customer, str]] = field(default_factory=list)


async def close_period(
    pool: Pool,
    period: Period,
    *,
    clock: Clock,
    grace: timedelta,
    only_user: UUID | None = None,
    terms: Terms | None = None,
) -> Closing:
    """Invoice the postpaid usage and fees of `period`, for all customers or for one. A second run finds nothing left to do.

    Usage from before the period that no invoice has is added as adjustments. Prepaid usage is not concerned: it is settled
    against credits. Raises `PeriodStillOpen` before `period.end + grace`. The customers' transactions are independent.
    """
    if clock.now() < period.end + grace:
        raise PeriodStillOpen(
            f"the period {period} cannot be closed before {(period.end + grace).isoformat()}: late events are still expected. "
            "Wait, or give a shorter grace"
        )
    async with transaction(pool) as connection:
        fees = await _fees(connection, period, only_user)
        customers = sorted({*await store.customers_with_usage(connection, period, only_user), *fees})
    closing = Closing(period)
    run = _Run(pool, clock, period, terms or Terms(), fees, closing)
    chunks = [customers[i : i + CUSTOMERS_AT_ONCE] for i in range(0, len(customers), CUSTOMERS_AT_ONCE)]
    await run.close_all(chunks)
    log.info("period_closed", period=str(period), invoices=len(closing.invoices), failures=len(closing.failures))
    return closing


async def _fees(connection: Connection, period: Period, only_user: UUID | None) -> dict[Customer, list[Fee]]:
    """Return the fees that fall due in the period and were not charged yet."""
    terms = await store.fee_terms(connection, period, only_user)
    due = [(Customer(t.user_id, t.currency), fee) for t in terms for fee in fees_due(t, period)]
    charged = await store.charged_fees(connection, [fee for _, fee in due])
    fees: dict[Customer, list[Fee]] = defaultdict(list)
    for customer, fee in due:
        if (fee.subscription_id, fee.period_start) not in charged:
            fees[customer].append(fee)
    return dict(fees)


@dataclass(slots=True)
class _Run:
    """One run of closing a period; collects what came of it."""

    pool: Pool
    clock: Clock
    period: Period
    terms: Terms
    fees: Fees
    closing: Closing
    outbox: Outbox = field(default_factory=lambda: Outbox("billing_outbox"))

    async def close_all(self, chunks: Sequence[Sequence[Customer]]) -> None:
        """Invoice chunks of customers, some beside each other: while one waits for the database, another is computed."""
        lanes = asyncio.Semaphore(LANES)

        async def close(chunk: Sequence[Customer]) -> None:
            async with lanes:
                await self.close(chunk)

        await asyncio.gather(*(close(chunk) for chunk in chunks))

    async def close(self, customers: Sequence[Customer]) -> None:
        """Invoice some customers together; if that fails, each by itself, so that one cannot hold up the others."""
        try:
            async with transaction(self.pool) as connection:
                issued = await self._issue(connection, customers)
        except (asyncpg.PostgresError, BrokenInvariant) as error:
            if len(customers) > 1:
                for customer in customers:
                    await self.close([customer])
                return
            log.error("closing_failed", user=str(customers[0].user_id), period=str(self.period), error=repr(error))
            metrics.CLOSING_FAILURES.inc()
            self.closing.failures.append((customers[0], str(error)))
            return
        for invoice in issued:
            metrics.count_invoice(invoice.currency, invoice.total)
        self.closing.invoices.extend(issued)

    async def _issue(self, connection: Connection, customers: Sequence[Customer]) -> list[IssuedInvoice]:
        """Draft, claim, write, issue, announce: all of it or nothing."""
        now = self.clock.now()
        drafts = await store.draft(connection, self.period, customers, entity=self.terms.entity)
        lines: dict[UUID, list[Line]] = {id_: [] for id_ in drafts}
        for id_, customer in drafts.items():
            lines[id_] += [fee_line(fee) for fee in self.fees.get(customer, ())]
        for group in await store.claim(connection, self.period, drafts):
            lines[group.invoice_id] += usage_lines(group, self.period)
        await store.discard(connection, [id_ for id_, found in lines.items() if not found])
        invoices = [make_invoice(id_, *drafts[id_], found, tax_rate=NO_TAX) for id_, found in lines.items() if found]
        await store.insert_lines(connection, invoices)
        due = now + self.terms.payment
        numbers = await store.issue(connection, invoices, issued_at=now, due_at=due, tax_rate=NO_TAX)
        issued = [IssuedInvoice(i.id, numbers[i.id], i.user_id, i.currency, i.total, len(i.lines)) for i in invoices]
        await self.outbox.enqueue(connection, [self._announce(i, numbers[i.id]) for i in invoices])
        return issued

    def _announce(self, invoice: Invoice, number: str) -> Message:
        data = {
            "invoice": str(invoice.id),
            "number": number,
            "currency": invoice.currency,
            "total": f"{invoice.total:f}",
            "period_start": self.period.start.isoformat(),
            "period_end": self.period.end.isoformat(),
        }
        return billing_event(INVOICE_ISSUED, invoice.user_id, self.clock.now(), data)

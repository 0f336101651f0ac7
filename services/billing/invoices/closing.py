"""Closes a period: for each customer and currency one invoice, issued once, whatever is retried or runs beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg
import structlog

from services.billing import metrics
from services.billing.credits.grants import apply_grants
from services.billing.customer import Customer
from services.billing.events import INVOICE_ISSUED, billing_event
from services.billing.invoices import store
from services.billing.invoices.composing import claimed_since, compose
from services.billing.invoices.invoicing import Invoice, balanced, exact_sum, make_invoice
from services.billing.invoices.late import give_back
from services.billing.invoices.lines import Line, grant_line
from services.billing.invoices.setting_off import set_offs
from services.billing.invoices.setting_off_charges import set_offs_of_charges
from services.billing.invoices.terms import CustomerTerms, Terms
from services.billing.plans.due import charges_due, take_charges
from shared.clock import Clock
from shared.errors import BrokenInvariant, TallystickError
from shared.money import round_money
from shared.outbox import Message, Outbox
from shared.period import Period
from shared.postgres import Connection, Pool, transaction

log = structlog.get_logger("billing.closing")

CUSTOMERS_AT_ONCE = 50
"""Customers whose invoices are issued in one transaction."""
LANES = 3
"""Transactions that issue invoices beside each other: one is computed here while the others are stored. They meet at the row of the
number only, which each takes last."""


class PeriodStillOpen(TallystickError):
    """A period was to be closed before its end and grace have passed: late events are still expected."""


class _ToBeDeferred(Exception):
    """Invoices of these customers would be over nothing, and they want none: to be undone, and made again without them."""

    def __init__(self, customers: Collection[Customer]) -> None:
        super().__init__(len(customers))
        self.customers = customers


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
    """What came of closing a period. A customer in `failures` has no invoice yet: close the period again.

    One in `deferred` would have had an invoice over nothing, and wants none: what is on it waits for the next one.
    """

    period: Period
    invoices: list[IssuedInvoice] = field(default_factory=list)
    failures: list[tuple[Customer, str]] = field(default_factory=list)
    deferred: list[Customer] = field(default_factory=list)


async def close_period(
    pool: Pool,
    period: Period,
    *,
    clock: Clock,
    grace: timedelta,
    only_user: UUID | None = None,
    terms: Terms | None = None,
) -> Closing:
    """Invoice the postpaid usage and charges of `period`, for all customers or for one. A second run finds nothing left to do.

    Usage from before the period that no invoice has is added as adjustments. Prepaid usage is not concerned: it is settled
    against credits. Raises `PeriodStillOpen` before `period.end + grace`. The customers' transactions are independent.
    """
    if clock.now() < period.end + grace:
        raise PeriodStillOpen(
            f"the period {period} cannot be closed before {(period.end + grace).isoformat()}: late events are still expected. "
            "Wait, or give a shorter grace"
        )
    terms = terms or Terms()
    customers = await customers_of(pool, period, only_user, terms)
    closing = Closing(period)
    chunks = [customers[i : i + CUSTOMERS_AT_ONCE] for i in range(0, len(customers), CUSTOMERS_AT_ONCE)]
    await _Run(pool, clock, period, terms, closing).close_all(chunks)
    log.info("period_closed", period=str(period), invoices=len(closing.invoices), failures=len(closing.failures))
    return closing


async def draft_period(
    pool: Pool, period: Period, *, only_user: UUID | None = None, terms: Terms | None = None
) -> list[UUID]:
    """Begin the invoices of a period that has ended, empty, for everybody who will get one; closing fills and issues them.

    What a draft comes to at present is its preview: late events go into it until the grace is over. Returns the drafts.
    """
    terms = terms or Terms()
    drafts: list[UUID] = []
    customers = await customers_of(pool, period, only_user, terms)
    for start in range(0, len(customers), CUSTOMERS_AT_ONCE):
        async with transaction(pool) as connection:
            chunk = customers[start : start + CUSTOMERS_AT_ONCE]
            drafts += await store.draft(connection, period, chunk, entity=terms.entity)
    return drafts


async def customers_of(pool: Pool, period: Period, only_user: UUID | None, terms: Terms) -> list[Customer]:
    """Return who is to get an invoice for a period and has none, in the order in which everybody locks them."""
    async with transaction(pool) as connection:
        await store.require_entity(connection, terms.entity)
        charges = await charges_due(connection, period, only_user)
        return sorted({*await store.customers_with_usage(connection, period, only_user), *charges})


@dataclass(slots=True)
class _Run:
    """One run of closing a period; collects what came of it."""

    pool: Pool
    clock: Clock
    period: Period
    terms: Terms
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
        except _ToBeDeferred as deferred:
            self.closing.deferred.extend(deferred.customers)
            await self.close([customer for customer in customers if customer not in deferred.customers])
            return
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
        if not customers:
            return []
        now = self.clock.now()
        drafts = await store.draft(connection, self.period, customers, entity=self.terms.entity)
        terms = await store.customer_terms(connection, drafts.values(), self.terms)
        claimed = await store.claim(connection, self.period, drafts)
        off = await set_offs(connection, self.period, drafts, claimed)
        open_ = [group for group in claimed if group.line_id not in off.groups]
        groups, _notes = await give_back(connection, self.period, drafts, open_, terms, at=now)
        groups += [group for group in claimed if group.line_id in off.groups]
        charges = await take_charges(connection, self.period, list(drafts.values()), claimed_since(claimed))
        off.add(await set_offs_of_charges(connection, drafts, charges))
        carried = await store.carried(connection, drafts.values())
        composed = compose(self.period, drafts, groups, charges, carried, set_offs=off.lines)
        lines = {id_: balanced(found) for id_, found in composed.items()}
        await store.discard(connection, [id_ for id_ in drafts if id_ not in lines])
        granted = await store.with_grants(connection, drafts.values())
        for id_ in (id_ for id_ in lines if drafts[id_] in granted):
            lines[id_] += await grants(connection, id_, drafts[id_], lines[id_], now)
        invoices = [_invoice(id_, drafts[id_], found, terms) for id_, found in lines.items()]
        unwanted = {drafts[i.id] for i in invoices if i.total == 0 and not terms[i.user_id].issue_zero_invoices}
        if unwanted:
            raise _ToBeDeferred(unwanted)
        await store.insert_lines(connection, invoices)
        await off.write(connection)
        numbers = await store.issue(connection, invoices, terms, issued_at=now)
        await self.outbox.enqueue(connection, [self._announce(i, numbers[i.id]) for i in invoices])
        return [IssuedInvoice(i.id, numbers[i.id], i.user_id, i.currency, i.total, len(i.lines)) for i in invoices]

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


def _invoice(id_: UUID, customer: Customer, lines: Sequence[Line], terms: dict[UUID, CustomerTerms]) -> Invoice:
    return make_invoice(id_, *customer, lines, tax=terms[customer.user_id].tax)


async def grants(
    connection: Connection, invoice_id: UUID, customer: Customer, lines: Iterable[Line], now: datetime
) -> list[Line]:
    """Use what was granted to a customer for an invoice with these lines; return the lines that take it off."""
    net = round_money(exact_sum(lines), customer.currency)
    applied = await apply_grants(connection, *customer, max(net, Decimal(0)), invoice_id, at=now)
    return [grant_line(grant.name, grant.amount, grant.grant_id) for grant in applied]

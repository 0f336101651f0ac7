"""Which charges of plans fall due in a period, and were not billed yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.billing.customer import Customer
from services.billing.invoices.fees import FeeTerms, fees_due
from services.billing.invoices.lines import Fee
from services.billing.plans.charge import Charge
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.plans")


async def charges_due(
    connection: Connection, period: Period, only_user: UUID | None = None
) -> dict[Customer, list[Charge]]:
    """Return the charges of all customers, or of one, that fall due in `period`. Reads only."""
    terms = [FeeTerms(**row) for row in await connection.fetch(SQL["fee_terms"], period.end, only_user)]
    found: dict[Customer, list[Charge]] = defaultdict(list)
    for term in terms:
        found[Customer(term.user_id, term.currency)] += [_fee(fee) for fee in fees_due(term, period)]
    return await _unbilled(connection, found)


def _fee(fee: Fee) -> Charge:
    return Charge(
        subscription_id=fee.subscription_id,
        kind="fee",
        key=f"fee:{fee.subscription_id}:{fee.period_start:%Y-%m-%dT%H:%M:%SZ}",
        description=f"{fee.name}, from {fee.period_start:%-d %B %Y}",
        quantity=Decimal(1),
        unit="fee",
        unit_price=fee.amount,
        amount=fee.amount,
        period_start=fee.period_start,
        period_end=fee.period_end,
    )


async def _unbilled(connection: Connection, found: Mapping[Customer, Sequence[Charge]]) -> dict[Customer, list[Charge]]:
    charges = [charge for those in found.values() for charge in those]
    rows = await connection.fetch(
        SQL["charged_fees"], [c.subscription_id for c in charges], [c.period_start for c in charges]
    )
    billed = {tuple(row) for row in rows}
    left = {
        customer: [c for c in those if (c.subscription_id, c.period_start) not in billed]
        for customer, those in found.items()
    }
    return {customer: those for customer, those in left.items() if those}


async def take_charges(
    connection: Connection,
    period: Period,
    customers: Sequence[Customer],
    claimed_since: Mapping[UUID, datetime],
) -> dict[Customer, list[Charge]]:
    """Return the charges of customers whose usage has just been claimed by their invoices, in the transaction that issues these.

    `claimed_since` says for each subscription with claimed usage from when on that is: before the period it is late.
    """
    del claimed_since
    wanted = set(customers)
    due = await charges_due(connection, period)
    return {customer: charges for customer, charges in due.items() if customer in wanted}

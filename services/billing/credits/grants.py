"""Grants in money: given to a customer (promotion, refund, compensation, adjustment), used up by invoices.

They are the seeds' table `credits`. Prepaid credits are another unit with grants of their own: docs/decisions/0014.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.billing.credits.burning import AppliedGrant, burn_down
from shared.errors import TallystickError
from shared.ids import uuid7
from shared.money import minor_unit
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.credits", "money.sql")
TYPES = ("promotional", "refund", "compensation", "adjustment")
DEFAULT_PRIORITY = 100


class GrantRefused(TallystickError):
    """A grant that was asked for makes no sense; the message says why."""


async def apply_grants(
    connection: Connection,
    user_id: UUID,
    currency: str,
    amount: Decimal,
    invoice_id: UUID,
    *,
    at: datetime | None = None,
) -> list[AppliedGrant]:
    """Use a user's grants for at most `amount` of an invoice, in the caller's transaction; return what each of them paid.

    In the order of priority, expiry, age; what has expired by `at` (now) pays nothing. A repeated call for an invoice returns
    what the first one applied. All amounts are whole minor units, above zero; their sum is at most `amount`.
    """
    if before := await applied_to(connection, invoice_id):
        return before
    if amount <= 0:
        return []
    rows = await connection.fetch(SQL["open_grants"], user_id, currency, at)
    used = burn_down([AppliedGrant(*row) for row in rows], amount, currency)
    if used:
        await connection.execute(
            SQL["apply"], invoice_id, [grant.grant_id for grant in used], [grant.amount for grant in used]
        )
    return used


async def applied_to(connection: Connection, invoice_id: UUID) -> list[AppliedGrant]:
    """Return what grants pay of an invoice."""
    return [AppliedGrant(*row) for row in await connection.fetch(SQL["applied"], invoice_id)]


async def restore_grants(
    connection: Connection, invoice_id: UUID, only: Sequence[UUID] | None = None
) -> list[AppliedGrant]:
    """Give back to its grants, or `only` to these, what an invoice used of them, because that is taken back. A second call gives back nothing."""
    return [AppliedGrant(*row) for row in await connection.fetch(SQL["restore"], invoice_id, only)]


async def available(connection: Connection, user_id: UUID, currency: str, *, at: datetime | None = None) -> Decimal:
    """Return what a user's grants have left in a currency: for a view of an invoice that is not issued."""
    return Decimal(await connection.fetchval(SQL["available"], user_id, currency, at))


async def give(
    connection: Connection,
    user_id: UUID,
    amount: Decimal,
    currency: str,
    *,
    kind: str,
    reason: str,
    priority: int = DEFAULT_PRIORITY,
    expires_at: datetime | None = None,
) -> UUID:
    """Give money to a user, for their next invoices. Raises `GrantRefused`."""
    if kind not in TYPES:
        raise GrantRefused(f"'{kind}' is not a type of grant in money: it is one of {', '.join(TYPES)}")
    if not (amount.is_finite() and amount > 0) or amount % minor_unit(currency):
        raise GrantRefused(
            f"{amount} {currency} cannot be given: give a positive amount in whole {minor_unit(currency)} {currency}"
        )
    grant_id = uuid7()
    await connection.execute(SQL["grant"], grant_id, user_id, amount, currency, reason, kind, priority, expires_at)
    return grant_id

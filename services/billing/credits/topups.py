"""Automatic top-ups: a balance below its threshold asks for a package to be bought; payments executes what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.credits.purchases import purchase_package
from services.billing.events import CREDITS_TOPUP_REQUESTED, billing_event
from shared.outbox import Outbox
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.credits", "buying.sql")


class Topup(NamedTuple):
    """A package to be bought for a user: `credits` for `price` in `currency`. `id` makes the charge's idempotency key."""

    id: UUID
    user_id: UUID
    package_id: UUID
    credits: Decimal
    price: Decimal
    currency: str


async def request(
    connection: Connection, outbox: Outbox, at: datetime, users: Sequence[UUID] | None = None
) -> list[Topup]:
    """Ask for the packages of accounts below their threshold, of `users` or of all, and announce it; return what is new.

    One request of a user is open at a time; there are at most `auto_topup_limit` in a billing cycle, and none within a day of
    one that failed, nor after three that failed in a row until it is set anew.
    """
    asked = [Topup(*row) for row in await connection.fetch(SQL["request_topups"], users, at)]
    await outbox.enqueue(
        connection,
        [
            billing_event(
                CREDITS_TOPUP_REQUESTED,
                topup.user_id,
                at,
                {
                    "topup": str(topup.id),
                    "package": str(topup.package_id),
                    "credits": amount_text(topup.credits),
                    "price": amount_text(topup.price),
                    "currency": topup.currency,
                },
            )
            for topup in asked
        ],
    )
    return asked


async def claim_topups(connection: Connection, limit: int = 10) -> list[Topup]:
    """Return open requests, the oldest first, locked for this transaction; those that another worker has are passed over."""
    return [Topup(*row) for row in await connection.fetch(SQL["claim_topups"], limit)]


async def complete_topup(connection: Connection, topup_id: UUID, payment_id: UUID, at: datetime) -> Decimal:
    """Add the credits that a completed payment bought, and close the request; return the new balance. Repeated, it changes nothing."""
    topup = Topup(*await connection.fetchrow(SQL["topup"], topup_id))
    balance = await purchase_package(connection, topup.user_id, topup.package_id, payment_id)
    await connection.execute(SQL["complete_topup"], topup_id, payment_id, at)
    return balance


async def fail_topup(connection: Connection, topup_id: UUID, reason: str, at: datetime) -> None:
    """Close a request that could not be paid. The next is made a day later, if the balance still is below the threshold."""
    await connection.execute(SQL["fail_topup"], topup_id, reason, at)

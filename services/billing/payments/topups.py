"""Executes automatic top-ups that prepaid credits ask for: charges the customer's method, once per request."""

from __future__ import annotations

from typing import Final

import structlog

from services.billing.credits.topups import Topup, claim_topups, complete_topup, fail_topup
from services.billing.payments import store
from services.billing.payments.charging import CHARGING, ask_charge
from services.billing.payments.providers import Providers
from services.billing.payments.store import SQL, Payment, as_row
from shared.clock import Clock
from shared.postgres import Connection, Pool, transaction

log = structlog.get_logger("billing.payments")

AT_ONCE: Final = 50
"""Requests that one look takes."""


async def execute_topups(pool: Pool, providers: Providers, *, clock: Clock) -> dict[str, int]:
    """Charge what is asked for, and close the requests whose payment has an end; return counts.

    A request whose payment is under way stays open until the payment has an end. Without a method to charge it fails, and credits
    asks again a day later.
    """
    begun, _ = await _look(pool, providers, clock=clock)
    for payment in begun:
        await ask_charge(pool, providers, payment, clock=clock)
    _, closed = await _look(pool, providers, clock=clock)
    return closed


async def _look(pool: Pool, providers: Providers, *, clock: Clock) -> tuple[list[Payment], dict[str, int]]:
    """Go through the open requests: begin the payments of new ones, close those that have an end. The claim lets one worker at a time."""
    begun: list[Payment] = []
    closed = {"completed": 0, "failed": 0, "under way": 0}
    async with transaction(pool) as connection:
        for topup in sorted(await claim_topups(connection, AT_ONCE), key=lambda topup: topup.user_id):
            await store.begin(connection, topup.user_id)
            payment, new = await _payment_of(connection, providers, topup, clock=clock)
            if payment is None:
                await fail_topup(
                    connection, topup.id, "the customer has no payment method that can be charged", clock.now()
                )
                closed["failed"] += 1
            elif payment.status == "failed":
                await fail_topup(connection, topup.id, payment.failure_reason or "the payment failed", clock.now())
                closed["failed"] += 1
            elif payment.is_completed:
                await complete_topup(connection, topup.id, payment.id, clock.now())
                closed["completed"] += 1
            else:
                closed["under way"] += 1
                if new:
                    begun.append(payment)
    return begun, closed


async def _payment_of(
    connection: Connection, providers: Providers, topup: Topup, *, clock: Clock
) -> tuple[Payment | None, bool]:
    """Return the payment of a request, and whether it was begun now; None if there is no method to charge."""
    key = f"topup:{topup.id}"
    if known := as_row(Payment, await connection.fetchrow(SQL["payment_of_key"], key)):
        return known, False
    method = await connection.fetchrow(SQL["chargeable_method"], topup.user_id, CHARGING)
    if method is None:
        return None, False
    providers.require(method["provider"])
    made = await store.add_payment(
        connection,
        user_id=topup.user_id,
        amount=topup.price,
        currency=topup.currency,
        provider=method["provider"],
        at=clock.now(),
        key=key,
        package_id=topup.package_id,
        method_id=method["id"],
    )
    return made, True

"""Asks providers for money: stores what is asked for, asks with a key that makes asking again harmless, stores the answer.

A crash anywhere leaves a payment that is open; `resolve_open` asks about it until it has an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from services.billing.credits.purchases import offer
from services.billing.payments import store
from services.billing.payments.invoice_state import apply_leftovers, find_invoice, lock_invoice, owed
from services.billing.payments.methods import customer_of
from services.billing.payments.provider import (
    ChargeRequest,
    CheckoutRequest,
    NotConfigured,
    PaymentReport,
    ProviderName,
    ProviderRefused,
    ProviderUnavailable,
)
from services.billing.payments.providers import Providers
from services.billing.payments.reports import Contradiction, apply_payment_report
from services.billing.payments.state import checked_amount
from services.billing.payments.store import SQL, Payment, as_row
from shared.clock import Clock
from shared.errors import ConfigurationError, KeyReused
from shared.postgres import Connection, Pool, transaction

log = structlog.get_logger("billing.payments")

CHARGING: Final[Sequence[ProviderName]] = ("stripe",)
"""Providers that can charge a stored method."""
ASK_AGAIN_AFTER: Final = timedelta(minutes=5)
GIVE_UP_AFTER: Final = timedelta(days=2)
"""A page is open for a day at most; what has no answer after this was never made."""
AT_ONCE: Final = 50
"""Payments that one look asks about."""


class NothingToCharge(ConfigurationError):
    """An invoice cannot be charged now: nothing to pay, a charge under way, or no method. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Page:
    """Where a customer pays for a package: `url` of the provider's page, or for a bank transfer the reference to write."""

    payment: Payment
    url: str
    reference: str


async def start_checkout(
    pool: Pool,
    providers: Providers,
    user_id: UUID,
    package: str,
    *,
    clock: Clock,
    key: str | None = None,
    actor: str | None = None,
) -> Page:
    """Let a user buy a package: stores the payment, and makes the page on which it is paid. The same key gives the same page.

    Raises `credits.purchases.NotForSale`, `UnknownCustomer`, `KeyReused`, and the port's errors; the payment then stays open and is given
    up later.
    """
    provider = providers.preferred
    customer = await customer_of(pool, provider, user_id)
    async with transaction(pool) as connection:
        await store.act_as(connection, actor)
        await store.begin(connection, user_id)
        made = as_row(Payment, await connection.fetchrow(SQL["payment_of_key"], key)) if key else None
        chosen = await offer(connection, user_id, package)
        if made is not None and (made.user_id, made.package_id) != (user_id, chosen.id):
            raise KeyReused(f"the key '{key}' was used for another payment: take a new one")
        made = made or await store.add_payment(
            connection,
            user_id=user_id,
            amount=checked_amount(chosen.price, chosen.currency),
            currency=chosen.currency,
            provider=provider.name,
            at=clock.now(),
            key=key,
            package_id=chosen.id,
        )
    settings = providers.settings
    page = await provider.create_checkout(
        CheckoutRequest(
            payment_id=made.id,
            customer_id=customer,
            amount=made.amount,
            currency=made.currency,
            description=chosen.name,
            success_url=settings.payment_success_url,
            cancel_url=settings.payment_cancel_url,
        )
    )
    async with transaction(pool) as connection:
        await store.act_as(connection, actor)
        await store.begin(connection, user_id)
        report = PaymentReport("pending", page.transaction_id, None, None, made.id, page.id)
        await connection.execute(SQL["note_page"], made.id, page.id, page.url, None)
        applied = await apply_payment_report(connection, provider.name, report, at=clock.now())
    return Page(applied.payment or made, page.url, page.id)


async def charge_invoice(
    pool: Pool, providers: Providers, invoice: str, *, key: str, clock: Clock, actor: str | None = None
) -> Payment:
    """Charge what an invoice (number or id) asks for to its customer's default method, once per key; return the payment as it stands.

    `actor` is who asked for it, for the audit trail. Raises `NothingToCharge` and `UnknownInvoice`.
    """
    async with transaction(pool) as connection:
        invoice_id, user_id = await find_invoice(connection, invoice)
        await store.act_as(connection, actor)
        await store.begin(connection, user_id)
        made = as_row(Payment, await connection.fetchrow(SQL["payment_of_key"], key))
        if made is None:
            await apply_leftovers(connection, invoice_id, at=clock.now())
            made = await begin_charge(connection, providers, invoice_id, key=key, at=clock.now())
        elif made.invoice_id != invoice_id:
            raise KeyReused(f"the key '{key}' was used for another payment: take a new one")
    return await ask_charge(pool, providers, made, clock=clock)


async def begin_charge(
    connection: Connection, providers: Providers, invoice_id: UUID, *, key: str, at: datetime
) -> Payment:
    """Store a charge of all that an invoice asks for, whose customer is locked. Raises `NothingToCharge` and `NotConfigured`."""
    row = await lock_invoice(connection, invoice_id)
    amount, name = owed(row).outstanding, row["number"] or invoice_id
    if amount == 0:
        raise NothingToCharge(f"invoice {name} is {row['status']}: there is nothing to pay")
    if await connection.fetchval(SQL["open_charge"], invoice_id):
        raise NothingToCharge(f"a payment of invoice {name} is under way: wait for its end")
    method = await connection.fetchrow(SQL["chargeable_method"], row["user_id"], CHARGING)
    if method is None:
        raise NothingToCharge(f"the customer of invoice {name} has no payment method that can be charged")
    providers.require(method["provider"])
    return await store.add_payment(
        connection,
        user_id=row["user_id"],
        amount=amount,
        currency=row["currency"],
        provider=method["provider"],
        at=at,
        key=key,
        invoice_id=invoice_id,
        method_id=method["id"],
    )


async def ask_charge(pool: Pool, providers: Providers, made: Payment, *, clock: Clock, again: bool = False) -> Payment:
    """Ask the provider for a stored charge, and store its answer. Without one the payment stays open. Repeated, it charges once."""
    if made.status not in ("pending", "processing") or made.method_id is None:
        return made
    async with pool.acquire() as connection:
        method = await connection.fetchrow(SQL["method"], made.method_id)
    request = ChargeRequest(
        payment_id=made.id,
        customer_id=method["customer_id"],
        method_id=method["provider_method_id"],
        amount=made.amount,
        currency=made.currency,
        description=f"Invoice {made.invoice_id}" if made.invoice_id else "Credits",
        again=again,
    )
    try:
        report = await providers[made.provider].charge(request)
    except (ProviderUnavailable, NotConfigured) as error:
        log.warning("charge_unanswered", payment=str(made.id), error=str(error), then="it is asked about again")
        return made
    except ProviderRefused as error:
        report = PaymentReport("failed", None, None, None, made.id, reason=str(error))
    return await _apply(pool, made, report, clock=clock)


async def resolve_open(pool: Pool, providers: Providers, *, clock: Clock) -> dict[str, int]:
    """Ask about payments that are open for a while, and let our books say what the provider answers; return counts."""
    now = clock.now()
    async with transaction(pool) as connection:
        rows = await connection.fetch(SQL["open_payments"], now - ASK_AGAIN_AFTER, AT_ONCE, now)
    ended = 0
    for row in rows:
        known = as_row(Payment, row)
        assert known is not None  # noqa: S101 (it is a row)
        try:
            after = await _resolve(pool, providers, known, clock=clock)
        except (ProviderUnavailable, NotConfigured, ProviderRefused, Contradiction) as error:
            log.warning("payment_unresolved", payment=str(known.id), error=str(error), then="it is asked about again")
            continue
        ended += after.status not in ("pending", "processing")
    return {"asked": len(rows), "ended": ended}


async def _resolve(pool: Pool, providers: Providers, known: Payment, *, clock: Clock) -> Payment:
    if known.provider_transaction_id or known.provider_checkout_id:
        report = await providers[known.provider].fetch(known.provider_transaction_id, known.provider_checkout_id)
        return await _apply(pool, known, report, clock=clock) if report else known
    if known.method_id is not None:
        return await ask_charge(pool, providers, known, clock=clock, again=True)
    if clock.now() - known.created_at > GIVE_UP_AFTER:
        never = PaymentReport("failed", None, None, None, known.id, reason="the page to pay on was never made")
        return await _apply(pool, known, never, clock=clock)
    return known


async def _apply(pool: Pool, known: Payment, report: PaymentReport, *, clock: Clock) -> Payment:
    async with transaction(pool) as connection:
        # By our id: the answer to a call of ours is about the payment that we called for.
        ours = PaymentReport(
            report.status,
            report.transaction_id,
            report.amount,
            report.currency,
            known.id,
            report.checkout_id,
            report.reason,
        )
        applied = await apply_payment_report(connection, known.provider, ours, at=clock.now())
    return applied.payment or known

"""Gives money back: stores the refund, asks the provider with a key of its own, stores the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from uuid import UUID

import structlog

from services.billing.amounts import amount_text
from services.billing.payments import store
from services.billing.payments.charging import ASK_AGAIN_AFTER, AT_ONCE
from services.billing.payments.provider import (
    NotConfigured,
    ProviderRefused,
    ProviderUnavailable,
    RefundReport,
    RefundRequest,
)
from services.billing.payments.providers import Providers
from services.billing.payments.refunding import TooMuch, apply_refund_report
from services.billing.payments.state import checked_amount, refundable
from services.billing.payments.store import SQL, Payment, Refund, as_row
from shared.clock import Clock
from shared.errors import ConfigurationError, KeyReused, NotFound
from shared.ids import uuid7
from shared.postgres import Connection, Pool, transaction

log = structlog.get_logger("billing.payments")


class RefundRefused(ConfigurationError):
    """A refund cannot be made: says why. Nothing was changed, and nobody was asked."""


class NoSuchPayment(NotFound, RefundRefused):
    """There is no such payment to give back."""


@dataclass(frozen=True, slots=True)
class Refunded:
    """A refund as it stands: pending until the provider has made it. `left` of the payment can still be given back."""

    refund: Refund
    payment: Payment
    left: Decimal


async def refund_payment(
    pool: Pool,
    providers: Providers,
    payment_id: UUID,
    amount: Decimal | None,
    *,
    reason: str,
    key: str | None,
    clock: Clock,
    actor: str | None = None,
) -> Refunded:
    """Give back `amount` of a payment, or all that is left of it (None), once per key.

    Never more than came: the customer is locked while it is compared. Raises `RefundRefused`, `KeyReused`, `AmountRefused` (too many digits),
    `NotConfigured` and `ProviderRefused`; when the provider does not answer the refund stays pending and is asked for again.
    """
    async with transaction(pool) as connection:
        refund, paid = await _begin(connection, payment_id, amount, reason=reason, key=key, clock=clock, actor=actor)
        providers.require(paid.provider)
    if refund.status == "pending":
        await ask_refund(pool, providers, refund, paid, clock=clock, actor=actor)
    async with pool.acquire() as connection:
        return await _as_it_stands(connection, refund.id)


async def _begin(
    connection: Connection,
    payment_id: UUID,
    amount: Decimal | None,
    *,
    reason: str,
    key: str | None,
    clock: Clock,
    actor: str | None,
) -> tuple[Refund, Payment]:
    try:
        known = await store.payment(connection, payment_id)
    except LookupError as error:
        raise NoSuchPayment(f"{error}: 'tallystick payments list' shows them") from None
    await store.act_as(connection, actor)
    await store.begin(connection, known.user_id)
    known = await store.payment(connection, payment_id)
    if key and (earlier := as_row(Refund, await connection.fetchrow(SQL["refund_of_key"], key))):
        if earlier.payment_id != payment_id or amount not in (None, earlier.amount):
            raise KeyReused(f"the key '{key}' was used for another refund: take a new one")
        return earlier, known
    wanted = await _checked(connection, known, amount)
    row = await connection.fetchrow(
        SQL["begin_refund"],
        uuid7(),
        known.id,
        wanted,
        known.currency,
        reason,
        known.provider,
        None,
        key,
        clock.now(),
        "refund",
    )
    refund = as_row(Refund, row)
    assert refund is not None  # noqa: S101 (it was just inserted)
    await store.tell_refund(connection, known, refund)
    return refund, known


async def _checked(connection: Connection, known: Payment, amount: Decimal | None) -> Decimal:
    """Return how much to give back. Raises `RefundRefused` if it is more than is left."""
    if not known.is_completed:
        raise RefundRefused(f"payment {known.id} is {known.status}: only money that came can be given back")
    refunds = await connection.fetch(SQL["refunds_of"], known.id)
    left = refundable(known.amount, [(refund["amount"], refund["status"]) for refund in refunds])
    wanted = left if amount is None else checked_amount(amount, known.currency)
    if wanted > left or left == 0:
        raise RefundRefused(
            f"of payment {known.id} ({amount_text(known.amount)} {known.currency}) {amount_text(left)} are left to give back, "
            f"not {amount_text(wanted)}"
            if left
            else f"payment {known.id} was given back already, all of it"
        )
    return wanted


async def ask_refund(
    pool: Pool,
    providers: Providers,
    refund: Refund,
    paid: Payment,
    *,
    clock: Clock,
    again: bool = False,
    actor: str | None = None,
) -> None:
    """Ask the provider for a stored refund, and store its answer. Raises `ProviderRefused`, after it was stored as failed."""
    request = RefundRequest(
        refund_id=refund.id,
        transaction_id=paid.provider_transaction_id or "",
        amount=refund.amount,
        currency=refund.currency,
        reason=refund.reason,
        again=again,
    )
    refused: ProviderRefused | None = None
    try:
        report = replace(await providers[paid.provider].refund(request), refund_id=refund.id)
    except (ProviderUnavailable, NotConfigured) as error:
        log.warning("refund_unanswered", refund=str(refund.id), error=str(error), then="it is asked for again")
        return
    except ProviderRefused as error:
        refused = error
        name = f"refused-{refund.id}"
        report = RefundReport(
            name, request.transaction_id, refund.amount, refund.currency, "failed", refund.id, str(error)
        )
    async with transaction(pool) as connection:
        await store.act_as(connection, actor)
        await store.begin(connection, paid.user_id)
        await apply_refund_report(connection, await store.payment(connection, paid.id), report, at=clock.now())
    if refused is not None:
        raise refused


async def resolve_refunds(pool: Pool, providers: Providers, *, clock: Clock) -> dict[str, int]:
    """Ask again for refunds that have no end yet; return counts."""
    now, ended = clock.now(), 0
    async with transaction(pool) as connection:
        rows = await connection.fetch(SQL["open_refunds"], now - ASK_AGAIN_AFTER, AT_ONCE, now)
    for row in rows:
        refund = as_row(Refund, row)
        assert refund is not None  # noqa: S101 (it is a row)
        async with pool.acquire() as connection:
            paid = await store.payment(connection, refund.payment_id)
        try:
            await ask_refund(pool, providers, refund, paid, clock=clock, again=True)
        except (ProviderRefused, TooMuch) as error:
            log.error("refund_failed", refund=str(refund.id), error=str(error))
        async with pool.acquire() as connection:
            ended += (await _as_it_stands(connection, refund.id)).refund.status != "pending"
    return {"asked": len(rows), "ended": ended}


async def _as_it_stands(connection: Connection, refund_id: UUID) -> Refunded:
    refund = as_row(Refund, await connection.fetchrow(SQL["refund"], refund_id))
    assert refund is not None  # noqa: S101 (refunds are never deleted)
    refunds = await connection.fetch(SQL["refunds_of"], refund.payment_id)
    paid = await store.payment(connection, refund.payment_id)
    return Refunded(refund, paid, refundable(paid.amount, [(r["amount"], r["status"]) for r in refunds]))

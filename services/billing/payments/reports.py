"""What becomes of our books when a provider tells of a payment or a refund: in any order, as often as it likes.

Everything here runs in the caller's transaction, and takes the lock of the customer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import asyncpg
import msgspec

from services.billing.amounts import amount_text
from services.billing.credits.purchases import purchase_package
from services.billing.events import PAYMENT_FAILED
from services.billing.payments import store
from services.billing.payments.disputes import apply_dispute_report
from services.billing.payments.invoice_state import allocate
from services.billing.payments.provider import DisputeReport, MoneyReport, PaymentReport, ProviderName, RefundReport
from services.billing.payments.refunding import apply_refund_report
from services.billing.payments.state import joined_payment
from services.billing.payments.store import SQL, Payment, as_row
from shared.errors import TallystickError
from shared.postgres import Connection

BUYS_NOTHING = ("TS002", "TS004", "TS005")
"""How purchase_credit_package says that a payment does not buy a package."""


class Contradiction(TallystickError):
    """What is told cannot be of the payment it names (amount, currency, another id). Nothing was changed: a person has to look."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a report came to. `payment` None: nobody knows the payment (yet)."""

    payment: Payment | None
    changed: bool = False


async def apply_payment_report(
    connection: Connection, provider: ProviderName, report: PaymentReport, *, at: datetime
) -> Applied:
    """Let our books say what a provider tells of a payment; events that waited for it follow. Raises `Contradiction`."""
    found = await _find(connection, provider, report)
    if found is None:
        return Applied(None)
    await store.begin(connection, found.user_id)
    known = await store.payment(connection, found.id)
    _refuse_contradiction(known, report)
    status = joined_payment(known.status, report.status)
    now = known
    if status != known.status or _names_more(known, report):
        now = await complete(connection, known, replace(report, status=status), at=at)
    if now.provider_transaction_id != known.provider_transaction_id:
        await _apply_waiting(connection, now, at=at)
        now = await store.payment(connection, now.id)
    return Applied(now, changed=status != known.status)


async def complete(connection: Connection, known: Payment, report: PaymentReport, *, at: datetime) -> Payment:
    """Store what is known of a payment now, and what follows: it pays its invoice or buys its package, or its failure is told."""
    came = report.status == "completed"
    reason = (report.reason or "the payment was declined") if report.status == "failed" else None
    row = await connection.fetchrow(
        SQL["change_payment"], known.id, report.status, report.transaction_id, report.checkout_id, reason, at if came else None
    )  # fmt: skip
    now = as_row(Payment, row)
    assert now is not None  # noqa: S101 (it is locked)
    await store.tell_payment(connection, now)
    if came and not known.is_completed:
        await use(connection, now, at=at)
    if report.status == "failed" and known.status != "failed":
        await _tell_failure(connection, now, at=at)
    return now


async def use(connection: Connection, paid: Payment, *, at: datetime) -> None:
    """Let money that came pay what it was for; an invoice that is paid already leaves it to the customer."""
    if paid.package_id:
        await _buy(connection, paid, paid.package_id)
    elif paid.invoice_id:
        await allocate(connection, paid, paid.invoice_id, paid.amount, at=at)


async def _buy(connection: Connection, paid: Payment, package_id: UUID) -> None:
    """Add the credits of a package. A package that the payment does not buy (its currency was changed meanwhile) is a contradiction."""
    try:
        async with connection.transaction():
            await purchase_package(connection, paid.user_id, package_id, paid.id)
    except asyncpg.PostgresError as error:
        if error.sqlstate not in BUYS_NOTHING:
            raise
        raise Contradiction(f"payment {paid.id} came, but buys nothing: {error}") from error


async def _tell_failure(connection: Connection, failed: Payment, *, at: datetime) -> None:
    facts = {
        "payment": str(failed.id),
        "invoice": str(failed.invoice_id) if failed.invoice_id else None,
        "package": str(failed.package_id) if failed.package_id else None,
        "provider": failed.provider,
        "amount": amount_text(failed.amount),
        "currency": failed.currency,
        "reason": failed.failure_reason,
    }
    message = f"A payment of {amount_text(failed.amount)} {failed.currency} failed: {failed.failure_reason}."
    await store.alert(
        connection,
        failed.user_id,
        "payment_failed",
        cause=f"payment {failed.id}",
        message=message,
        value=failed.amount,
        facts=facts,
    )
    await store.announce(connection, PAYMENT_FAILED, failed.user_id, at, facts)


async def _find(connection: Connection, provider: ProviderName, report: PaymentReport) -> Payment | None:
    row = await connection.fetchrow(
        SQL["find_payment"], provider, report.payment_id, report.transaction_id, report.checkout_id
    )
    return as_row(Payment, row)


def _names_more(known: Payment, report: PaymentReport) -> bool:
    return (known.provider_transaction_id is None and report.transaction_id is not None) or (
        known.provider_checkout_id is None and report.checkout_id is not None
    )


def _refuse_contradiction(known: Payment, report: PaymentReport) -> None:
    named = f"payment {known.id} is of {amount_text(known.amount)} {known.currency}"
    if report.currency is not None and report.currency != known.currency:
        raise Contradiction(f"{named}, but {known.provider} tells of {report.currency}")
    if report.status == "completed" and report.amount is not None and report.amount != known.amount:
        raise Contradiction(f"{named}, but {known.provider} tells that {amount_text(report.amount)} came")
    if known.provider_transaction_id and report.transaction_id not in (None, known.provider_transaction_id):
        raise Contradiction(
            f"{named} and is {known.provider_transaction_id}, but {known.provider} calls it {report.transaction_id}"
        )


async def apply_report(connection: Connection, provider: ProviderName, report: MoneyReport, *, at: datetime) -> Applied:
    """Let our books say what a provider tells of a payment, a refund or a dispute. Raises `Contradiction`."""
    if isinstance(report, PaymentReport):
        return await apply_payment_report(connection, provider, report, at=at)
    return await _apply_return(connection, provider, report, at=at)


async def _apply_return(
    connection: Connection, provider: ProviderName, report: RefundReport | DisputeReport, *, at: datetime
) -> Applied:
    """A refund or a dispute says that the payment had come, whatever else was told."""
    evidence = PaymentReport("completed", report.transaction_id, None, report.currency)
    applied = await apply_payment_report(connection, provider, evidence, at=at)
    if applied.payment is None:
        return applied
    try:
        if isinstance(report, RefundReport):
            changed = await apply_refund_report(connection, applied.payment, report, at=at)
        else:
            changed = await apply_dispute_report(connection, applied.payment, report, at=at)
    except (LookupError, asyncpg.CheckViolationError) as error:
        name = (
            f"refund {report.provider_refund_id}"
            if isinstance(report, RefundReport)
            else f"dispute {report.provider_dispute_id}"
        )
        raise Contradiction(f"{name} of payment {applied.payment.id}: {error}") from error
    return Applied(await store.payment(connection, applied.payment.id), changed or applied.changed)


async def _apply_waiting(connection: Connection, paid: Payment, *, at: datetime) -> None:
    """Apply what was told of a payment before we knew what the provider calls it."""
    name = paid.provider_transaction_id
    await connection.execute(SQL["lock_transaction"], f"{paid.provider} {name}")
    for row in await connection.fetch(SQL["waiting_events"], paid.provider, name):
        report = decode_report(row["report"])
        outcome: Literal["applied", "nothing", "refused"]
        detail = None
        try:
            async with connection.transaction():
                applied = await apply_report(connection, paid.provider, report, at=at)
            outcome = "applied" if applied.changed else "nothing"
        except Contradiction as contradiction:
            outcome, detail = "refused", str(contradiction)
        await connection.execute(
            SQL["judge_event"], paid.provider, row["event_id"], outcome, detail, paid.id, name, None
        )


_KINDS: Final[dict[str, type[MoneyReport]]] = {
    "payment": PaymentReport,
    "refund": RefundReport,
    "dispute": DisputeReport,
}


def encode_report(report: MoneyReport) -> str:
    """Return a report as JSON, to be kept until its payment is known."""
    kind = next(name for name, type_ in _KINDS.items() if isinstance(report, type_))
    return msgspec.json.encode((kind, report)).decode()


def decode_report(text: str) -> MoneyReport:
    """Return a report that was kept."""
    kind, kept = msgspec.json.decode(text, type=tuple[str, msgspec.Raw])
    return msgspec.json.decode(kept, type=_KINDS[kind])

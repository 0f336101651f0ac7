"""What Stripe's objects say in our words (pure): payment intents, checkout sessions, refunds, payment methods.

Objects are the JSON of Stripe's API as plain dictionaries, whether an answer or a webhook brought them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from services.billing.payments.provider import (
    DisputeReport,
    DisputeStatus,
    Funds,
    MethodReport,
    PaymentReport,
    PaymentStatus,
    RefundReport,
    RefundStatus,
    Report,
)
from shared.money import exact, minor_unit

PAYMENT_KEY: Final = "tallystick_payment"
REFUND_KEY: Final = "tallystick_refund"
"""Metadata by which Stripe gives our ids back."""

_DIGITS: Final = {"ISK": 2, "UGX": 2, "MGA": 0}
"""Where Stripe counts other minor units than ISO 4217 (shared.money.MINOR_UNITS)."""
_INTENT: Final[dict[str, PaymentStatus]] = {
    "succeeded": "completed",
    "processing": "processing",
    "requires_capture": "processing",
    "canceled": "failed",
}
_REFUND: Final[dict[str, RefundStatus]] = {"succeeded": "completed", "failed": "failed", "canceled": "failed"}
_DISPUTE: Final[dict[str, DisputeStatus]] = {"won": "won", "warning_closed": "won", "prevented": "won", "lost": "lost"}
_METHOD_TYPES: Final[dict[str, Literal["card", "bank_account", "sepa"]]] = {
    "card": "card", "sepa_debit": "sepa", "us_bank_account": "bank_account", "bacs_debit": "bank_account",
    "au_becs_debit": "bank_account", "acss_debit": "bank_account",
}  # fmt: skip
_SESSION_EVENTS: Final[dict[str, PaymentStatus]] = {
    "checkout.session.async_payment_succeeded": "completed",
    "checkout.session.async_payment_failed": "failed",
    "checkout.session.expired": "failed",
}

Object = Mapping[str, Any]


def to_minor_units(amount: Decimal, currency: str) -> int:
    """Return an amount as the whole number that Stripe takes. Raises `ValueError` if it has more digits than Stripe counts."""
    with exact():
        units = amount / _unit(currency)
    if units != units.to_integral_value():
        raise ValueError(f"{amount} {currency} has more digits than Stripe takes")
    return int(units)


def of_minor_units(units: int, currency: str) -> Decimal:
    """Return the amount that a whole number of Stripe's means."""
    with exact():
        return Decimal(units) * _unit(currency.upper())


def _unit(currency: str) -> Decimal:
    return Decimal(1).scaleb(-_DIGITS[currency]) if currency in _DIGITS else minor_unit(currency)


def intent_report(intent: Object, kind: str = "") -> PaymentReport:
    """Read a payment intent; `kind` is the event that brought it, if one did."""
    error, currency = intent.get("last_payment_error") or {}, intent["currency"].upper()
    status: PaymentStatus = _INTENT.get(intent["status"], "pending")
    if kind == "payment_intent.payment_failed" or (intent["status"] == "requires_payment_method" and error):
        status = "failed"
    units = intent["amount_received"] if status == "completed" else intent["amount"]
    return PaymentReport(
        status=status,
        transaction_id=intent["id"],
        amount=of_minor_units(units, currency),
        currency=currency,
        payment_id=_our_id(intent, PAYMENT_KEY),
        reason=failure_reason(error, intent.get("cancellation_reason")) if status == "failed" else None,
    )


def off_session_report(intent: Object) -> PaymentReport:
    """Read a payment intent that was confirmed without the customer: one that waits for the customer has failed."""
    report = intent_report(intent)
    if report.status != "pending":
        return report
    return replace(report, status="failed", reason="authentication_required: the bank wants the customer to confirm it")


def session_report(session: Object, kind: str = "") -> PaymentReport:
    """Read a checkout session: paid, waiting for a slow method, expired, or still open."""
    status: PaymentStatus = _SESSION_EVENTS.get(kind, "pending")
    if session["payment_status"] in ("paid", "no_payment_required"):
        status = "completed"
    elif session.get("status") == "expired":
        status = "failed"
    elif session.get("status") == "complete" and status == "pending":
        status = "processing"
    currency = session["currency"].upper() if session.get("currency") else None
    units = session.get("amount_total")
    intent = session.get("payment_intent")
    reasons = {"checkout.session.async_payment_failed": "the payment was declined later on"}
    return PaymentReport(
        status=status,
        transaction_id=intent["id"] if isinstance(intent, Mapping) else intent,
        amount=of_minor_units(units, currency) if units is not None and currency else None,
        currency=currency,
        payment_id=_our_id(session, PAYMENT_KEY),
        checkout_id=session["id"],
        reason=reasons.get(kind, "the customer did not pay while the page was open") if status == "failed" else None,
    )


def refund_report(refund: Object) -> RefundReport | None:
    """Read a refund; None for one of a charge that no payment intent of ours made."""
    intent, currency = refund.get("payment_intent"), refund["currency"].upper()
    if not intent:
        return None
    status = _REFUND.get(refund.get("status") or "", "pending")
    return RefundReport(
        provider_refund_id=refund["id"],
        transaction_id=intent["id"] if isinstance(intent, Mapping) else intent,
        amount=of_minor_units(refund["amount"], currency),
        currency=currency,
        status=status,
        refund_id=_our_id(refund, REFUND_KEY),
        reason=(refund.get("failure_reason") or "the bank did not take it") if status == "failed" else None,
    )


def dispute_report(dispute: Object, kind: str = "") -> DisputeReport | None:
    """Read a dispute; `kind` is the event that brought it. None for one of a charge that no payment intent of ours made."""
    intent, currency = dispute.get("payment_intent"), dispute["currency"].upper()
    if not intent:
        return None
    moved = {entry["amount"] >= 0 for entry in dispute.get("balance_transactions") or ()}
    funds: Funds = "with_us"
    if kind.endswith(".funds_reinstated") or True in moved:
        funds = "reinstated"
    elif kind.endswith(".funds_withdrawn") or False in moved:
        funds = "withdrawn"
    due = (dispute.get("evidence_details") or {}).get("due_by")
    return DisputeReport(
        provider_dispute_id=dispute["id"],
        transaction_id=intent["id"] if isinstance(intent, Mapping) else intent,
        amount=of_minor_units(dispute["amount"], currency),
        currency=currency,
        status=_DISPUTE.get(dispute.get("status") or "", "open"),
        funds=funds,
        reason=dispute.get("reason") or "general",
        evidence_due_at=datetime.fromtimestamp(due, UTC) if due else None,
    )


def method_report(method: Object, *, customer_id: str | None = None, attached: bool = True) -> MethodReport | None:
    """Read a payment method; None for kinds that are not kept."""
    kind = _METHOD_TYPES.get(method["type"])
    if kind is None:
        return None
    details = method.get(method["type"]) or {}
    return MethodReport(
        provider_method_id=method["id"],
        customer_id=method.get("customer") or customer_id,
        type=kind,
        last_four=details.get("last4"),
        brand=details.get("brand") or details.get("bank_name"),
        expiry_month=details.get("exp_month"),
        expiry_year=details.get("exp_year"),
        attached=attached,
    )


def event_report(kind: str, thing: Object, previous: Object) -> Report | None:
    """Read the object of an event; None for events that are of no concern to us."""
    family = kind.rpartition(".")[0]
    if family == "payment_intent":
        return intent_report(thing, kind)
    if kind.startswith("checkout.session."):
        return session_report(thing, kind)
    if family == "refund":
        return refund_report(thing)
    if family == "charge.dispute":
        return dispute_report(thing, kind)
    if family == "payment_method":
        attached = kind != "payment_method.detached"
        return method_report(thing, customer_id=previous.get("customer"), attached=attached)
    return None


def failure_reason(error: Object, cancelled: str | None = None) -> str:
    """Return why a payment failed, in one line: the bank's code and Stripe's words for it."""
    code = error.get("decline_code") or error.get("code")
    words = error.get("message") or (f"cancelled: {cancelled}" if cancelled else "the payment was declined")
    return f"{code}: {words}" if code else str(words)


def _our_id(thing: Object, key: str) -> UUID | None:
    text = (thing.get("metadata") or {}).get(key)
    try:
        return UUID(text) if text else None
    except ValueError:
        return None  # somebody else's metadata

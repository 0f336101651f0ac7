"""Providers that no library reaches: bank transfers, which a person or a statement tells us of, and those not configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn
from uuid import UUID

from services.billing.payments.provider import (
    ChargeRequest,
    Checkout,
    CheckoutRequest,
    MethodReport,
    NotConfigured,
    PaymentReport,
    Person,
    ProviderEvent,
    ProviderName,
    ProviderRefused,
    RefundReport,
    RefundRequest,
    WebhookRefused,
)


class ManualProvider:
    """Bank transfer. Nothing is asked of a bank here: money that came is recorded or imported, a refund is made by a person."""

    name: ProviderName = "manual"
    charges = False

    async def create_customer(self, person: Person) -> str:
        """A bank needs no customer: the user is the name."""
        return str(person.user_id)

    async def create_checkout(self, request: CheckoutRequest) -> Checkout:
        """There is no page: the customer is told the reference to transfer with."""
        return Checkout(transfer_reference(request.payment_id), "")

    async def list_methods(self, _customer_id: str) -> Sequence[MethodReport]:
        """None are stored."""
        return []

    async def charge(self, _request: ChargeRequest) -> NoReturn:
        """Nobody can take a transfer."""
        raise ProviderRefused("a bank transfer cannot be charged: the customer makes it")

    async def fetch(self, _transaction_id: str | None, _checkout_id: str | None) -> PaymentReport | None:
        """Nobody to ask: the statement tells."""
        return None

    async def refund(self, request: RefundRequest) -> RefundReport:
        """Record what a person transfers back."""
        return RefundReport(
            provider_refund_id=f"manual-{request.refund_id}",
            transaction_id=request.transaction_id,
            amount=request.amount,
            currency=request.currency,
            status="completed",
            refund_id=request.refund_id,
        )

    def parse_webhook(self, _headers: Mapping[str, str], _body: bytes) -> ProviderEvent:
        """Banks send none."""
        raise WebhookRefused("bank transfers have no webhooks: import a statement, or record the payment")


def transfer_reference(payment_id: UUID) -> str:
    """Return what a customer writes with the transfer for a credit package: short, and found by `matching.py`."""
    return f"PAY-{payment_id.hex[-12:].upper()}"


@dataclass(frozen=True, slots=True)
class Unconfigured:
    """A provider whose name is accepted in the data, and that this version has no adapter for: every call says so."""

    name: Literal["paypal", "wise"]
    charges: bool = False

    def not_configured(self) -> NotConfigured:
        """Return the error that says so."""
        return NotConfigured(
            f"{self.name} is not configured: this version has no adapter for it. Payments that it made can be recorded "
            "by hand (`tallystick payments record`); set TALLYSTICK_PAYMENT_PROVIDER to manual or stripe"
        )

    async def create_customer(self, _person: Person) -> str:
        """Refuse."""
        raise self.not_configured()

    async def create_checkout(self, _request: CheckoutRequest) -> Checkout:
        """Refuse."""
        raise self.not_configured()

    async def list_methods(self, _customer_id: str) -> Sequence[MethodReport]:
        """Refuse."""
        raise self.not_configured()

    async def charge(self, _request: ChargeRequest) -> PaymentReport:
        """Refuse."""
        raise self.not_configured()

    async def fetch(self, _transaction_id: str | None, _checkout_id: str | None) -> PaymentReport | None:
        """Refuse."""
        raise self.not_configured()

    async def refund(self, _request: RefundRequest) -> RefundReport:
        """Refuse."""
        raise self.not_configured()

    def parse_webhook(self, _headers: Mapping[str, str], _body: bytes) -> ProviderEvent:
        """Refuse."""
        raise self.not_configured()

"""Facts for the tests of payments: customers with invoices, and a provider of which every answer can be lost."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

from services.billing.payments.collection import Collecting
from services.billing.payments.provider import (
    ChargeRequest,
    Checkout,
    CheckoutRequest,
    MethodReport,
    PaymentReport,
    Person,
    ProviderEvent,
    ProviderName,
    ProviderUnavailable,
    RefundReport,
    RefundRequest,
)
from services.billing.payments.providers import Providers
from services.billing.payments.settings import PaymentSettings
from services.billing.payments.webhooks import Received, receive_webhook
from shared.clock import FixedClock
from shared.ids import uuid7
from shared.postgres import Connection, Pool
from tests.integration.roles import BILLING, with_role
from tests.integration.schema_facts import insert, make_invoice, make_subscription, make_user

DUE = datetime(2026, 11, 15, tzinfo=UTC)
ISSUED_AT = datetime(2026, 11, 1, tzinfo=UTC)


async def issue_invoice(connection: Connection, user_id: UUID, total: str = "100.00", **columns: Any) -> UUID:
    """Store an issued invoice of one line, due on DUE, without tax; its number follows from its id unless it is given."""
    facts: dict[str, Any] = {"kind": "purchase", "currency": columns.pop("currency", "USD")}
    invoice_id = await make_invoice(connection, user_id, **facts)
    amount = Decimal(total)
    await insert(
        connection, "invoice_lines", invoice_id=invoice_id, position=1, kind="adjustment", description="usage",
        quantity=Decimal(1), unit="request", exact_amount=amount, amount=amount,
    )  # fmt: skip
    issued: dict[str, Any] = {
        "number": f"INV-2026-{invoice_id.int % 10**9:09d}", "issue_date": ISSUED_AT, "due_date": DUE, "status": "sent",
        "subtotal": amount, "total": amount, **columns,
    }  # fmt: skip
    assignments = ", ".join(f"{name} = ${place}" for place, name in enumerate(issued, 2))
    await connection.execute(f"UPDATE invoices SET {assignments} WHERE id = $1", invoice_id, *issued.values())  # noqa: S608
    return invoice_id


@dataclass(slots=True)
class FakeBank:
    """A provider in memory, under Stripe's name: one effect for each key, whatever is asked again or lost.

    `declines` counts charges that are refused from now on, `loses` answers that are lost after the effect;
    with `dies` the worker ends before it has asked.
    """

    name: ProviderName = "stripe"
    charges: bool = True
    declines: int = 0
    loses: int = 0
    dies: bool = False
    made: dict[UUID, PaymentReport] = field(default_factory=dict)
    refunds: dict[UUID, RefundReport] = field(default_factory=dict)
    asked: list[UUID] = field(default_factory=list)
    methods: list[MethodReport] = field(default_factory=list)

    async def create_customer(self, person: Person) -> str:
        return f"cus_{person.user_id.hex}"

    async def create_checkout(self, request: CheckoutRequest) -> Checkout:
        return Checkout(f"cs_{request.payment_id.hex}", f"https://pay.example/{request.payment_id.hex}")

    async def list_methods(self, _customer_id: str) -> Sequence[MethodReport]:
        return self.methods

    async def charge(self, request: ChargeRequest) -> PaymentReport:
        if self.dies:
            raise RuntimeError("the worker dies")
        self.asked.append(request.payment_id)
        if request.payment_id not in self.made:
            self.made[request.payment_id] = self._charge(request)
        if self.loses:
            self.loses -= 1
            raise ProviderUnavailable("the answer is lost")
        return self.made[request.payment_id]

    def _charge(self, request: ChargeRequest) -> PaymentReport:
        name, declined = f"pi_{request.payment_id.hex}", self.declines > 0
        self.declines -= declined
        return PaymentReport(
            "failed" if declined else "completed", name, request.amount, request.currency, request.payment_id,
            reason="card_declined: no money" if declined else None,
        )  # fmt: skip

    async def fetch(self, transaction_id: str | None, _checkout_id: str | None) -> PaymentReport | None:
        return next((report for report in self.made.values() if report.transaction_id == transaction_id), None)

    async def refund(self, request: RefundRequest) -> RefundReport:
        self.refunds.setdefault(
            request.refund_id,
            RefundReport(
                f"re_{request.refund_id.hex}", request.transaction_id, request.amount, request.currency, "completed", request.refund_id
            ),
        )  # fmt: skip
        if self.loses:
            self.loses -= 1
            raise ProviderUnavailable("the answer is lost")
        return self.refunds[request.refund_id]

    def parse_webhook(self, _headers: Mapping[str, str], _body: bytes) -> ProviderEvent:
        raise AssertionError("webhooks are tested with Stripe's own library")

    @property
    def taken(self) -> Decimal:
        """The money that the bank has moved to us."""
        came = (report.amount for report in self.made.values() if report.status == "completed")
        return sum((amount for amount in came if amount), Decimal(0))


class VerifyingBank(FakeBank):
    """A bank in memory, whose webhooks Stripe's own library verifies by a secret."""

    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
        from services.billing.payments.stripe_provider import StripeProvider  # noqa: PLC0415

        return StripeProvider("sk_test_none", [self._secret], api_base="http://127.0.0.1:9").parse_webhook(
            headers, body
        )


@dataclass(slots=True)
class Till:
    """Payments at work on one database with the rights of billing's role; time stands where it is put, the bank is in memory."""

    pool: Pool
    clock: FixedClock = field(default_factory=lambda: FixedClock(DUE))
    bank: FakeBank = field(default_factory=FakeBank)
    billing: Pool = field(init=False)
    providers: Providers = field(init=False)

    def __post_init__(self) -> None:
        self.billing = with_role(self.pool, BILLING)
        self.providers = Providers(PaymentSettings(payment_provider="stripe"))
        self.providers.use(self.bank)

    @property
    def collecting(self) -> Collecting:
        return Collecting(self.billing, self.providers, self.clock, (0, 3, 7))

    def after(self, days: float) -> None:
        """Let it be so many days after DUE."""
        self.clock.at = DUE + timedelta(days=days)

    async def customer(self, *, card: bool = True) -> UUID:
        """Store a customer with a postpaid subscription, and with a card unless told otherwise."""
        async with self.pool.acquire() as connection:
            user_id = await make_user(connection)
            await make_subscription(connection, user_id)
            if card:
                await add_card(connection, user_id)
        return user_id

    async def invoice(self, user_id: UUID, total: str = "100.00", **columns: Any) -> UUID:
        async with self.pool.acquire() as connection:
            return await issue_invoice(connection, user_id, total, **columns)

    async def value(self, sql: str, *arguments: Any) -> Any:
        return await self.pool.fetchval(sql, *arguments)

    async def row(self, sql: str, *arguments: Any) -> Any:
        return await self.pool.fetchrow(sql, *arguments)

    async def fetch(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.pool.fetch(sql, *arguments)]

    async def state(self, invoice_id: UUID) -> tuple[Any, ...]:
        """The status of an invoice, and what is paid of it."""
        return tuple(await self.row("SELECT status, amount_paid FROM invoices WHERE id = $1", invoice_id))


async def add_card(connection: Connection, user_id: UUID) -> UUID:
    """Make a user a customer of Stripe with a default card."""
    await connection.execute("SELECT lock_credit_account($1)", user_id)
    await connection.execute(
        "UPDATE user_credits SET stripe_customer_id = $2 WHERE user_id = $1", user_id, f"cus_{user_id.hex}"
    )
    row = await insert(
        connection, "payment_methods", id=uuid7(), user_id=user_id, type="card", provider="stripe",
        provider_method_id=f"pm_{user_id.hex}", is_default=True, last_four="4242",
    )  # fmt: skip
    return UUID(int=row["id"].int)


# Stripe's webhooks, signed as Stripe signs them


def signed(body: bytes, secret: str, *, at: float | None = None) -> dict[str, str]:
    """Return the headers of a body, signed with Stripe's scheme and not by its library."""
    stamp = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, sha256).hexdigest()
    return {"Stripe-Signature": f"t={stamp},v1={digest}"}


def event(
    kind: str, thing: Mapping[str, Any], *, id_: str | None = None, created: datetime = DUE, **data: Any
) -> bytes:
    """Return the body of an event about a thing."""
    return json.dumps(
        {
            "id": id_ or f"evt_{uuid7().hex}", "object": "event", "type": kind, "created": int(created.timestamp()),
            "livemode": False, "api_version": "2026-10-28.endive", "data": {"object": dict(thing), **data},
        }
    ).encode()  # fmt: skip


def intent(
    transaction: str, payment_id: UUID | None, units: int, status: str = "succeeded", **more: Any
) -> dict[str, Any]:
    """Return a payment intent as Stripe has it."""
    return {
        "id": transaction, "object": "payment_intent", "amount": units, "amount_received": units if status == "succeeded" else 0,
        "currency": "usd", "status": status, "metadata": {"tallystick_payment": str(payment_id)} if payment_id else {},
        "last_payment_error": None, **more,
    }  # fmt: skip


def refund_object(name: str, transaction: str, units: int, status: str = "succeeded", **more: Any) -> dict[str, Any]:
    """Return a refund as Stripe has it."""
    return {
        "id": name, "object": "refund", "amount": units, "currency": "usd", "status": status, "payment_intent": transaction,
        "metadata": {}, **more,
    }  # fmt: skip


def session_object(
    name: str, payment_id: UUID, transaction: str | None, units: int, paid: str = "paid", **more: Any
) -> dict[str, Any]:
    """Return a checkout session as Stripe has it."""
    return {
        "id": name, "object": "checkout.session", "amount_total": units, "currency": "usd", "payment_status": paid,
        "status": "complete", "payment_intent": transaction, "metadata": {"tallystick_payment": str(payment_id)}, **more,
    }  # fmt: skip


@dataclass(slots=True)
class StripeDesk:
    """Where Stripe's webhooks arrive, verified by Stripe's library with a secret made up here."""

    till: Till
    secret: str = field(default_factory=lambda: f"whsec_{uuid7().hex}")
    provider: Any = field(init=False)

    def __post_init__(self) -> None:
        from services.billing.payments.stripe_provider import StripeProvider  # noqa: PLC0415

        self.provider = StripeProvider(f"sk_test_{uuid7().hex}", [self.secret], api_base="http://127.0.0.1:9")

    async def deliver(self, body: bytes, headers: Mapping[str, str] | None = None) -> Received:
        async with self.till.billing.acquire() as connection:
            return await receive_webhook(
                connection,
                headers or signed(body, self.secret),
                body,
                provider=self.provider,
                now=self.till.clock.now(),
            )

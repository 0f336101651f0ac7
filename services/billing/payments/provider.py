"""The port to whoever moves money (pure): what we ask of a provider, and what it tells us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, Protocol
from uuid import UUID

from shared.errors import ConfigurationError, TallystickError

ProviderName = Literal["manual", "stripe", "paypal", "wise"]
PROVIDERS: Final[tuple[ProviderName, ...]] = ("manual", "stripe", "paypal", "wise")
PaymentStatus = Literal["pending", "processing", "failed", "completed", "refunded"]
RefundStatus = Literal["pending", "completed", "failed"]
DisputeStatus = Literal["open", "won", "lost"]
Funds = Literal["with_us", "withdrawn", "reinstated"]
"""Where the money of a disputed payment is."""


class ProviderUnavailable(TallystickError):
    """The provider did not answer, or could not: whether it acted is not known. Ask again with the same key."""


class ProviderRefused(TallystickError):
    """The provider understood and will not do it: asking again with the same facts is of no use."""


class WebhookRefused(TallystickError):
    """A webhook is not from the provider (bad signature), is replayed (old timestamp), or cannot be read. Nothing was changed."""


class NotConfigured(ConfigurationError):
    """A provider is named that this installation cannot use: says what is missing."""


@dataclass(frozen=True, slots=True)
class Person:
    """A customer as the provider is told of them."""

    user_id: UUID
    email: str
    customer_id: str | None = None
    """What the provider calls the customer, once it knows them."""


@dataclass(frozen=True, slots=True)
class CheckoutRequest:
    """Asks for a page on which a customer pays `amount` for `description`. `payment_id` names our row in all that follows."""

    payment_id: UUID
    customer_id: str
    amount: Decimal
    currency: str
    description: str
    success_url: str
    cancel_url: str


@dataclass(frozen=True, slots=True)
class Checkout:
    """The page, and what the provider calls it; `transaction_id` where it names the payment at once."""

    id: str
    url: str
    transaction_id: str | None = None


@dataclass(frozen=True, slots=True)
class ChargeRequest:
    """Asks for money while the customer is not there. The key of the call follows from `payment_id`: one payment, one charge.

    `again`: it was asked for before, maybe so long ago that the provider forgot the key: it looks for the charge first.
    """

    payment_id: UUID
    customer_id: str
    method_id: str
    amount: Decimal
    currency: str
    description: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """Asks to give back part or all of a payment. The key of the call follows from `refund_id`; `again` as in `ChargeRequest`."""

    refund_id: UUID
    transaction_id: str
    amount: Decimal
    currency: str
    reason: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class PaymentReport:
    """What is known of a payment: by our id, the provider's, or that of its page. `reason` says why it failed."""

    status: PaymentStatus
    transaction_id: str | None
    amount: Decimal | None
    currency: str | None
    payment_id: UUID | None = None
    checkout_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RefundReport:
    """What is known of a refund of the payment `transaction_id`; `refund_id` is ours, where we asked for it."""

    provider_refund_id: str
    transaction_id: str
    amount: Decimal
    currency: str
    status: RefundStatus
    refund_id: UUID | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class DisputeReport:
    """What is known of a dispute of the payment `transaction_id`, of `amount` of it: how it stands, and where the money is."""

    provider_dispute_id: str
    transaction_id: str
    amount: Decimal
    currency: str
    status: DisputeStatus
    funds: Funds
    reason: str
    evidence_due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MethodReport:
    """A way in which a customer can pay, added (`attached`) or taken away."""

    provider_method_id: str
    customer_id: str | None
    type: Literal["card", "bank_account", "sepa"]
    last_four: str | None = None
    brand: str | None = None
    expiry_month: int | None = None
    expiry_year: int | None = None
    attached: bool = True


MoneyReport = PaymentReport | RefundReport | DisputeReport
"""What is told of a payment: it waits for the payment where that is not known yet."""
Report = MoneyReport | MethodReport


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """A webhook that was verified and read. `report` is None for what does not concern us."""

    id: str
    kind: str
    occurred_at: datetime
    report: Report | None


class PaymentProvider(Protocol):
    """Moves money. Asking is idempotent: the same request twice is one effect, also after an answer that was lost.

    Every call may raise `ProviderUnavailable` or `NotConfigured`; `ProviderRefused` where the provider will not do it.
    """

    @property
    def name(self) -> ProviderName: ...

    @property
    def charges(self) -> bool:
        """Whether it can ask for money by itself, with a stored method."""

    async def create_customer(self, person: Person) -> str:
        """Return what the provider calls the customer."""

    async def create_checkout(self, request: CheckoutRequest) -> Checkout:
        """Return a page on which the customer pays."""

    async def list_methods(self, customer_id: str) -> Sequence[MethodReport]:
        """Return how the customer can pay."""

    async def charge(self, request: ChargeRequest) -> PaymentReport:
        """Charge a stored method. A declined card is a report with status failed, not an error."""

    async def fetch(self, transaction_id: str | None, checkout_id: str | None) -> PaymentReport | None:
        """Return what the provider knows of a payment, by either of its names; None where it knows nothing yet."""

    async def refund(self, request: RefundRequest) -> RefundReport:
        """Give money back."""

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
        """Verify a webhook and read it. Raises `WebhookRefused`."""

"""Stripe, through its official library. Its calls block, so they run in threads; each carries a key that makes it one effect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import stripe

from services.billing.payments import stripe_reading as reading
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
    ProviderUnavailable,
    RefundReport,
    RefundRequest,
    WebhookRefused,
)

if TYPE_CHECKING:
    from stripe.params.checkout import SessionCreateParams

Answer = TypeVar("Answer")

TOLERANCE_SECONDS: Final = 300
"""Age of a webhook's signature above which it counts as replayed."""
TIMEOUT_SECONDS: Final = 30.0
NETWORK_RETRIES: Final = 2
MOST_LISTED: Final = 100
"""Stripe's own limit for one page of a list."""


class StripeProvider:
    """Implements `provider.PaymentProvider`. `webhook_secrets` are several while a secret is being rotated."""

    name: ProviderName = "stripe"
    charges = True

    def __init__(self, api_key: str, webhook_secrets: Sequence[str], *, api_base: str = "") -> None:
        self._secrets = webhook_secrets
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base} if api_base else {},
            http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
            max_network_retries=NETWORK_RETRIES,
        )

    async def create_customer(self, person: Person) -> str:
        """Create the customer; the key is the user, so that two workers create one."""
        params: dict[str, Any] = {"email": person.email, "metadata": {"tallystick_user": str(person.user_id)}}
        customers = self._client.v1.customers
        customer = await _ask(lambda: customers.create(params, _key("customer", person.user_id)))  # type: ignore[arg-type]
        return customer.id

    async def create_checkout(self, request: CheckoutRequest) -> Checkout:
        """Create a checkout session. The card is kept for later charges; both session and payment name our row."""
        ours = {reading.PAYMENT_KEY: str(request.payment_id)}
        price = {
            "currency": request.currency.lower(),
            "unit_amount": reading.to_minor_units(request.amount, request.currency),
            "product_data": {"name": request.description},
        }
        params: SessionCreateParams = {
            "mode": "payment",
            "customer": request.customer_id,
            "client_reference_id": str(request.payment_id),
            "line_items": [{"quantity": 1, "price_data": price}],  # type: ignore[typeddict-item]
            "success_url": request.success_url,
            "cancel_url": request.cancel_url,
            "metadata": ours,
            "payment_intent_data": {"metadata": ours, "setup_future_usage": "off_session"},
        }
        sessions = self._client.v1.checkout.sessions
        session = await _ask(lambda: sessions.create(params, _key("checkout", request.payment_id)))
        report = reading.session_report(session.to_dict())
        return Checkout(session.id, session.url or "", report.transaction_id)

    async def list_methods(self, customer_id: str) -> list[MethodReport]:
        """List the customer's cards and accounts."""
        methods = self._client.v1.customers.payment_methods
        found = await _ask(lambda: methods.list(customer_id, {"limit": MOST_LISTED}))
        reports = (reading.method_report(method.to_dict(), customer_id=customer_id) for method in found.data)
        return [report for report in reports if report]

    async def charge(self, request: ChargeRequest) -> PaymentReport:
        """Make and confirm a payment intent. A declined card is an answer like another."""
        intents = self._client.v1.payment_intents
        params: stripe.params.PaymentIntentCreateParams = {
            "amount": reading.to_minor_units(request.amount, request.currency),
            "currency": request.currency.lower(),
            "customer": request.customer_id,
            "payment_method": request.method_id,
            "description": request.description,
            "off_session": True,
            "confirm": True,
            "metadata": {reading.PAYMENT_KEY: str(request.payment_id)},
        }
        if request.again and (found := await self._earlier_charge(request)):
            return found
        try:
            intent = await _ask(lambda: intents.create(params, _key("charge", request.payment_id)))
        except stripe.CardError as error:
            return _declined(error, request)
        return reading.off_session_report(intent.to_dict())

    async def fetch(self, transaction_id: str | None, checkout_id: str | None) -> PaymentReport | None:
        """Retrieve the payment intent, else the checkout session."""
        if transaction_id:
            intent = await _ask(lambda: self._client.v1.payment_intents.retrieve(transaction_id))
            return reading.intent_report(intent.to_dict())
        if checkout_id:
            session = await _ask(lambda: self._client.v1.checkout.sessions.retrieve(checkout_id))
            return reading.session_report(session.to_dict())
        return None

    async def refund(self, request: RefundRequest) -> RefundReport:
        """Refund part or all of a payment intent."""
        params: stripe.params.RefundCreateParams = {
            "payment_intent": request.transaction_id,
            "amount": reading.to_minor_units(request.amount, request.currency),
            "metadata": {reading.REFUND_KEY: str(request.refund_id), "reason": request.reason[:500]},
        }
        refunds = self._client.v1.refunds
        if request.again:
            listed = await _ask(lambda: refunds.list({"payment_intent": request.transaction_id, "limit": MOST_LISTED}))
            for earlier in listed.data:
                report = _refund_of(earlier.to_dict(), request)
                if report.refund_id == request.refund_id:
                    return report
        try:
            made = await _ask(lambda: refunds.create(params, _key("refund", request.refund_id)))
        except stripe.CardError as error:
            raise ProviderRefused(f"Stripe refuses it: {_words(error)}") from error
        return _refund_of(made.to_dict(), request)

    async def _earlier_charge(self, request: ChargeRequest) -> PaymentReport | None:
        """Find a charge by our id among the latest of its customer: Stripe forgets keys after a day."""
        intents = self._client.v1.payment_intents
        listed = await _ask(lambda: intents.list({"customer": request.customer_id, "limit": MOST_LISTED}))
        reports = (reading.off_session_report(intent.to_dict()) for intent in listed.data)
        return next((report for report in reports if report.payment_id == request.payment_id), None)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
        """Verify the signature of a webhook and its age, by the official library, and read it."""
        signature = next((text for name, text in headers.items() if name.lower() == "stripe-signature"), None)
        event = self._verified(body, signature)
        try:
            data = event["data"]
            report = reading.event_report(event["type"], data["object"], data.get("previous_attributes") or {})
            return ProviderEvent(event["id"], event["type"], datetime.fromtimestamp(event["created"], UTC), report)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise WebhookRefused(f"the webhook is signed, but not an event that can be read ({error!r})") from error

    def _verified(self, body: bytes, signature: str | None) -> Mapping[str, Any]:
        problem: Exception = stripe.SignatureVerificationError("no Stripe-Signature header", signature or "")  # type: ignore[no-untyped-call]
        for secret in self._secrets if signature else ():
            try:
                event = stripe.Webhook.construct_event(body, signature, secret, TOLERANCE_SECONDS)
                verified: dict[str, Any] = event.to_dict()
                return verified
            except stripe.SignatureVerificationError as error:
                problem = error
            except (ValueError, TypeError, AttributeError, json.JSONDecodeError) as error:
                raise WebhookRefused(f"the webhook is not JSON that can be read ({error})") from error
        if not self._secrets:
            raise NotConfigured("webhooks of Stripe cannot be verified: set TALLYSTICK_STRIPE_WEBHOOK_SECRET")
        raise WebhookRefused(f"the webhook is refused: {str(problem).splitlines()[0]}") from problem


def _key(operation: str, id_: object) -> stripe.RequestOptions:
    """Return the key of a call: the same for the same operation on the same row, for ever."""
    return {"idempotency_key": f"tallystick-{operation}-{id_}"}


async def _ask(call: Callable[[], Answer]) -> Answer:
    """Make a call in a thread. Raises the port's errors; `stripe.CardError` is left to the caller."""
    try:
        return await asyncio.to_thread(call)
    except stripe.CardError:
        raise
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise NotConfigured(f"Stripe refuses the key ({_words(error)}): check TALLYSTICK_STRIPE_API_KEY") from error
    except (stripe.InvalidRequestError, stripe.IdempotencyError) as error:
        raise ProviderRefused(f"Stripe refuses it: {_words(error)}") from error
    except stripe.StripeError as error:
        raise ProviderUnavailable(f"Stripe does not answer ({_words(error)}): it is tried again") from error


def _declined(error: stripe.CardError, request: ChargeRequest) -> PaymentReport:
    told = error.error.to_dict() if error.error else {}
    intent = told.get("payment_intent") or {}
    return PaymentReport(
        status="failed",
        transaction_id=intent.get("id"),
        amount=request.amount,
        currency=request.currency,
        payment_id=request.payment_id,
        reason=reading.failure_reason(told or {"code": error.code, "message": _words(error)}),
    )


def _refund_of(refund: Mapping[str, Any], request: RefundRequest) -> RefundReport:
    report = reading.refund_report({**refund, "payment_intent": request.transaction_id})
    if report is None:
        raise ProviderRefused(f"Stripe's refund {refund.get('id')} names no payment")
    return report


def _words(error: stripe.StripeError) -> str:
    """Return what went wrong, in one line."""
    if isinstance(error, stripe.APIConnectionError):
        return "no connection"
    words = " ".join((error.user_message or str(error) or type(error).__name__).split())
    return words[:300]

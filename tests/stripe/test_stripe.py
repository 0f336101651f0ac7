"""Payments through Stripe's official library against stripe-mock, which refuses what Stripe's API would not take.

stripe-mock answers with examples: a charge is never paid there, ids and statuses are its own.
"""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import pytest
from stripe import InvalidRequestError

from services.billing.payments import store
from services.billing.payments.charging import charge_invoice, resolve_open, start_checkout
from services.billing.payments.collection import Collecting
from services.billing.payments.methods import customer_of, synchronise
from services.billing.payments.provider import (
    ChargeRequest,
    CheckoutRequest,
    PaymentReport,
    Person,
    RefundRequest,
)
from services.billing.payments.refunds import refund_payment
from services.billing.payments.reports import apply_payment_report
from services.billing.payments.stripe_provider import StripeProvider
from shared.ids import uuid7
from shared.postgres import Pool, transaction
from tests.integration.payment_facts import DUE, Till

ID = UUID("0190f5a0-0000-7000-8000-000000000001")
URLS = {"success_url": "https://example.com/paid", "cancel_url": "https://example.com/cancelled"}


@pytest.fixture
def stripe(stripe_mock: str) -> StripeProvider:
    return StripeProvider(f"sk_test_{uuid7().hex}", [], api_base=stripe_mock)


@pytest.fixture
def till(database_pool: Pool, stripe: StripeProvider) -> Till:
    made = Till(database_pool)
    made.providers.use(stripe)
    return made


async def test_a_customer_is_made(stripe: StripeProvider) -> None:
    assert (await stripe.create_customer(Person(ID, "ada@example.com"))).startswith("cus_")


@pytest.mark.parametrize(("amount", "currency"), [("10.00", "USD"), ("500", "JPY"), ("12.340", "KWD")])
async def test_a_page_is_made_in_any_currency(stripe: StripeProvider, amount: str, currency: str) -> None:
    page = await stripe.create_checkout(CheckoutRequest(ID, "cus_1", Decimal(amount), currency, "Starter", **URLS))
    assert page.id.startswith("cs_")
    assert page.url.startswith("https://checkout.stripe.com/")


async def test_methods_are_listed(stripe: StripeProvider) -> None:
    (card,) = await stripe.list_methods("cus_1")
    assert (card.type, card.last_four, card.brand, card.customer_id) == ("card", "4242", "visa", "cus_1")


async def test_a_charge_is_asked_for_and_looked_for_again(stripe: StripeProvider) -> None:
    request = ChargeRequest(ID, "cus_1", "pm_1", Decimal("12.34"), "EUR", "Invoice")
    report = await stripe.charge(request)
    assert (report.amount, report.currency, (report.transaction_id or "")[:3]) == (Decimal("12.34"), "EUR", "pi_")
    again = await stripe.charge(ChargeRequest(ID, "cus_1", "pm_1", Decimal("12.34"), "EUR", "Invoice", again=True))
    assert again.amount == Decimal("12.34")
    assert await stripe.fetch(report.transaction_id, None) is not None
    page = await stripe.fetch(None, "cs_test_1")
    assert page is not None
    assert page.checkout_id == "cs_test_1"


async def test_a_refund_is_asked_for_and_looked_for_again(stripe: StripeProvider) -> None:
    request = RefundRequest(ID, "pi_1", Decimal("1.23"), "USD", "sorry")
    report = await stripe.refund(request)
    assert (report.amount, report.status, report.transaction_id) == (Decimal("1.23"), "completed", "pi_1")
    assert (
        await stripe.refund(RefundRequest(ID, "pi_1", Decimal("1.23"), "USD", "sorry", again=True))
    ).amount == Decimal("1.23")


def test_the_stand_in_checks_what_is_asked(stripe: StripeProvider) -> None:
    with pytest.raises(InvalidRequestError, match="currency"):
        stripe._client.v1.payment_intents.create({"amount": 1})  # type: ignore[typeddict-item]


async def test_a_package_is_offered_on_a_page_of_stripe(till: Till) -> None:
    user = await till.customer(card=False)
    page = await start_checkout(till.billing, till.providers, user, "Starter Pack", clock=till.clock, key="k")
    assert page.url.startswith("https://checkout.stripe.com/")
    row = await till.row("SELECT status, amount, currency, package_id IS NOT NULL, provider_checkout_id FROM payments")
    assert tuple(row) == ("pending", 10, "USD", True, page.reference)
    customer = await till.value("SELECT stripe_customer_id FROM user_credits WHERE user_id = $1", user)
    assert customer == await customer_of(till.billing, till.providers.preferred, user), "made once"


async def test_a_customers_methods_are_fetched(till: Till, stripe: StripeProvider) -> None:
    user = await till.customer()
    (card,) = await synchronise(till.billing, stripe, user, at=DUE)
    assert (card.last_four, card.brand, card.is_default) == ("4242", "visa", False)
    gone = "SELECT count(*) FROM payment_methods WHERE detached_at IS NOT NULL"
    assert await till.value(gone) == 1, "the one that Stripe does not know is taken away"


async def test_an_invoice_is_charged_through_stripe_and_its_failure_told(till: Till) -> None:
    invoice = await till.invoice(await till.customer())
    payment = await charge_invoice(till.billing, till.providers, str(invoice), key="k", clock=till.clock)
    assert payment.status == "failed", "stripe-mock's charges are never paid"
    assert (payment.provider_transaction_id or "").startswith("pi_")
    assert await till.state(invoice) == ("sent", 0)
    assert await till.value("SELECT count(*) FROM billing_alerts WHERE type = 'payment_failed'") == 1


async def test_dunning_goes_through_stripe(till: Till) -> None:
    await till.invoice(await till.customer())
    collecting = Collecting(till.billing, till.providers, till.clock, (0, 3))
    assert await collecting.dun() == {"declined": 1}
    till.after(1)
    assert await resolve_open(till.billing, till.providers, clock=till.clock) == {"asked": 0, "ended": 0}


async def test_a_payment_is_given_back_through_stripe(till: Till) -> None:
    user = await till.customer()
    async with transaction(till.billing) as connection:
        await store.begin(connection, user)
        made = await store.add_payment(
            connection, user_id=user, amount=Decimal(100), currency="USD", provider="stripe", at=DUE, key=None,
            invoice_id=await till.invoice(user),
        )  # fmt: skip
        report = PaymentReport("completed", "pi_1", Decimal(100), "USD", made.id)
        await apply_payment_report(connection, "stripe", report, at=DUE)
    done = await refund_payment(
        till.billing, till.providers, made.id, Decimal("30.50"), reason="sorry", key="k", clock=till.clock
    )
    assert (done.refund.status, done.left, (done.refund.provider_refund_id or "")[:3]) == (
        "completed",
        Decimal("69.50"),
        "re_",
    )

"""Stripe's webhooks: signed, once, in any order. Bodies are as Stripe sends them, signed here and verified by its library."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from uuid import UUID

import pytest

from services.billing.payments import store
from services.billing.payments.charging import resolve_open
from services.billing.payments.provider import NotConfigured, PaymentReport, WebhookRefused
from services.billing.payments.stripe_provider import StripeProvider
from shared.ids import uuid7
from shared.postgres import Pool, transaction
from tests.integration.payment_facts import (
    DUE,
    StripeDesk,
    Till,
    event,
    intent,
    refund_object,
    session_object,
    signed,
)


@pytest.fixture
def till(database_pool: Pool) -> Till:
    return Till(database_pool)


@pytest.fixture
def desk(till: Till) -> StripeDesk:
    return StripeDesk(till)


async def charge(
    till: Till, user: UUID, invoice: UUID | None = None, package: UUID | None = None, amount: str = "100.00"
) -> UUID:
    """Store a charge that is under way."""
    async with transaction(till.billing) as connection:
        await store.begin(connection, user)
        made = await store.add_payment(
            connection, user_id=user, amount=Decimal(amount), currency="USD", provider="stripe", at=DUE, key=None,
            invoice_id=invoice, package_id=package,
        )  # fmt: skip
    return made.id


async def status_of(till: Till, payment: UUID) -> str:
    return str(await till.value("SELECT status FROM payments WHERE id = $1", payment))


async def test_a_success_pays_the_invoice_once_however_often_it_is_delivered(till: Till, desk: StripeDesk) -> None:
    user = await till.customer()
    invoice = await till.invoice(user)
    payment = await charge(till, user, invoice)
    body = event("payment_intent.succeeded", intent("pi_1", payment, 10000))
    outcomes = [(await desk.deliver(body)).outcome for _ in range(3)]
    assert outcomes == ["applied", "duplicate", "duplicate"]
    assert await till.state(invoice) == ("paid", 100)
    again = await desk.deliver(event("payment_intent.succeeded", intent("pi_1", payment, 10000)))
    assert again.outcome == "nothing", "another event that says the same"


async def test_deliveries_side_by_side_count_once(till: Till, desk: StripeDesk) -> None:
    user = await till.customer()
    invoice = await till.invoice(user)
    payment = await charge(till, user, invoice)
    body = event("payment_intent.succeeded", intent("pi_1", payment, 10000))
    others = [event("payment_intent.succeeded", intent("pi_1", payment, 10000)) for _ in range(3)]
    outcomes = await asyncio.gather(*(desk.deliver(delivery) for delivery in [body, body, *others]))
    assert sorted(o.outcome for o in outcomes) == ["applied", "duplicate", "nothing", "nothing", "nothing"]
    assert await till.state(invoice) == ("paid", 100)
    assert await till.fetch("SELECT status FROM billing_history") == [("completed",)]


async def test_webhook_and_poll_at_once_count_once(till: Till, desk: StripeDesk) -> None:
    user = await till.customer()
    invoice = await till.invoice(user)
    payment = await charge(till, user, invoice)
    await till.pool.execute("UPDATE payments SET provider_transaction_id = 'pi_1' WHERE id = $1", payment)
    till.bank.made[payment] = PaymentReport("completed", "pi_1", Decimal(100), "USD", payment)
    till.after(1)
    body = event("payment_intent.succeeded", intent("pi_1", payment, 10000))
    await asyncio.gather(desk.deliver(body), resolve_open(till.billing, till.providers, clock=till.clock))
    assert await till.state(invoice) == ("paid", 100)
    assert await till.value("SELECT count(*) FROM payment_allocations") == 1


async def test_a_late_failure_does_not_undo_a_success(till: Till, desk: StripeDesk) -> None:
    user = await till.customer()
    payment = await charge(till, user, await till.invoice(user))
    await desk.deliver(event("payment_intent.succeeded", intent("pi_1", payment, 10000)))
    failed = intent("pi_1", payment, 10000, "requires_payment_method", last_payment_error={"code": "card_declined"})
    assert (await desk.deliver(event("payment_intent.payment_failed", failed))).outcome == "nothing"
    assert await status_of(till, payment) == "completed"


async def test_a_failure_is_told_and_a_second_try_succeeds(till: Till, desk: StripeDesk) -> None:
    user = await till.customer()
    invoice = await till.invoice(user)
    payment = await charge(till, user, invoice)
    error = {
        "code": "card_declined",
        "decline_code": "insufficient_funds",
        "message": "Your card has insufficient funds.",
    }
    failed = intent("pi_1", payment, 10000, "requires_payment_method", last_payment_error=error)
    await desk.deliver(event("payment_intent.payment_failed", failed))
    reason = "insufficient_funds: Your card has insufficient funds."
    assert await till.fetch("SELECT status, failure_reason FROM payments") == [("failed", reason)]
    assert await till.fetch("SELECT type, cause FROM billing_alerts") == [("payment_failed", f"payment {payment}")]
    assert await till.fetch("SELECT status FROM billing_history") == [("failed",)]
    await desk.deliver(event("payment_intent.succeeded", intent("pi_1", payment, 10000)))
    assert await till.state(invoice) == ("paid", 100)
    assert await till.fetch("SELECT status FROM billing_history") == [("completed",)]


async def test_a_refund_that_comes_before_its_charge_says_that_the_charge_succeeded(
    till: Till, desk: StripeDesk
) -> None:
    user = await till.customer()
    invoice = await till.invoice(user)
    payment = await charge(till, user, invoice)
    early = await desk.deliver(event("refund.created", refund_object("re_1", "pi_1", 2500)))
    assert early.outcome == "waiting", "nobody knows pi_1 yet"
    await desk.deliver(event("payment_intent.processing", intent("pi_1", payment, 10000, "processing")))
    assert await till.fetch("SELECT status, refunded_amount FROM payments") == [("completed", 25)]
    assert await till.state(invoice) == ("paid", 100)
    assert await till.fetch("SELECT outcome FROM payment_events WHERE kind = 'refund.created'") == [("applied",)]
    await desk.deliver(event("payment_intent.succeeded", intent("pi_1", payment, 10000)))
    assert await till.fetch("SELECT status, refunded_amount FROM payments") == [("completed", 25)]


async def test_a_checkout_adds_the_credits_of_its_package_once(till: Till, desk: StripeDesk) -> None:
    user = await till.customer(card=False)
    package = await till.value("SELECT id FROM credit_packages WHERE price = 10")
    payment = await charge(till, user, package=package, amount="10")
    session = session_object("cs_1", payment, "pi_1", 1000)
    await desk.deliver(event("payment_intent.succeeded", intent("pi_1", payment, 1000)))
    await desk.deliver(event("checkout.session.completed", session))
    assert await till.value("SELECT get_user_balance($1)", user) == 100
    assert await till.fetch("SELECT status, provider_checkout_id FROM payments") == [("completed", "cs_1")]


async def test_money_that_buys_nothing_any_more_waits_for_a_person(till: Till, desk: StripeDesk) -> None:
    user = await till.customer(card=False)
    package = await till.value("SELECT id FROM credit_packages WHERE price = 10")
    payment = await charge(till, user, package=package, amount="10")
    await till.pool.execute("UPDATE credit_packages SET currency = 'EUR' WHERE id = $1", package)
    received = await desk.deliver(event("payment_intent.succeeded", intent("pi_1", payment, 1000)))
    assert received.outcome == "refused"
    assert "came, but buys nothing" in (received.detail or "")
    assert await status_of(till, payment) == "pending"


async def test_a_slow_method_is_processing_until_it_succeeds_or_fails(till: Till, desk: StripeDesk) -> None:
    user = await till.customer(card=False)
    package = await till.value("SELECT id FROM credit_packages WHERE price = 10")
    payment = await charge(till, user, package=package, amount="10")
    await desk.deliver(event("checkout.session.completed", session_object("cs_1", payment, "pi_1", 1000, "unpaid")))
    assert await status_of(till, payment) == "processing"
    slow = session_object("cs_1", payment, "pi_1", 1000, "unpaid")
    await desk.deliver(event("checkout.session.async_payment_failed", slow))
    assert await status_of(till, payment) == "failed"
    late = await charge(till, user, package=package, amount="10")
    expired = session_object("cs_2", late, None, 1000, "unpaid", status="expired")
    await desk.deliver(event("checkout.session.expired", expired))
    assert await status_of(till, late) == "failed"
    assert await till.value("SELECT get_user_balance($1)", user) == 0


async def test_methods_come_and_go(till: Till, desk: StripeDesk) -> None:
    user = await till.customer()
    card = {"last4": "1881", "brand": "visa", "exp_month": 4, "exp_year": 2031}
    method = {"id": "pm_9", "object": "payment_method", "type": "card", "card": card, "customer": f"cus_{user.hex}"}
    assert (await desk.deliver(event("payment_method.attached", method))).outcome == "applied"
    rows = "SELECT last_four, is_default, detached_at FROM payment_methods WHERE provider_method_id = 'pm_9'"
    assert await till.fetch(rows) == [("1881", False, None)]
    gone = {**method, "customer": None}
    await desk.deliver(event("payment_method.detached", gone, previous_attributes={"customer": method["customer"]}))
    assert await till.fetch(rows) == [("1881", False, DUE)]


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ({"amount_received": 9000}, r"is of 100 USD, but stripe tells that 90 came"),
        ({"currency": "eur"}, r"is of 100 USD, but stripe tells of EUR"),
    ],
)
async def test_what_contradicts_the_payment_is_kept_and_changes_nothing(
    till: Till, desk: StripeDesk, thing: dict[str, object], message: str
) -> None:
    user = await till.customer()
    invoice = await till.invoice(user)
    payment = await charge(till, user, invoice)
    received = await desk.deliver(event("payment_intent.succeeded", {**intent("pi_1", payment, 10000), **thing}))
    assert received.outcome == "refused"
    assert message in (received.detail or "")
    assert await till.state(invoice) == ("sent", 0)
    assert await till.fetch("SELECT status, provider_transaction_id FROM payments") == [("pending", None)]
    assert await till.fetch("SELECT outcome FROM payment_events") == [("refused",)]


async def test_a_refund_at_the_provider_above_the_payment_is_refused(till: Till, desk: StripeDesk) -> None:
    user = await till.customer()
    payment = await charge(till, user, await till.invoice(user))
    await desk.deliver(event("payment_intent.succeeded", intent("pi_1", payment, 10000)))
    assert (await desk.deliver(event("refund.created", refund_object("re_1", "pi_1", 6000)))).outcome == "applied"
    received = await desk.deliver(event("refund.created", refund_object("re_2", "pi_1", 4001)))
    assert received.outcome == "refused"
    assert "40.01 USD were given back, of which 40 are left" in (received.detail or "")
    assert await till.value("SELECT refunded_amount FROM payments") == 60


async def test_events_of_others_and_of_no_concern_are_kept_and_do_nothing(till: Till, desk: StripeDesk) -> None:
    strange = await desk.deliver(event("payment_intent.succeeded", intent("pi_other", uuid7(), 100)))
    unknown = await desk.deliver(event("customer.created", {"id": "cus_1", "object": "customer"}))
    assert (strange.outcome, unknown.outcome) == ("waiting", "ignored")
    assert await till.value("SELECT count(*) FROM payments") == 0


async def refused(desk: StripeDesk, body: bytes, headers: dict[str, str], message: str) -> None:
    with pytest.raises(WebhookRefused, match=message):
        await desk.deliver(body, headers)
    assert await desk.till.value("SELECT count(*) FROM payment_events") == 0, "nothing was stored"


async def test_what_is_not_from_stripe_is_refused(till: Till, desk: StripeDesk) -> None:
    body = event("payment_intent.succeeded", intent("pi_1", uuid7(), 100))
    await refused(desk, body, {"X": "y"}, "no Stripe-Signature header")
    await refused(desk, body, {"Stripe-Signature": "nonsense"}, "is refused")
    await refused(desk, body, signed(body, "whsec_of_somebody_else"), "No signatures found matching")
    await refused(desk, body.replace(b"100", b"999"), signed(body, desk.secret), "No signatures found matching")
    await refused(desk, body, signed(body, desk.secret, at=time.time() - 301), "outside the tolerance zone")
    await refused(desk, b"\xff\xfe", signed(b"\xff\xfe", desk.secret), "is not JSON that can be read")
    await refused(desk, b"[]", signed(b"[]", desk.secret), "the webhook is")
    for broken in (b"{}", event("payment_intent.succeeded", {"id": "pi_1"}), event("refund.created", {"currency": 7})):
        await refused(desk, broken, signed(broken, desk.secret), "not an event that can be read")


async def test_two_secrets_are_taken_while_one_is_being_changed(till: Till, desk: StripeDesk) -> None:
    old, new = f"whsec_{uuid7().hex}", f"whsec_{uuid7().hex}"
    desk.provider = StripeProvider("sk_test_x", [old, new])
    for secret in (old, new):
        body = event("customer.created", {"id": "cus_1", "object": "customer"})
        assert (await desk.deliver(body, signed(body, secret))).outcome == "ignored"
    desk.provider = StripeProvider("sk_test_x", [])
    with pytest.raises(NotConfigured, match="TALLYSTICK_STRIPE_WEBHOOK_SECRET"):
        await desk.deliver(b"{}", signed(b"{}", old))

"""Chargebacks: what a dispute at the bank does to payments, invoices and credits. Bodies as Stripe sends them, signed here."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from services.billing.payments.refunds import refund_payment
from services.billing.reconciliation import reconcile
from shared.postgres import Pool
from tests.integration.payment_facts import StripeDesk, Till, event, intent
from tests.integration.test_payments_webhooks import charge

OPEN, TAKEN = "charge.dispute.created", "charge.dispute.funds_withdrawn"
BACK, CLOSED = "charge.dispute.funds_reinstated", "charge.dispute.closed"


@pytest.fixture
def till(database_pool: Pool) -> Till:
    return Till(database_pool)


@pytest.fixture
def desk(till: Till) -> StripeDesk:
    return StripeDesk(till)


def dispute(kind: str, status: str = "needs_response", units: int = 10000, **more: Any) -> bytes:
    """Return an event about the dispute dp_1 of the payment pi_1."""
    moved = {TAKEN: [-units], BACK: [-units, units]}.get(kind, [])
    return event(
        kind,
        {
            "id": "dp_1", "object": "dispute", "amount": units, "currency": "usd", "charge": "ch_1", "payment_intent": "pi_1",
            "reason": "fraudulent", "status": status, "balance_transactions": [{"amount": amount} for amount in moved],
            "evidence_details": {"due_by": 1795996799, "has_evidence": False}, **more,
        },
    )  # fmt: skip


async def paid(till: Till, desk: StripeDesk, **what: Any) -> tuple[UUID, UUID]:
    """Return an invoice, and the payment that Stripe made of it."""
    user = await till.customer()
    invoice = await till.invoice(user)
    payment = await charge(till, user, invoice, **what)
    await desk.deliver(event("payment_intent.succeeded", intent("pi_1", payment, 10000)))
    return invoice, payment


async def differing(till: Till) -> list[str]:
    async with till.billing.acquire() as connection:
        names = ("payments", "refunds", "history", "packages", "ledger")
        return [c.name for c in await reconcile(connection) if not c.holds and any(name in c.name for name in names)]


async def disputed(till: Till, invoice: UUID) -> str | None:
    return await till.value("SELECT dispute_reason FROM invoices WHERE id = $1", invoice)  # type: ignore[no-any-return]


async def test_money_that_the_bank_takes_back_opens_the_invoice_and_it_is_disputed(
    till: Till, desk: StripeDesk
) -> None:
    invoice, payment = await paid(till, desk)
    assert (await desk.deliver(dispute(OPEN))).outcome == "applied"
    assert await till.state(invoice) == ("paid", 100)
    assert await disputed(till, invoice) == "chargeback dp_1: fraudulent"
    assert [(await desk.deliver(dispute(TAKEN))).outcome for _ in range(2)] == ["applied", "nothing"]
    assert await till.state(invoice) == ("sent", 0)
    assert await till.fetch("SELECT status, refunded_amount, allocated_amount FROM payments") == [("refunded", 100, 0)]
    assert await till.fetch("SELECT description, status FROM billing_history ORDER BY created_at, id") == [
        ("Invoice", "completed"), ("Chargeback: fraudulent", "refunded"),
    ]  # fmt: skip
    assert await till.fetch("SELECT type, cause, current_value FROM billing_alerts") == [
        ("payment_disputed", "dispute dp_1", 100)
    ]
    told = await till.fetch(
        "SELECT convert_from(value, 'UTF8')::jsonb -> 'data' ->> 'status', convert_from(value, 'UTF8')::jsonb -> 'data' ->> 'funds' "
        "FROM billing_outbox WHERE convert_from(value, 'UTF8')::jsonb ->> 'type' = 'tallystick.payment.disputed.v1' ORDER BY id"
    )
    assert told == [("open", "with_us"), ("open", "withdrawn")]
    till.after(30)
    await till.collecting.mark_overdue()
    await till.collecting.dun()
    assert await till.value("SELECT count(*) FROM payments") == 1, "nobody is charged while it is disputed"
    assert await differing(till) == []
    assert await till.value("SELECT payment_id FROM payment_disputes") == payment


async def test_who_wins_is_paid_again_and_who_loses_is_not(till: Till, desk: StripeDesk) -> None:
    invoice, _ = await paid(till, desk)
    for body in (dispute(OPEN), dispute(TAKEN), dispute(CLOSED, "won"), dispute(BACK, "won")):
        assert (await desk.deliver(body)).outcome == "applied"
    assert await till.state(invoice) == ("paid", 100)
    assert await disputed(till, invoice) is None
    assert await till.fetch("SELECT status, refunded_amount FROM payments") == [("completed", 0)]
    assert await till.fetch("SELECT status, funds FROM payment_disputes") == [("won", "reinstated")]
    assert await differing(till) == []


async def test_a_lost_dispute_leaves_the_invoice_open_for_reminders(till: Till, desk: StripeDesk) -> None:
    invoice, _ = await paid(till, desk)
    assert (await desk.deliver(dispute(CLOSED, "lost"))).outcome == "applied", "the only event that came"
    assert await till.state(invoice) == ("sent", 0)
    assert await disputed(till, invoice) is None
    assert await differing(till) == []


async def test_whatever_the_order_of_what_is_told_it_ends_alike(till: Till, desk: StripeDesk) -> None:
    user = await till.customer()
    told = [(OPEN, "needs_response"), (TAKEN, "needs_response"), (CLOSED, "won"), (BACK, "won")]
    for place, order in enumerate(itertools.permutations(told)):
        invoice, intent_id = await till.invoice(user), f"pi_{place}"
        payment = await charge(till, user, invoice)
        for number, (kind, status) in enumerate(order):
            if number == place % 4:
                await desk.deliver(event("payment_intent.succeeded", intent(intent_id, payment, 10000)))
            body = dispute(kind, status, id=f"dp_{place}", payment_intent=intent_id)
            await desk.deliver(body)
            assert (await desk.deliver(body)).outcome == "duplicate"
        assert await till.state(invoice) == ("paid", 100), order
        assert await disputed(till, invoice) is None, order
    assert await till.fetch("SELECT DISTINCT status, funds FROM payment_disputes") == [("won", "reinstated")]
    assert await differing(till) == []


async def test_an_inquiry_that_comes_to_nothing_moves_no_money(till: Till, desk: StripeDesk) -> None:
    invoice, _ = await paid(till, desk)
    await desk.deliver(dispute(OPEN, "warning_needs_response"))
    assert await disputed(till, invoice) is not None
    await desk.deliver(dispute(CLOSED, "warning_closed"))
    assert (await till.state(invoice), await disputed(till, invoice)) == (("paid", 100), None)
    assert await till.value("SELECT count(*) FROM payment_refunds") == 0


async def test_credits_that_a_disputed_payment_bought_go_and_come_back(till: Till, desk: StripeDesk) -> None:
    user = await till.customer(card=False)
    package = await till.value("SELECT id FROM credit_packages WHERE price = 10")
    payment = await charge(till, user, package=package, amount="10")
    await desk.deliver(event("payment_intent.succeeded", intent("pi_1", payment, 1000)))
    await desk.deliver(dispute(TAKEN, units=1000))
    assert await till.value("SELECT get_user_balance($1)", user) == 0
    await desk.deliver(dispute(BACK, "won", units=1000))
    assert await till.value("SELECT get_user_balance($1)", user) == 100
    assert await differing(till) == []


async def test_a_part_is_taken_back_beside_a_refund_that_we_gave(till: Till, desk: StripeDesk) -> None:
    invoice, payment = await paid(till, desk)
    await refund_payment(
        till.billing, till.providers, payment, Decimal(30), reason="goodwill", key=None, clock=till.clock
    )
    assert await till.state(invoice) == ("paid", 100)
    await desk.deliver(dispute(TAKEN, units=7000))
    assert await till.state(invoice) == ("partially_paid", 30)
    await desk.deliver(dispute(BACK, "won", units=7000))
    assert await till.state(invoice) == ("paid", 100)
    assert await differing(till) == []


async def test_a_dispute_of_more_than_is_left_is_kept_for_a_person(till: Till, desk: StripeDesk) -> None:
    invoice, payment = await paid(till, desk)
    await refund_payment(
        till.billing, till.providers, payment, Decimal(30), reason="goodwill", key=None, clock=till.clock
    )
    received = await desk.deliver(dispute(TAKEN))
    assert received.outcome == "refused"
    assert "dispute dp_1" in (received.detail or "")
    assert await till.state(invoice) == ("paid", 100)
    assert await till.value("SELECT count(*) FROM payment_disputes") == 0
    assert (await desk.deliver(dispute(TAKEN, payment_intent=None))).outcome == "ignored", "of somebody else"

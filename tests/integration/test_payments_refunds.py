"""Money given back: in part and whole, never more than came; of a package, its credits are taken back as far as they are left."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from services.billing.payments import store
from services.billing.payments.provider import NotConfigured, PaymentReport
from services.billing.payments.recording import record_payment
from services.billing.payments.refunds import RefundRefused, refund_payment, resolve_refunds
from services.billing.payments.reports import apply_payment_report
from services.billing.payments.state import AmountRefused
from shared.errors import KeyReused
from shared.ids import uuid7
from shared.postgres import Pool, transaction
from tests.integration.payment_facts import DUE, StripeDesk, Till, event, refund_object


@pytest.fixture
def till(database_pool: Pool) -> Till:
    return Till(database_pool)


async def paid_invoice(till: Till) -> tuple[UUID, UUID]:
    """An invoice of 100 that Stripe was paid for; its payment and itself."""
    user = await till.customer()
    invoice = await till.invoice(user)
    return await came(till, user, Decimal(100), invoice_id=invoice), invoice


async def came(till: Till, user: UUID, amount: Decimal, **what: Any) -> UUID:
    async with transaction(till.billing) as connection:
        await store.begin(connection, user)
        made = await store.add_payment(
            connection, user_id=user, amount=amount, currency="USD", provider="stripe", at=DUE, key=None, **what
        )
        report = PaymentReport("completed", f"pi_{made.id.hex}", amount, "USD", made.id)
        await apply_payment_report(connection, "stripe", report, at=DUE)
    return made.id


async def bought(till: Till) -> tuple[UUID, UUID]:
    """A package of 100 credits for 10 dollars; its payment and the user."""
    user = await till.customer()
    package = await till.value("SELECT id FROM credit_packages WHERE price = 10")
    return await came(till, user, Decimal(10), package_id=package), user


async def give(till: Till, payment: UUID, amount: str | None = None, **options: Any) -> Any:
    facts = {"reason": "asked for", "key": None, "clock": till.clock, "actor": "ada", **options}
    return await refund_payment(till.billing, till.providers, payment, Decimal(amount) if amount else None, **facts)


async def test_a_payment_is_given_back_in_parts_until_nothing_is_left(till: Till) -> None:
    payment, invoice = await paid_invoice(till)
    first = await give(till, payment, "30.50")
    assert (first.refund.status, first.payment.status, first.left) == ("completed", "completed", Decimal("69.50"))
    second = await give(till, payment)
    assert (second.refund.amount, second.payment.status, second.left) == (Decimal("69.50"), "refunded", 0)
    with pytest.raises(RefundRefused, match="was given back already, all of it"):
        await give(till, payment)
    assert await till.state(invoice) == ("paid", 100), "giving back by our own decision makes no new debt"
    history = "SELECT status, amount FROM billing_history ORDER BY created_at, amount DESC"
    assert await till.fetch(history) == [
        ("completed", 100),
        ("refunded", Decimal("30.50")),
        ("refunded", Decimal("69.50")),
    ]
    audit = "SELECT actor, action FROM audit_logs WHERE resource_type = 'refund' ORDER BY created_at"
    assert set(await till.fetch(audit)) == {("ada", "refund.pending"), ("ada", "refund.completed")}


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        ("100.01", r"100 are left to give back, not 100\.01"),
        ("0.001", "too many digits"),
        ("0", "cannot be paid"),
        ("-1", "cannot be paid"),
    ],
)
async def test_what_cannot_be_given_back(till: Till, amount: str, message: str) -> None:
    payment, _ = await paid_invoice(till)
    with pytest.raises((RefundRefused, AmountRefused), match=message):
        await give(till, payment, amount)
    assert till.bank.refunds == {}, "nobody was asked"
    assert await till.value("SELECT count(*) FROM payment_refunds") == 0


async def test_only_money_that_came_is_given_back(till: Till) -> None:
    user = await till.customer()
    async with transaction(till.billing) as connection:
        await store.begin(connection, user)
        made = await store.add_payment(
            connection, user_id=user, amount=Decimal(5), currency="USD", provider="stripe", at=DUE, key=None
        )
    with pytest.raises(RefundRefused, match="is pending: only money that came"):
        await give(till, made.id)
    with pytest.raises(RefundRefused, match="there is no payment"):
        await give(till, uuid7())


async def test_what_went_through_a_provider_without_an_adapter_is_not_given_back_here(till: Till) -> None:
    invoice = await till.invoice(await till.customer())
    async with transaction(till.billing) as connection:
        recorded = await record_payment(
            connection, invoice, Decimal(9), "USD", provider="wise", reference="x", paid_at=DUE, idempotency_key="k"
        )
    with pytest.raises(NotConfigured, match="wise is not configured"):
        await give(till, recorded.payment.id)
    assert await till.value("SELECT count(*) FROM payment_refunds") == 0


async def test_refunds_side_by_side_never_sum_to_more_than_came(till: Till) -> None:
    payment, _ = await paid_invoice(till)
    results = await asyncio.gather(*(give(till, payment, "30") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, RefundRefused) for result in results) == 2
    assert await till.value("SELECT refunded_amount FROM payments") == 90
    assert sum(report.amount for report in till.bank.refunds.values()) == 90


async def test_a_key_makes_one_refund(till: Till) -> None:
    payment, _ = await paid_invoice(till)
    first, again = await give(till, payment, "30", key="k"), await give(till, payment, "30", key="k")
    assert first.refund.id == again.refund.id
    assert len(till.bank.refunds) == 1
    with pytest.raises(KeyReused, match="the key 'k' was used for another refund"):
        await give(till, payment, "31", key="k")


async def test_a_refund_whose_answer_is_lost_is_asked_for_again_and_made_once(till: Till) -> None:
    payment, _ = await paid_invoice(till)
    till.bank.loses = 1
    assert (await give(till, payment, "30")).refund.status == "pending"
    with pytest.raises(RefundRefused, match="70 are left"):
        await give(till, payment, "70.01")
    till.after(1)
    assert await resolve_refunds(till.billing, till.providers, clock=till.clock) == {"asked": 1, "ended": 1}
    assert await till.fetch("SELECT status, refunded_amount FROM payments") == [("completed", 30)]
    assert len(till.bank.refunds) == 1


async def test_the_refund_and_its_webhook_are_one(till: Till) -> None:
    payment, _ = await paid_invoice(till)
    desk = StripeDesk(till)
    refund = (await give(till, payment, "30")).refund
    told = refund_object(
        refund.provider_refund_id or "", f"pi_{payment.hex}", 3000, metadata={"tallystick_refund": str(refund.id)}
    )
    assert (await desk.deliver(event("refund.created", told))).outcome == "nothing"
    assert await till.value("SELECT refunded_amount FROM payments") == 30


async def test_a_refund_that_a_bank_returns_counts_no_more(till: Till) -> None:
    payment, user = await bought(till)
    desk = StripeDesk(till)
    refund = (await give(till, payment, "4")).refund
    assert await till.value("SELECT get_user_balance($1)", user) == 60
    told = refund_object(
        refund.provider_refund_id or "", f"pi_{payment.hex}", 400, "failed", failure_reason="lost_or_stolen_card"
    )
    assert (await desk.deliver(event("refund.failed", told))).outcome == "applied"
    assert await till.fetch("SELECT status, refunded_amount FROM payments") == [("completed", 0)]
    assert await till.value("SELECT get_user_balance($1)", user) == 100, "the credits are given again"
    assert await till.fetch("SELECT status FROM billing_history WHERE refund_id IS NOT NULL") == [("failed",)]
    assert (await give(till, payment)).refund.credits_taken == 100


async def test_a_package_takes_its_credits_back_in_proportion(till: Till) -> None:
    payment, user = await bought(till)
    refunds = [await give(till, payment, amount) for amount in ("3.33", "3.33", "3.34")]
    assert sum(made.refund.credits_taken for made in refunds) == 100
    assert await till.value("SELECT get_user_balance($1)", user) == 0
    assert await till.value("SELECT status FROM payments") == "refunded"


async def test_credits_that_were_used_are_not_taken_back(till: Till) -> None:
    payment, user = await bought(till)
    await till.pool.execute("SELECT debit_user_credits($1, 70)", user)
    made = (await give(till, payment)).refund
    assert (made.credits_due, made.credits_taken) == (100, 30)
    assert await till.value("SELECT get_user_balance($1)", user) == 0
    assert await till.value("SELECT owed FROM user_credits WHERE user_id = $1", user) == 0


async def test_an_overpayment_that_was_given_back_pays_no_invoice(till: Till) -> None:
    user = await till.customer()
    first, second = await till.invoice(user), await till.invoice(user)
    async with transaction(till.billing) as connection:
        recorded = await record_payment(
            connection, first, Decimal(130), "USD", provider="manual", reference="x", paid_at=DUE, idempotency_key="k"
        )
    made = await give(till, recorded.payment.id, "30")
    assert made.refund.provider_refund_id == f"manual-{made.refund.id}"
    till.after(0)
    assert await till.collecting.dun() == {"paid": 1}, "the card pays the second invoice, not money that is gone"
    assert await till.fetch("SELECT amount FROM payments WHERE invoice_id = $1", second) == [(100,)]

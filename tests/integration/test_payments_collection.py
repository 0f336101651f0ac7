"""Dunning: charged by the schedule, overdue, suspended, and reactivated when paid; each step once, whoever makes it."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from uuid import UUID

import pytest

from services.billing.payments.charging import NothingToCharge, charge_invoice, resolve_open
from services.billing.payments.invoice_state import refresh_invoice
from services.billing.payments.jobs import payment_jobs
from services.billing.payments.provider import NotConfigured
from services.billing.payments.recording import record_payment
from services.billing.payments.settings import PaymentSettings
from services.billing.payments.topups import execute_topups
from shared.ids import uuid7
from shared.postgres import Pool, transaction
from tests.integration.payment_facts import Till


@pytest.fixture
def till(database_pool: Pool) -> Till:
    return Till(database_pool)


async def steps(till: Till) -> list[tuple[object, ...]]:
    return await till.fetch("SELECT step, action FROM dunning_attempts ORDER BY step")


async def subscription(till: Till, user: UUID) -> tuple[object, ...]:
    return (await till.fetch("SELECT status::text, suspended_reasons FROM subscriptions WHERE user_id = $1", user))[0]


async def pay(till: Till, invoice: UUID, amount: str = "100") -> None:
    async with transaction(till.billing) as connection:
        await record_payment(
            connection, invoice, Decimal(amount), "USD", provider="manual", reference="x", paid_at=till.clock.now(),
            idempotency_key=uuid7().hex,
        )  # fmt: skip


async def test_an_invoice_is_charged_on_its_due_date_and_not_before(till: Till) -> None:
    invoice = await till.invoice(await till.customer())
    till.after(-1)
    assert await till.collecting.dun() == {}
    till.after(0)
    assert await till.collecting.dun() == {"paid": 1}
    assert await till.state(invoice) == ("paid", 100)
    assert await till.collecting.mark_overdue() == {}


async def test_from_a_declined_card_to_a_suspension_and_back(till: Till) -> None:
    user = await till.customer()
    invoice = await till.invoice(user)
    till.bank.declines = 3
    assert await till.collecting.dun() == {"declined": 1}
    till.after(0.1)
    assert await till.collecting.mark_overdue() == {"overdue": 1}
    assert await till.collecting.dun() == {}, "the next try is days away"
    till.after(3)
    assert await till.collecting.dun() == {"declined": 1}
    assert await subscription(till, user) == ("active", [])
    till.after(7)
    assert await till.collecting.dun() == {"declined": 1}
    assert await till.collecting.dun() == {"suspend": 1}
    assert await till.collecting.dun() == {}
    assert await steps(till) == [(0, "charge"), (1, "charge"), (2, "charge"), (3, "suspend")]
    assert await subscription(till, user) == ("suspended", ["payment_overdue"])
    assert await till.state(invoice) == ("overdue", 0)
    await pay(till, invoice, "99.99")
    assert await subscription(till, user) == ("suspended", ["payment_overdue"])
    await pay(till, invoice, "0.01")
    assert await subscription(till, user) == ("active", [])
    assert await till.state(invoice) == ("paid", 100)
    told = "SELECT convert_from(value, 'UTF8')::jsonb ->> 'type' FROM billing_outbox ORDER BY id"
    assert [kind for (kind,) in await till.fetch(told)] == [
        "tallystick.payment.failed.v1", "tallystick.invoice.overdue.v1", "tallystick.payment.failed.v1",
        "tallystick.payment.failed.v1", "tallystick.invoice.paid.v1",
    ]  # fmt: skip


async def test_a_suspension_lasts_until_every_invoice_that_asked_for_it_is_paid(till: Till) -> None:
    user = await till.customer(card=False)
    invoices = [await till.invoice(user), await till.invoice(user)]
    for day in (0, 3, 7, 7):
        till.after(day)
        await till.collecting.dun()
    await pay(till, invoices[0])
    assert await subscription(till, user) == ("suspended", ["payment_overdue"])
    await pay(till, invoices[1])
    assert await subscription(till, user) == ("active", [])


async def test_a_suspension_ends_when_its_invoice_is_cancelled(till: Till) -> None:
    user = await till.customer(card=False)
    invoice = await till.invoice(user)
    for day in (0, 3, 7, 7):
        till.after(day)
        await till.collecting.dun()
    assert await subscription(till, user) == ("suspended", ["payment_overdue"])
    async with transaction(till.billing) as connection:
        await connection.execute("UPDATE invoices SET status = 'cancelled' WHERE id = $1", invoice)
        await refresh_invoice(connection, invoice, at=till.clock.now())
    assert await subscription(till, user) == ("active", [])


async def test_who_pays_by_transfer_is_reminded(till: Till) -> None:
    user = await till.customer(card=False)
    invoice = await till.invoice(user)
    assert await till.collecting.dun() == {"remind": 1}
    till.after(0.1)
    assert await till.collecting.mark_overdue() == {"overdue": 1}
    assert await till.collecting.mark_overdue() == {}
    alerts = await till.fetch("SELECT type, cause FROM billing_alerts ORDER BY cause")
    assert alerts == [("invoice_overdue", f"invoice {invoice}"), ("invoice_overdue", f"invoice {invoice}, reminder 1")]
    assert await subscription(till, user) == ("active", [])


async def test_after_a_downtime_a_card_is_not_charged_for_every_missed_step(till: Till) -> None:
    await till.invoice(await till.customer())
    till.bank.declines = 9
    till.after(30)
    for _ in range(3):
        await till.collecting.dun()
    assert await steps(till) == [(0, "charge")]
    till.after(33)
    await till.collecting.dun()
    assert await steps(till) == [(0, "charge"), (1, "charge")]


async def test_a_disputed_invoice_is_left_alone(till: Till) -> None:
    invoice = await till.invoice(await till.customer())
    await till.pool.execute("UPDATE invoices SET disputed_at = now(), dispute_reason = 'wrong' WHERE id = $1", invoice)
    till.after(9)
    assert await till.collecting.dun() == {}
    assert await till.collecting.mark_overdue() == {}


async def test_two_workers_charge_an_invoice_once(till: Till) -> None:
    for _ in range(4):
        await till.invoice(await till.customer())
    await asyncio.gather(*(till.collecting.dun() for _ in range(4)))
    assert till.bank.taken == 400
    assert len(till.bank.made) == 4
    assert await till.value("SELECT count(*) FROM dunning_attempts") == 4
    assert await till.value("SELECT count(*) FROM invoices WHERE status = 'paid'") == 4


async def test_a_person_and_a_worker_charge_an_invoice_once(till: Till) -> None:
    user = await till.customer()
    invoice = await till.invoice(user)

    async def by_hand(key: str) -> object:
        return await charge_invoice(till.billing, till.providers, str(invoice), key=key, clock=till.clock)

    await asyncio.gather(by_hand("a"), by_hand("b"), till.collecting.dun(), return_exceptions=True)
    assert till.bank.taken == 100
    assert await till.state(invoice) == ("paid", 100)
    with pytest.raises(NothingToCharge, match="is paid: there is nothing to pay"):
        await by_hand("c")


async def test_a_charge_whose_answer_is_lost_is_asked_about_again_and_made_once(till: Till) -> None:
    invoice = await till.invoice(await till.customer())
    till.bank.loses = 1
    assert await till.collecting.dun() == {"under way": 1}
    till.after(1)
    assert await till.collecting.dun() == {}, "a payment of it is under way"
    assert await till.collecting.mark_overdue() == {}
    assert await resolve_open(till.billing, till.providers, clock=till.clock) == {"asked": 1, "ended": 1}
    assert await till.state(invoice) == ("paid", 100)
    assert till.bank.taken == 100
    assert len(till.bank.asked) == 2


async def test_a_charge_that_was_stored_before_a_crash_is_asked_for_later(till: Till) -> None:
    invoice = await till.invoice(await till.customer())
    till.bank.dies = True
    with pytest.raises(RuntimeError):
        await till.collecting.dun()
    till.bank.dies = False
    till.after(1)
    await resolve_open(till.billing, till.providers, clock=till.clock)
    assert await till.state(invoice) == ("paid", 100)


async def test_who_has_no_card_cannot_be_charged(till: Till) -> None:
    invoice = await till.invoice(await till.customer(card=False))
    with pytest.raises(NothingToCharge, match="no payment method that can be charged"):
        await charge_invoice(till.billing, till.providers, str(invoice), key="k", clock=till.clock)


async def test_dunning_without_a_key_for_stripe_fails_and_stores_nothing(till: Till) -> None:
    await till.invoice(await till.customer())
    dun = next(job for job in payment_jobs(till.billing, till.clock, settings=PaymentSettings()) if job.name == "dun")
    with pytest.raises(NotConfigured, match="TALLYSTICK_STRIPE_API_KEY"):
        await dun.effect(till.clock.now())
    assert await till.value("SELECT (SELECT count(*) FROM payments) + (SELECT count(*) FROM dunning_attempts)") == 0


async def test_the_jobs_do_what_is_due(till: Till) -> None:
    invoice = await till.invoice(await till.customer(card=False))
    till.after(0.1)
    jobs = payment_jobs(till.billing, till.clock, settings=PaymentSettings())
    results = {job.name: await job.effect(till.clock.now()) for job in jobs}
    assert results == {
        "dun": {"remind": 1},
        "mark overdue": {"overdue": 1},
        "resolve payments": {"payments": 0, "refunds": 0, "open": 0},
        "pay top-ups": {"completed": 0, "failed": 0, "under way": 0},
    }
    assert await till.state(invoice) == ("overdue", 0)


async def ask_for_topup(till: Till, user: UUID) -> None:
    await till.pool.execute(
        """INSERT INTO topup_requests (id, user_id, cause, package_id, credits, price, currency)
           SELECT gen_random_uuid(), $1, 'low', id, credits, price, currency FROM credit_packages WHERE price = 10""",
        user,
    )


async def test_a_topup_is_charged_once_and_adds_its_credits(till: Till) -> None:
    user = await till.customer()
    await ask_for_topup(till, user)
    await asyncio.gather(*(execute_topups(till.billing, till.providers, clock=till.clock) for _ in range(3)))
    await execute_topups(till.billing, till.providers, clock=till.clock)
    assert till.bank.taken == 10
    assert await till.value("SELECT get_user_balance($1)", user) == 100
    assert await till.fetch("SELECT status FROM topup_requests") == [("completed",)]


async def test_a_topup_that_cannot_be_paid_fails_with_the_reason(till: Till) -> None:
    declined, without_card = await till.customer(), await till.customer(card=False)
    till.bank.declines = 1
    for user in (declined, without_card):
        await ask_for_topup(till, user)
    assert await execute_topups(till.billing, till.providers, clock=till.clock) == {
        "completed": 0,
        "failed": 1,
        "under way": 0,
    }
    failures = await till.fetch("SELECT status, failure FROM topup_requests ORDER BY failure")
    assert failures == [
        ("failed", "card_declined: no money"),
        ("failed", "the customer has no payment method that can be charged"),
    ]

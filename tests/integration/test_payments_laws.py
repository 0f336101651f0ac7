"""The law of payments: what was told, in any order, repeated, some of it side by side, comes to the state of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.billing.payments import store
from services.billing.payments.recording import record_payment
from shared.postgres import Pool, transaction
from tests.integration.payment_facts import DUE, StripeDesk, Till, event, intent, refund_object, session_object

CHARGE = ("charge processing", "charge failed", "charge succeeded")
REFUNDS = ("refund 25 pending", "refund 25 done", "refund 40 done", "refund 40 failed")
PACKAGE = ("page paid", "package succeeded")
TOLD = (*CHARGE, *REFUNDS, *PACKAGE, "package refund 4", "package refund 6", "transfer 30")


@dataclass(slots=True)
class World:
    """A customer with an invoice of 100 that is charged, and a package of 100 credits for 10 that is being bought."""

    desk: StripeDesk
    user: UUID
    invoice: UUID
    charge: UUID
    package: UUID
    bodies: dict[str, bytes]

    @classmethod
    async def make(cls, desk: StripeDesk) -> World:
        till = desk.till
        user = await till.customer()
        invoice = await till.invoice(user)
        chosen = await till.value("SELECT id FROM credit_packages WHERE price = 10")
        charge = await _begin(till, user, 100, invoice_id=invoice)
        package = await _begin(till, user, 10, package_id=chosen)
        pi, ps = f"pi_c{charge.hex}", f"pi_p{package.hex}"
        failed = intent(pi, charge, 10000, "requires_payment_method", last_payment_error={"code": "card_declined"})

        def refund(name: str, transaction_id: str, units: int, status: str = "succeeded") -> bytes:
            return event("refund.updated", refund_object(f"re_{name}{charge.hex}", transaction_id, units, status))

        bodies = {
            "charge processing": event("payment_intent.processing", intent(pi, charge, 10000, "processing")),
            "charge failed": event("payment_intent.payment_failed", failed),
            "charge succeeded": event("payment_intent.succeeded", intent(pi, charge, 10000)),
            "refund 25 pending": refund("a", pi, 2500, "pending"),
            "refund 25 done": refund("a", pi, 2500),
            "refund 40 done": refund("b", pi, 4000),
            "refund 40 failed": refund("b", pi, 4000, "failed"),
            "page paid": event("checkout.session.completed", session_object(f"cs_{package.hex}", package, ps, 1000)),
            "package succeeded": event("payment_intent.succeeded", intent(ps, package, 1000)),
            "package refund 4": refund("c", ps, 400),
            "package refund 6": refund("d", ps, 600),
        }
        return cls(desk, user, invoice, charge, package, bodies)

    def tell(self, what: str) -> Awaitable[Any]:
        return self.desk.deliver(self.bodies[what]) if what in self.bodies else self._transfer()

    async def _transfer(self) -> None:
        async with transaction(self.desk.till.billing) as connection:
            await record_payment(
                connection, self.invoice, Decimal(30), "USD", provider="manual", reference="x", paid_at=DUE,
                idempotency_key=f"t{self.invoice}",
            )  # fmt: skip

    async def state(self) -> dict[str, Any]:
        till = self.desk.till
        payment = "SELECT status, refunded_amount FROM payments WHERE id = $1"
        history = "SELECT status FROM billing_history WHERE payment_id = $1 AND refund_id IS NULL"
        return {
            "charge": tuple(await till.row(payment, self.charge)),
            "package": tuple(await till.row(payment, self.package)),
            "told of the charge": await till.value(history, self.charge),
            "invoice": await till.state(self.invoice),
            "allocated": await till.value(
                "SELECT sum(amount) FROM payment_allocations WHERE invoice_id = $1", self.invoice
            ),
            "credits": await till.value("SELECT get_user_balance($1)", self.user),
        }


async def _begin(till: Till, user: UUID, amount: int, **what: Any) -> UUID:
    async with transaction(till.billing) as connection:
        await store.begin(connection, user)
        made = await store.add_payment(
            connection,
            user_id=user,
            amount=Decimal(amount),
            currency="USD",
            provider="stripe",
            at=DUE,
            key=None,
            **what,
        )
    return made.id


def model(told: set[str]) -> dict[str, Any]:
    """What must come of a set of facts, whoever told them when. A refund of a payment that nobody has named yet waits."""
    known, refunds = bool(told & set(CHARGE)), told & set(REFUNDS)
    came = "charge succeeded" in told or (known and bool(refunds))
    back = 25 * (known and "refund 25 done" in told) + 40 * (
        known and refunds & {"refund 40 done", "refund 40 failed"} == {"refund 40 done"}
    )
    rank = next(
        (s for s, fact in (("failed", "charge failed"), ("processing", "charge processing")) if fact in told), "pending"
    )
    bought = bool(told & set(PACKAGE))
    returned = (4 * ("package refund 4" in told) + 6 * ("package refund 6" in told)) * bought
    paid = min(100, 100 * came + 30 * ("transfer 30" in told))
    return {
        "charge": ("completed" if came else rank, back),
        "package": ("refunded" if returned == 10 else "completed" if bought else "pending", returned),
        "told of the charge": "completed" if came else "failed" if rank == "failed" else "pending",
        "invoice": ("paid" if paid == 100 else "partially_paid" if paid else "sent", paid),
        "allocated": paid or None,
        "credits": 100 * bought - 10 * returned,
    }


tellings = st.lists(st.lists(st.sampled_from(TOLD), min_size=1, max_size=3), min_size=1, max_size=9)


@pytest.fixture
def desk(database_pool: Pool) -> StripeDesk:
    return StripeDesk(Till(database_pool))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches=tellings)
async def test_law_any_order_and_repetition_comes_to_the_same(desk: StripeDesk, batches: list[list[str]]) -> None:
    world = await World.make(desk)
    for batch in batches:
        await asyncio.gather(*(world.tell(what) for what in batch))
    told = {what for batch in batches for what in batch}
    assert await world.state() == model(told)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(TOLD))
async def test_law_everything_in_any_order_comes_to_the_same(desk: StripeDesk, order: list[str]) -> None:
    world = await World.make(desk)
    for what in order:
        await world.tell(what)
    assert await world.state() == model(set(TOLD))
    waiting = "SELECT count(*) FROM payment_events WHERE outcome IN ('waiting', 'refused')"
    assert await desk.till.value(waiting) == 0
    assert (await world.tell("charge succeeded")).outcome == "duplicate"

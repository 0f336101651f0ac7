"""Routes that move credits: a package is bought, credits are debited."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from services.api.auth.asking import Asking, having
from services.api.auth.principal import Principal
from services.api.database import BILLING
from services.api.fields import Amount, Answer, Body
from services.api.idempotency import IdempotencyKey
from services.api.problems import FORBIDDEN, Problem
from services.api.state import state_of
from services.billing.credits import desk
from services.billing.payments.charging import start_checkout
from services.billing.payments.methods import find_user

router = APIRouter(prefix="/api/v1/credits", tags=["credits"])

Debiting = Annotated[Principal, Depends(having("service", "finance"))]


class Purchase(Body):
    """A package that is to be bought."""

    package: str = Field(min_length=1, max_length=200, description="Id or name of the package.")
    user: str | None = Field(
        None,
        min_length=1,
        max_length=320,
        description="Id or e-mail address of who buys it; finance may name somebody.",
    )


class Checkout(Answer):
    """A payment that has begun, and how to pay it: on a page, or by a bank transfer that names the reference."""

    payment_id: UUID
    status: str
    amount: Amount
    currency: str
    provider: str
    checkout_url: str | None = Field(description="The page to pay on; null for a bank transfer.")
    reference: str = Field(description="What to write with a bank transfer; else the provider's name of the page.")
    instructions: str


class Debit(Body):
    """Credits that are to be taken."""

    user: str = Field(min_length=1, max_length=320, description="Id or e-mail address.")
    amount: Annotated[Amount, Field(gt=0)]
    reason: str = Field(
        min_length=1, max_length=1_000, description="Why, for the customer's history and the audit trail."
    )
    request_id: str | None = Field(None, max_length=512)
    provider: str | None = Field(None, max_length=512)
    model: str | None = Field(None, max_length=512)
    prompt_tokens: int | None = Field(None, ge=0, lt=2**53)
    completion_tokens: int | None = Field(None, ge=0, lt=2**53)
    power_level: str | None = Field(None, pattern="^(eco|balanced|precision)$")


class Posting(Answer):
    """The ledger entry that was made, or that the same key had made before, and the balance after it."""

    transaction_id: UUID
    balance: Amount

    @classmethod
    def of(cls, posted: desk.Posted) -> Posting:
        """Return what the desk says as an answer."""
        return cls(transaction_id=posted.transaction_id, balance=posted.balance)


@router.post("/purchase", status_code=201)
async def purchase_credits(request: Request, principal: Asking, key: IdempotencyKey, body: Purchase) -> Checkout:
    """Begin to buy a package of credits: they are added once the payment has come. The same key gives the same payment."""
    state = state_of(request)
    pool = await state.capabilities.pool(BILLING)
    buyer = principal.user_id
    if body.user is not None:
        if not principal.may("finance"):
            raise Problem(FORBIDDEN, "only finance buys for others: leave `user` out")
        async with pool.acquire() as connection:
            buyer = await find_user(connection, body.user)
    page = await start_checkout(
        pool, state.capabilities.providers, buyer, body.package,
        clock=state.clock, key=f"purchase:{buyer}:{key}", actor=principal.name,
    )  # fmt: skip
    paid = page.payment
    asked = f"{paid.amount:f} {paid.currency}"
    return Checkout(
        payment_id=paid.id,
        status=paid.status,
        amount=paid.amount,
        currency=paid.currency,
        provider=paid.provider,
        checkout_url=page.url or None,
        reference=page.reference,
        instructions=f"pay {asked} at {page.url}"
        if page.url
        else f"transfer {asked} with the reference {page.reference}",
    )


@router.post("/debit")
async def debit_credits(request: Request, principal: Debiting, key: IdempotencyKey, body: Debit) -> Posting:
    """Take credits from an account, all or nothing: a refusal (402) says how much is missing. The same key takes them once."""
    what_for = desk.Request(
        body.request_id, body.provider, body.model, body.prompt_tokens, body.completion_tokens, body.power_level
    )
    async with state_of(request).database.operating(principal, body.reason) as connection:
        user = await desk.find_user(connection, body.user)
        posted = await desk.debit(connection, user, body.amount, why=body.reason, key=key, request=what_for)
    return Posting.of(posted)

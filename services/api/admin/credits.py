"""Credits and money that finance gives, takes and gives back."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field

from services.api.admin.fields import Currency, Named, Why
from services.api.admin.listing import fetch_page
from services.api.auth.asking import Finance
from services.api.credits.writing import Posting
from services.api.database import BILLING
from services.api.fields import Amount, Answer, Body, Instant
from services.api.idempotency import IdempotencyKey
from services.api.paging import Listing, Page
from services.api.state import state_of
from services.billing.credits import desk
from services.billing.credits.grants import DEFAULT_PRIORITY, give
from services.billing.payments.refunds import refund_payment

router = APIRouter(prefix="/api/v1/admin", tags=["admin: money"])


class Grant(Body):
    """Prepaid credits that are to be given."""

    user: Named
    amount: Annotated[Amount, Field(gt=0)]
    kind: Literal["bonus", "promotional", "refund", "allowance", "adjustment"] = "promotional"
    priority: int | None = Field(None, ge=0, le=1_000_000, description="The lower is used first; by kind without it.")
    expires_at: Instant | None = None
    why: Why


class MoneyGrant(Body):
    """Money for the next invoices of a customer."""

    user: Named
    amount: Annotated[Amount, Field(gt=0)]
    currency: Currency
    kind: Literal["promotional", "refund", "compensation", "adjustment"] = "promotional"
    priority: int = Field(DEFAULT_PRIORITY, ge=0, le=1_000_000, description="The lower is used first.")
    expires_at: Instant | None = None
    why: Why


class Adjustment(Body):
    """A correction of a balance: credits that are added, or taken where negative, never below zero."""

    user: Named
    amount: Amount
    why: Why


class Given(Answer):
    """A grant of money that was given."""

    grant_id: UUID


class Payment(Answer):
    """A payment, and what it pays."""

    id: UUID
    user_id: UUID
    email: str
    invoice_id: UUID | None
    invoice_number: str | None
    package_id: UUID | None
    package: str | None
    amount: Amount
    currency: str
    status: str
    provider: str
    reference: str | None
    failure_reason: str | None
    refunded_amount: Amount
    allocated_amount: Amount
    processed_at: Instant | None
    created_at: Instant


class RefundWish(Body):
    """Money that is to be given back."""

    amount: Annotated[Amount, Field(gt=0)] | None = Field(None, description="How much; all that is left of it without.")
    why: Why


class Refund(Answer):
    """A refund as it stands: pending until the provider has made it. A bank transfer is given back by you."""

    refund_id: UUID
    payment_id: UUID
    status: str
    amount: Amount
    currency: str
    left: Amount = Field(description="What of the payment can still be given back.")
    credits_due: Amount
    credits_taken: Amount


@router.post("/credits/grants", status_code=201)
async def grant_credits(request: Request, principal: Finance, key: IdempotencyKey, body: Grant) -> Posting:
    """Give prepaid credits. The same key gives them once."""
    async with state_of(request).database.operating(principal, body.why) as connection:
        user = await desk.find_user(connection, body.user)
        posted = await desk.grant(
            connection, user, body.amount, kind=body.kind, why=body.why, key=key, priority=body.priority, expires_at=body.expires_at
        )  # fmt: skip
    return Posting.of(posted)


@router.post("/credits/money-grants", status_code=201)
async def grant_money(request: Request, principal: Finance, body: MoneyGrant) -> Given:
    """Give money that the next invoices use up. It has no ledger in which a key could be found again: look before you repeat it."""
    async with state_of(request).database.operating(principal, body.why) as connection:
        user = await desk.find_user(connection, body.user)
        grant_id = await give(
            connection, user.id, body.amount, body.currency,
            kind=body.kind, reason=body.why, priority=body.priority, expires_at=body.expires_at,
        )  # fmt: skip
        await desk.note_money_grant(
            connection, user, grant_id, amount=body.amount, currency=body.currency, why=body.why
        )
    return Given(grant_id=grant_id)


@router.post("/credits/adjustments", status_code=201)
async def adjust_credits(request: Request, principal: Finance, key: IdempotencyKey, body: Adjustment) -> Posting:
    """Correct a balance, upwards or downwards. The same key corrects it once."""
    async with state_of(request).database.operating(principal, body.why) as connection:
        user = await desk.find_user(connection, body.user)
        posted = await desk.adjust(connection, user, body.amount, why=body.why, key=key)
    return Posting.of(posted)


@router.get("/payments")
async def list_payments(
    request: Request, principal: Finance, paging: Page, user: str | None = None, status: str | None = None
) -> Listing[Payment]:
    """List payments, the newest first."""
    async with state_of(request).database.reading(principal) as connection:
        return await fetch_page(connection, "payments", {"user": user, "status": status}, paging, Payment)


@router.post("/payments/{payment_id}/refunds", status_code=201)
async def refund_money(
    request: Request, principal: Finance, payment_id: UUID, key: IdempotencyKey, body: RefundWish
) -> Refund:
    """Give back a payment, in part or whole, through its provider. Of a package, its credits are taken back as far as they are left."""
    state = state_of(request)
    done = await refund_payment(
        await state.capabilities.pool(BILLING), state.capabilities.providers, payment_id, body.amount,
        reason=body.why, key=f"refund:{payment_id}:{key}", clock=state.clock, actor=principal.name,
    )  # fmt: skip
    made = done.refund
    return Refund(
        refund_id=made.id, payment_id=payment_id, status=made.status, amount=made.amount, currency=made.currency,
        left=done.left, credits_due=made.credits_due, credits_taken=made.credits_taken,
    )  # fmt: skip

"""Routes that read prepaid credits: balance, ledger, grants, packages. The names of fields are the seeds'."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field

from services.api.auth.asking import Asking
from services.api.fields import Answer, Exact, Instant
from services.api.paging import Listing, Page, page
from services.api.problems import NOT_FOUND, Problem
from services.api.scope import Owner
from services.api.state import state_of
from shared.sql import Queries

router = APIRouter(prefix="/api/v1/credits", tags=["credits"])

_SQL: Final = Queries.load("services.api.credits", "reading.sql")

TransactionType = Literal[
    "purchase", "usage", "debit", "refund", "bonus", "promotional", "adjustment", "admin_adjustment", "allowance", "expiry", "reversal",
    "owed_settlement",
]  # fmt: skip


class Money(Answer):
    """An amount of a currency."""

    currency: str
    amount: Exact


class Balance(Answer):
    """A prepaid account. All amounts but `invoice_credit` are credits."""

    user_id: UUID
    balance: Exact = Field(description="What can be used: without what has expired.")
    owed: Exact = Field(description="Usage that the balance did not cover; the next credits pay it first.")
    tier: str
    power_level: str
    monthly_allowance: Exact
    credits_used_this_month: Exact = Field(description="In the present billing cycle.")
    quota_usage_percentage: float | None = Field(
        description="Per cent of the allowance that is used; null without one."
    )
    billing_cycle_start: Instant | None
    billing_cycle_end: Instant | None
    auto_renew: bool
    low_balance_threshold: Exact | None
    auto_topup_threshold: Exact | None
    auto_topup_package_id: UUID | None
    next_expiry: Instant | None = Field(description="When the next credits expire.")
    invoice_credit: list[Money] = Field(description="Money that invoices will be paid with first.")
    updated_at: Instant | None


class Transaction(Answer):
    """An entry of the ledger. Amounts are credits: positive adds, negative takes."""

    id: UUID
    user_id: UUID
    sequence: int = Field(description="Number of the entry in the user's ledger.")
    transaction_type: TransactionType
    amount: Exact
    balance_before: Exact
    balance_after: Exact
    owed_change: Exact
    owed_after: Exact
    description: str | None
    provider: str | None
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    power_level: str | None
    request_id: str | None
    payment_method: str | None
    package_id: UUID | None
    invoice_id: UUID | None
    payment_id: UUID | None
    settlement_id: UUID | None = Field(description="What `/explain` explains, of usage that was debited.")
    created_at: Instant


class Grant(Answer):
    """Credits by where they came from. What is left of an open grant is part of the balance."""

    id: UUID
    user_id: UUID
    transaction_id: UUID
    sequence: int
    kind: str
    name: str | None
    amount: Exact
    remaining: Exact
    used: Exact
    withdrawn: Exact = Field(description="What expired, was refunded or adjusted away.")
    priority: int = Field(description="The lower is used first; then what expires first; then the oldest.")
    expires_at: Instant | None
    package_id: UUID | None
    payment_id: UUID | None
    created_at: Instant


class Package(Answer):
    """Credits for sale."""

    id: UUID
    name: str
    description: str | None
    credits: Exact
    price: Exact
    currency: str
    discount_percentage: Exact
    min_tier: str | None = Field(description="The lowest tier that may buy it; null: everybody.")
    is_featured: bool
    badge_text: str | None
    valid_days: int | None = Field(description="Days after which its credits expire; null: never.")


@router.get("/balance")
async def read_balance(request: Request, principal: Asking, user: Owner) -> Balance:
    """What is left of prepaid credits, what is owed, the allowance of the cycle and what is used of it."""
    state = state_of(request)
    now = state.clock.now()
    async with state.database.reading(principal) as connection:
        row = await connection.fetchrow(_SQL["balance"], user, now)
        money = await connection.fetch(_SQL["money"], user, now)
    if row is None:
        raise Problem(NOT_FOUND, f"there is no user {user}")
    facts = dict(row)
    return Balance(
        **facts | {"balance": max(facts["balance"] - facts.pop("expired"), Decimal(0))},
        quota_usage_percentage=_percentage(facts["credits_used_this_month"], facts["monthly_allowance"]),
        invoice_credit=[Money(**each) for each in money],
    )


@router.get("/transactions")
async def list_transactions(
    *,
    request: Request,
    principal: Asking,
    user: Owner,
    paging: Page,
    transaction_type: Annotated[list[TransactionType] | None, Query(description="Only of these types.")] = None,
) -> Listing[Transaction]:
    """The ledger of prepaid credits, the newest entry first."""
    asked = {"list": "transactions", "user": user, "types": transaction_type}
    [before] = paging.key(asked, int)
    async with state_of(request).database.reading(principal) as connection:
        rows = await connection.fetch(
            _SQL["transactions"], user, transaction_type, before, paging.offset, paging.limit + 1
        )
        total = (
            await connection.fetchval(_SQL["count_transactions"], user, transaction_type) if paging.counted else None
        )
    shown, cursor = page(rows, paging, asked, _number)
    return Listing(items=[Transaction(**row) for row in shown], next_cursor=cursor, total=total)


@router.get("/grants")
async def list_grants(
    *,
    request: Request,
    principal: Asking,
    user: Owner,
    paging: Page,
    only_open: Annotated[bool, Query(alias="open", description="Only those that still pay something.")] = False,
) -> Listing[Grant]:
    """Grants of prepaid credits with what is left of each, the newest first."""
    state = state_of(request)
    now: datetime = state.clock.now()
    asked = {"list": "grants", "user": user, "open": only_open}
    [before] = paging.key(asked, int)
    async with state.database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["grants"], user, now, only_open, before, paging.offset, paging.limit + 1)
        total = await connection.fetchval(_SQL["count_grants"], user, now, only_open) if paging.counted else None
    shown, cursor = page(rows, paging, asked, _number)
    return Listing(items=[Grant(**row) for row in shown], next_cursor=cursor, total=total)


@router.get("/packages")
async def list_packages(request: Request, principal: Asking) -> Listing[Package]:
    """The packages of credits that are for sale."""
    async with state_of(request).database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["packages"])
    return Listing(items=[Package(**row) for row in rows], next_cursor=None)


def _number(row: Any) -> list[int]:
    return [row["sequence"]]


def _percentage(used: Decimal, allowance: Decimal) -> float | None:
    return float(round(used / allowance * 100, 2)) if allowance else None

"""Coupons: made, redeemed by subscriptions, ended. What they take off is decided in services/billing/plans/coupons.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.billing.payments.state import AmountRefused, checked_amount
from services.billing.subscriptions.life import NoSuchSubscription, StepRefused
from shared.ids import uuid7
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.subscriptions.desk", "coupons.sql")


@dataclass(frozen=True, slots=True)
class NewCoupon:
    """A coupon that somebody wants: `percent` off, or `amount_off` the fee, in `currency`, for `periods` billing intervals (None: all)."""

    code: str
    name: str
    percent: Decimal | None = None
    amount_off: Decimal | None = None
    currency: str | None = None
    fee_only: bool = False
    plan_ids: tuple[str, ...] = ()
    periods: int | None = None
    valid_to: datetime | None = None
    max_redemptions: int | None = None


async def create_coupon(connection: Connection, new: NewCoupon, *, now: datetime) -> None:
    """Make a coupon. Raises `StepRefused` for one that is there already, or that makes no sense."""
    if (new.percent is None) == (new.amount_off is None):
        raise StepRefused("a coupon gives a percentage or an amount: name one of them")
    if (new.amount_off is None) != (new.currency is None):
        raise StepRefused("an amount needs a currency, a percentage has none")
    if new.percent is not None and not 0 < new.percent <= 100:
        raise StepRefused(f"{new.percent} per cent cannot be taken off: give more than 0 and at most 100")
    if new.amount_off is not None and new.currency is not None:
        try:
            checked_amount(new.amount_off, new.currency)
        except AmountRefused as error:
            raise StepRefused(str(error)) from None
    if new.plan_ids and (unknown := await connection.fetch(SQL["unknown_plans"], list(new.plan_ids))):
        raise StepRefused(f"there is no plan {unknown[0]['id']}")
    applies_to = "fee" if new.fee_only or new.amount_off is not None else "all"
    try:
        async with connection.transaction():
            await connection.execute(
                SQL["create_coupon"], new.code, new.name, new.percent, new.amount_off, new.currency, applies_to, list(new.plan_ids) or None,
                new.periods, now, new.valid_to, new.max_redemptions,
            )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise StepRefused(f"there is a coupon {new.code} already: what it gives is fixed, make another one") from None
    except asyncpg.CheckViolationError as error:
        raise StepRefused(f"coupon {new.code} makes no sense: it breaks {error.constraint_name}") from None
    await connection.execute(SQL["audit_coupon"], "coupon.created", new.code, None, None)


async def redeem(connection: Connection, subscription_id: UUID, code: str, *, now: datetime, actor: str) -> None:
    """Let a subscription redeem a coupon, once. Raises `StepRefused` for one that is unknown, over, used up, or not for its plan or currency."""
    coupon = await connection.fetchrow(SQL["locked_coupon"], code)
    if coupon is None:
        raise StepRefused(f"there is no coupon {code}")
    subscription = await connection.fetchrow(SQL["redeemer"], subscription_id, code)
    if subscription is None:
        raise NoSuchSubscription(f"there is no subscription {subscription_id}")
    if reason := _why_not(coupon, subscription, now):
        raise StepRefused(f"coupon {code} cannot be redeemed by subscription {subscription_id}: {reason}")
    await connection.execute(SQL["count_redemption"], code)
    await connection.execute(SQL["redeem"], uuid7(), code, subscription_id, now.replace(microsecond=0), actor)
    details = json.dumps({"subscription": str(subscription_id)})
    await connection.execute(SQL["audit_coupon"], "coupon.redeemed", code, details, subscription["user_id"])


def _why_not(coupon: asyncpg.Record, subscription: asyncpg.Record, now: datetime) -> str | None:
    if subscription["already"]:
        return "it has redeemed it already"
    if subscription["status"] in ("cancelled", "expired"):
        return f"that is {subscription['status']}"
    if subscription["billing_mode"] != "postpaid":
        return "it is prepaid, and coupons take off invoices"
    if now < coupon["valid_from"].replace(microsecond=0):
        return f"it is valid from {coupon['valid_from'].isoformat()} on"
    if coupon["valid_to"] is not None and now >= coupon["valid_to"]:
        return f"it was valid until {coupon['valid_to'].isoformat()}"
    if coupon["max_redemptions"] is not None and coupon["redemptions"] >= coupon["max_redemptions"]:
        return f"it was redeemed {coupon['redemptions']} times, as often as it may be"
    if coupon["plan_ids"] is not None and subscription["plan_id"] not in coupon["plan_ids"]:
        return f"it is for {', '.join(coupon['plan_ids'])}"
    if coupon["currency"] not in (None, subscription["currency"]):
        return f"it is in {coupon['currency']}, the subscription in {subscription['currency']}"
    return None


async def list_coupons(connection: Connection) -> list[dict[str, Any]]:
    """Return all coupons, in the order in which they were made."""
    return [dict(row) for row in await connection.fetch(SQL["list_coupons"])]


async def end_coupon(connection: Connection, code: str, at: datetime) -> None:
    """Let nobody redeem a coupon from a time on; who has redeemed it keeps it. Raises `StepRefused` for one that is unknown or over."""
    if await connection.fetchval(SQL["end_coupon"], code, at) is None:
        raise StepRefused(f"there is no coupon {code} that could still be redeemed at {at.isoformat()}")
    await connection.execute(SQL["audit_coupon"], "coupon.ended", code, json.dumps({"at": at.isoformat()}), None)

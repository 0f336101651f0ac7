"""What operators do to credits: look, give, take back, set. Each change is one transaction of the caller, and in the audit trail."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from services.billing.amounts import amount_text
from shared.errors import NotFound, TallystickError
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.credits.desk")
GIVEN = ("bonus", "promotional", "refund", "allowance", "adjustment")
"""Kinds of prepaid credits that an operator gives; purchases come of payments."""

MOST_DIGITS = 18
"""Digits after the point of credits that a person gives or takes: as many as a price may have."""


class CreditsRefused(TallystickError):
    """A change of credits that cannot be; the message says why, and nothing has changed."""


class UnknownUser(NotFound, CreditsRefused):
    """There is no such user, or it is not clear who is meant."""


class User(NamedTuple):
    """Whose credits are meant."""

    id: UUID
    email: str


class Posted(NamedTuple):
    """The ledger entry that a change made, or that the same key had made before, and the balance after it."""

    transaction_id: UUID
    balance: Decimal


class Entry(NamedTuple):
    """A ledger entry that is asked for: `amount` credits of a kind, negative to take back; the same `key` again is the same entry."""

    amount: Decimal
    kind: str
    why: str
    key: str
    priority: int | None = None
    expires_at: datetime | None = None


class Request(NamedTuple):
    """What a debit is for, as far as the gateway tells: kept with the ledger entry."""

    request_id: str | None = None
    provider: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    power_level: str | None = None


@asynccontextmanager
async def refusals() -> AsyncIterator[None]:
    """Turn what the database refuses by a rule of credits into a sentence for a person."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if not (error.sqlstate or "").startswith("TS"):
            raise
        hint = getattr(error, "hint", None)
        raise CreditsRefused(f"{error.args[0]}. {hint}" if hint else str(error.args[0])) from error


async def find_user(connection: Connection, text: str) -> User:
    """Return the user of an id, an e-mail address or a user name. Raises `CreditsRefused` if there is none, or two."""
    rows = await connection.fetch(SQL["user"], text)
    if len(rows) != 1:
        raise UnknownUser(
            f"there is {'no' if not rows else 'more than one'} user '{text}': name the id or the e-mail address"
        )
    return User(*rows[0])


async def account(connection: Connection, user: User, at: datetime) -> dict[str, Any]:
    """Return a user's account, and under `money` what is there for invoices, by currency."""
    row = await connection.fetchrow(SQL["account"], user.id, at)
    if row is None:
        raise UnknownUser(f"there is no user {user.id}")
    money = {m["currency"]: m["amount"] for m in await connection.fetch(SQL["money"], user.id, at)}
    return {**row, "money": money}


async def history(connection: Connection, user: User, limit: int) -> list[dict[str, Any]]:
    """Return the last ledger entries, the latest first, each with the `grants` that it was spread over."""
    rows = await connection.fetch(SQL["history"], user.id, limit)
    return [{**row, "grants": json.loads(row["grants"] or "[]")} for row in rows]


async def grants(connection: Connection, user: User, *, everything: bool = False) -> list[dict[str, Any]]:
    """Return grants of prepaid credits in the order in which they are used."""
    return [dict(row) for row in await connection.fetch(SQL["grants"], user.id, everything)]


async def grant(
    connection: Connection,
    user: User,
    amount: Decimal,
    *,
    kind: str,
    why: str,
    key: str,
    priority: int | None = None,
    expires_at: datetime | None = None,
) -> Posted:
    """Give prepaid credits. The same key again changes nothing, and returns what it did the first time."""
    if kind not in GIVEN:
        raise CreditsRefused(f"'{kind}' credits are not given by hand: kinds are {', '.join(GIVEN)}")
    if not amount > 0:
        raise CreditsRefused(f"{amount} credits cannot be given: 'tallystick credits adjust' takes back")
    entry = Entry(checked(amount), kind, why, key, priority, expires_at)
    return await _post(connection, user, "credits.granted", entry)


async def adjust(connection: Connection, user: User, amount: Decimal, *, why: str, key: str) -> Posted:
    """Correct a balance: upwards by a grant, downwards from what would be used first, never below zero."""
    return await _post(connection, user, "credits.adjusted", Entry(checked(amount), "admin_adjustment", why, key))


async def debit(
    connection: Connection, user: User, amount: Decimal, *, why: str, key: str, request: Request | None = None
) -> Posted:
    """Take credits for what was used outside of metered usage, never below zero. The same key again changes nothing.

    Raises `CreditsRefused`; its cause is asyncpg's error TS001 where there are not enough, whose detail says how much is missing.
    """
    asked = request or Request()
    checked(amount)
    async with refusals():
        posted = Posted(*await connection.fetchrow(SQL["debit"], user.id, amount, why, key, *asked))
    await _note_posting(connection, user, "credits.debited", Entry(-amount, "debit", why, key), posted)
    return posted


def checked(amount: Decimal) -> Decimal:
    """Return an amount of credits as a person may write it. Raises `CreditsRefused` for one with too many digits."""
    exponent = amount.normalize().as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > MOST_DIGITS:
        raise CreditsRefused(f"{amount} credits have too many digits: at most {MOST_DIGITS} after the point")
    return amount


async def _post(connection: Connection, user: User, action: str, entry: Entry) -> Posted:
    async with refusals():
        posted = Posted(*await connection.fetchrow(SQL["add"], user.id, *entry))
    await _note_posting(connection, user, action, entry, posted)
    return posted


async def _note_posting(connection: Connection, user: User, action: str, entry: Entry, posted: Posted) -> None:
    after = {
        "amount": amount_text(entry.amount),
        "kind": entry.kind,
        "why": entry.why,
        "key": entry.key,
        "balance": amount_text(posted.balance),
    }
    await connection.execute(SQL["audit_once"], user.id, action, str(posted.transaction_id), json.dumps(after))


async def note_money_grant(
    connection: Connection, user: User, grant_id: UUID, *, amount: Decimal, currency: str, why: str
) -> None:
    """Note that money was given (`grants.give`)."""
    facts = {"amount": amount_text(amount), "currency": currency, "why": why}
    await _audit(connection, user.id, "credits.money_granted", str(grant_id), facts)


async def rates(connection: Connection) -> list[dict[str, Any]]:
    """Return all rates: what a unit of a currency is worth in credits, from which hour."""
    return [dict(row) for row in await connection.fetch(SQL["rates"])]


async def set_rate(connection: Connection, currency: str, credits_per_unit: Decimal, valid_from: datetime) -> None:
    """Set what a unit of a currency is worth from an hour on. Raises `CreditsRefused` where usage was settled since."""
    checked(credits_per_unit)
    try:
        async with refusals():
            await connection.execute(SQL["set_rate"], currency, valid_from, credits_per_unit)
    except asyncpg.UniqueViolationError:
        raise CreditsRefused(
            f"{currency} has a rate from {valid_from.isoformat()} already: set another from a later hour"
        ) from None
    except (asyncpg.CheckViolationError, asyncpg.StringDataRightTruncationError):
        raise CreditsRefused(
            f"{credits_per_unit} credits for a unit of '{currency}' from {valid_from.isoformat()}: a rate is above zero, for a currency "
            "of three capitals, from a full hour"
        ) from None
    facts = {
        "currency": currency,
        "credits_per_unit": amount_text(credits_per_unit),
        "valid_from": valid_from.isoformat(),
    }
    await _audit(connection, None, "credits.rate_set", currency, facts)


async def tiers(connection: Connection) -> list[dict[str, Any]]:
    """Return the tiers with their allowances."""
    return [dict(row) for row in await connection.fetch(SQL["tiers"])]


async def change_tier(connection: Connection, tier: str, allowance: Decimal, rollover_months: int | None) -> None:
    """Set what a tier includes each month. Accounts that have the tier keep what they have until it is set again."""
    if not await connection.fetchval(SQL["change_tier"], tier, allowance, rollover_months):
        raise CreditsRefused(f"there is no tier '{tier}': 'tallystick credits tier list' shows them")
    facts = {"monthly_allowance": amount_text(allowance), "rollover_months": rollover_months}
    await _audit(connection, None, "credits.tier_changed", tier, facts)


async def set_tier(connection: Connection, user: User, tier: str, *, renews: bool) -> Decimal:
    """Give a user a tier; return the allowance that comes with it, which is granted with the next look if `renews`."""
    allowance = await connection.fetchval(SQL["set_tier"], user.id, tier, renews)
    if allowance is None:
        raise CreditsRefused(f"there is no tier '{tier}': 'tallystick credits tier list' shows them")
    await _audit(connection, user.id, "credits.tier_set", str(user.id), {"tier": tier, "auto_renew": renews})
    return Decimal(allowance)


async def set_topup(
    connection: Connection, user: User, below: Decimal | None, package_id: UUID | None, limit: int
) -> None:
    """Buy a package by itself whenever the balance is below a threshold; None: not any more."""
    await connection.execute(SQL["set_topup"], user.id, below, package_id, limit)
    facts = {
        "below": below if below is None else amount_text(below),
        "package": package_id and str(package_id),
        "limit": limit,
    }
    await _audit(connection, user.id, "credits.topup_set", str(user.id), facts)


async def set_alert(connection: Connection, user: User, below: Decimal | None) -> None:
    """Tell a user when the balance falls below a threshold; None: not any more."""
    await connection.execute(SQL["set_alert"], user.id, below)
    facts = {"below": below if below is None else amount_text(below)}
    await _audit(connection, user.id, "credits.alert_set", str(user.id), facts)


async def _audit(
    connection: Connection, user_id: UUID | None, action: str, record: str, after: Mapping[str, Any] | Sequence[Any]
) -> None:
    await connection.execute(SQL["audit"], user_id, action, record, json.dumps(after))

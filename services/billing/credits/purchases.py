"""Packages of credits: what is on sale, what a payment has bought, and what a refund takes back."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from shared.errors import NotFound, TallystickError
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.credits", "buying.sql")


class NotForSale(TallystickError):
    """A package cannot be bought: there is none of that name, or not for this user."""


class NoSuchPackage(NotFound, NotForSale):
    """There is no package of that id or name."""


class Package(NamedTuple):
    """`credits` for `price` in `currency`, valid for so many days (None: for ever), for users of a tier or above (None: all)."""

    id: UUID
    name: str
    description: str | None
    credits: Decimal
    price: Decimal
    currency: str
    valid_days: int | None
    min_tier: str | None
    is_active: bool


class TakenBack(NamedTuple):
    """What a refund took: `credits` from the balance; `owed`, what was used already; the ledger entry, if there is one."""

    credits: Decimal
    owed: Decimal
    transaction_id: UUID | None
    balance: Decimal


async def packages(connection: Connection, *, everything: bool = False) -> list[Package]:
    """Return the packages that are on sale, or all of them."""
    return [Package(*row) for row in await connection.fetch(SQL["packages"], everything)]


async def offer(connection: Connection, user_id: UUID, package: UUID | str) -> Package:
    """Return the package, by id or name, that a user is about to pay for. Raises `NotForSale`: call it before a payment begins."""
    row = await connection.fetchrow(SQL["offer"], str(package), user_id)
    if row is None:
        raise NoSuchPackage(f"there is no package '{package}': 'tallystick credits package list' shows those on sale")
    *columns, needs, has = row
    found = Package(*columns)
    if not found.is_active:
        raise NotForSale(f"the package '{found.name}' is not on sale any more")
    if has < needs:
        raise NotForSale(f"the package '{found.name}' is for accounts of tier {found.min_tier} or above")
    return found


async def purchase_package(
    connection: Connection, user_id: UUID, package_id: UUID, payment_id: UUID, key: str | None = None
) -> Decimal:
    """Add the credits that a completed payment bought, in the caller's transaction; return the new balance.

    A payment buys once: repeated, it changes nothing. Raises asyncpg's error TS004 that says why a payment does not buy the
    package (another user, currency or price; not completed), TS002 if it has bought something under another key.
    """
    return Decimal(await connection.fetchval(SQL["purchase"], user_id, package_id, payment_id, key))


async def take_back_refunded(connection: Connection, payment_id: UUID, key: str, *, owe: bool = False) -> TakenBack:
    """Take back the credits of a payment in proportion to its `refunded_amount`, which the caller has just updated.

    Raises asyncpg's error TS001 where they are used already, so that the refund is not made; with `owe`, for a refund that has
    happened at the provider, what is used is owed instead. Repeated, it takes nothing.
    """
    return TakenBack(*await connection.fetchrow(SQL["take_back"], payment_id, key, owe))

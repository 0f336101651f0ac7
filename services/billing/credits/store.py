"""The IO of settlement with Postgres. Each function runs in the caller's transaction; the SQL is in queries.sql."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.billing.credits.credits import Account, Claim, Due, Notice, Settlement, rounds
from shared.ids import uuid7
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.credits")


async def act_as_billing(connection: Connection) -> None:
    """Let the audit trail name billing."""
    await connection.execute(SQL["act_as_billing"])


async def unsettled(connection: Connection, users: Sequence[UUID] | None = None) -> list[Due]:
    """Return whose prepaid usage waits to be settled, sorted; of all users unless some are named."""
    return [Due(*row) for row in await connection.fetch(SQL["unsettled"], users)]


async def rates(connection: Connection, at: datetime) -> dict[str, Decimal]:
    """Return how many credits a unit of each currency is worth at a time."""
    return {row["currency"]: row["credits_per_unit"] for row in await connection.fetch(SQL["rates"], at)}


async def raise_unconvertible(connection: Connection, due: Sequence[Due]) -> None:
    """Tell users that usage in a currency without a rate waits, once for each currency."""
    users, currencies = [d.user_id for d in due], [d.currency for d in due]
    await connection.execute(SQL["raise_unconvertible"], [uuid7() for _ in due], users, currencies)


async def lock_accounts(connection: Connection, users: Sequence[UUID]) -> dict[UUID, Account]:
    """Take users' credit accounts for this transaction, making those that are missing."""
    rows = await connection.fetch(SQL["lock_accounts"], users)
    return {user_id: Account(*account) for user_id, *account in rows}


async def claim(connection: Connection, due: Sequence[Due]) -> list[Claim]:
    """Tie the unsettled usage of users, currencies and rates to new settlements, each with an id of its own."""
    rows = await connection.fetch(
        SQL["claim"],
        [uuid7() for _ in due],
        [d.user_id for d in due],
        [d.currency for d in due],
        [d.credits_per_unit for d in due],
    )
    return [Claim(**row) for row in rows]


async def settle(connection: Connection, claims: Sequence[Claim], accounts: Mapping[UUID, Account]) -> list[Settlement]:
    """Post claims to the ledger and record the settlements: what the balance does not cover is owed and suspends.

    `accounts` are the users' as they are locked; each settlement has the account as it leaves it.
    """
    settlements: list[Settlement] = []
    for together in rounds(claims):
        rows = await connection.fetch(
            SQL["settle"], [c.id for c in together], [c.user_id for c in together], [c.credits for c in together]
        )
        posted = {row["id"]: row for row in rows}
        settlements += [_settlement(c, posted[c.id], accounts[c.user_id]) for c in together]
    await _record(connection, settlements)
    return settlements


def _settlement(claim: Claim, posted: Mapping[str, Any], before: Account) -> Settlement:
    after = replace(before, balance=posted["new_balance"], owed=posted["total_owed"])
    return Settlement(claim, claim.credits, posted["debited"], posted["owed_added"], posted["transaction_id"], after)


async def _record(connection: Connection, settlements: Sequence[Settlement]) -> None:
    claims = [s.claim for s in settlements]
    await connection.execute(
        SQL["record"],
        [c.id for c in claims], [c.user_id for c in claims], [c.window_start for c in claims], [c.window_end for c in claims],
        [c.rated_amount for c in claims], [c.currency for c in claims], [c.credits_per_unit for c in claims],
        [s.credits for s in settlements], [s.debited for s in settlements], [s.owed for s in settlements],
        [s.transaction_id for s in settlements],
    )  # fmt: skip


async def use_reserved(connection: Connection, run_id: UUID, named: Sequence[tuple[UUID, UUID]]) -> None:
    """Tie the credits that reservations, named by (subscription, id), hold to the run that rated their usage in this transaction."""
    if named:
        await connection.execute(SQL["use_reserved"], run_id, *zip(*named, strict=True))


async def release_reserved(connection: Connection, users: Sequence[UUID]) -> None:
    """Give back what reservations hold of users' credits whose usage this transaction has debited."""
    await connection.execute(SQL["release_reserved"], users)


async def raise_alerts(connection: Connection, notices: Sequence[Notice]) -> None:
    """Store what users are told."""
    if notices:
        told = [notice.settlement for notice in notices]
        await connection.execute(
            SQL["raise_alerts"],
            [uuid7() for _ in told],
            [s.claim.user_id for s in told],
            [notice.kind for notice in notices],
            [f"settlement {s.claim.id}" for s in told],
            [s.account.low_balance_threshold for s in told],
            [s.account.balance for s in told],
            [notice.message for notice in notices],
        )


async def total_owed(connection: Connection) -> tuple[Decimal, int]:
    """Return the credits that are owed, and by how many users."""
    row = await connection.fetchrow(SQL["owed"])
    return row["credits"], row["users"]

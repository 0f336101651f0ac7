"""The IO of settlement with Postgres. Each function runs in the caller's transaction; the SQL is in queries.sql."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from uuid import UUID

from services.billing.credits.credits import Account, Claim, Notice, Settlement, to_credits
from shared.ids import uuid7
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.credits")


async def act_as_billing(connection: Connection) -> None:
    """Let the audit trail name billing."""
    await connection.execute(SQL["act_as_billing"])


async def unsettled(connection: Connection, users: Sequence[UUID] | None = None) -> list[tuple[UUID, str]]:
    """Return (user, currency) of prepaid usage that waits to be settled, sorted; of all users unless some are named."""
    return [tuple(row) for row in await connection.fetch(SQL["unsettled"], users)]


async def lock_accounts(connection: Connection, users: Sequence[UUID]) -> dict[UUID, Account]:
    """Take users' credit accounts for this transaction, making those that are missing."""
    rows = await connection.fetch(SQL["lock_accounts"], users)
    return {row["user_id"]: Account(row["balance"], row["owed"], row["low_balance_threshold"]) for row in rows}


async def claim(connection: Connection, due: Sequence[tuple[UUID, str]]) -> list[Claim]:
    """Tie the unsettled usage of (user, currency) pairs to new settlements, each with an id of its own."""
    users, currencies = [user for user, _ in due], [currency for _, currency in due]
    return [Claim(**row) for row in await connection.fetch(SQL["claim"], [uuid7() for _ in due], users, currencies)]


async def settle(
    connection: Connection, claims: Sequence[Claim], accounts: Mapping[UUID, Account], credits_per_unit: Decimal
) -> list[Settlement]:
    """Post claims to the ledger and record the settlements: what the balance does not cover is owed and suspends."""
    credits_of = {c.id: to_credits(c.rated_amount, credits_per_unit) for c in claims}
    users = [c.user_id for c in claims]
    posted = await connection.fetch(SQL["settle"], list(credits_of), users, list(credits_of.values()))
    by_id = {row["id"]: row for row in posted}
    settlements = [
        Settlement(
            c,
            credits_of[c.id],
            (row := by_id[c.id])["debited"],
            row["owed_added"],
            row["transaction_id"],
            Account(row["new_balance"], row["total_owed"], accounts[c.user_id].low_balance_threshold),
        )
        for c in claims
    ]
    await _record(connection, settlements, credits_per_unit)
    return settlements


async def _record(connection: Connection, settlements: Sequence[Settlement], credits_per_unit: Decimal) -> None:
    claims = [s.claim for s in settlements]
    await connection.execute(
        SQL["record"],
        [c.id for c in claims], [c.user_id for c in claims], [c.window_start for c in claims], [c.window_end for c in claims],
        [c.rated_amount for c in claims], [c.currency for c in claims], [credits_per_unit for _ in claims],
        [s.credits for s in settlements], [s.debited for s in settlements], [s.owed for s in settlements],
        [s.transaction_id for s in settlements],
    )  # fmt: skip


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

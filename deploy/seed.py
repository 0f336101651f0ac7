"""Fill a migrated database: reference data always, customers and a price list to try things with on request.

Seeding is idempotent: the same seed makes the same ids, and what is there stays as it is.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import asyncpg

from deploy import seed_prices
from deploy.seed_customers import Customers, Subscription, customers
from deploy.seed_prices import NAMESPACE
from shared.clock import SystemClock
from shared.errors import TallystickError
from shared.period import Period
from shared.postgres import Connection, connect
from shared.sql import Queries

LIBRARIES = [
    ("/mongodb/docs", "MongoDB", "mongodb", "https://www.mongodb.com/docs", "8.0"),
    ("/postgres/docs", "PostgreSQL", "postgres", "https://www.postgresql.org/docs", "18"),
    ("/vercel/next.js", "Next.js", "vercel", "https://nextjs.org/docs", "15"),
]
_SQL = Queries.load("deploy", "seed.sql")


class SeedError(TallystickError):
    """The database cannot be seeded. Says why and what to do."""


@dataclass(frozen=True, slots=True)
class SeedResult:
    """How many rows were made; all zero where everything was there already."""

    models: int = 0
    prices: int = 0
    libraries: int = 0
    users: int = 0
    subscriptions: int = 0
    api_keys: int = 0
    credit_accounts: int = 0


async def seed(
    dsn: str,
    *,
    test_data: bool,
    users: int = 200,
    subscriptions: int = 300,
    seed: int = 1,
    now: datetime | None = None,
) -> SeedResult:
    """Insert what is missing, in one transaction, and return how much that was.

    Quota and billing periods are the UTC month that holds `now` (default: the present). Raises `SeedError` where the
    schema is not there or the numbers do not fit, `ServiceUnavailable` when the database does not answer.
    """
    now = now or SystemClock().now()
    try:
        people = customers(seed, users, subscriptions, now)
    except ValueError as error:
        raise SeedError(f"{error}: ask for more users or fewer subscriptions") from error
    connection = await connect(dsn, application_name="tallystick seed")
    try:
        async with connection.transaction():
            await connection.execute(_SQL["act_as_seed"])
            await connection.execute(_SQL["reference_data"])
            return await _seed_test_data(connection, people, seed, now) if test_data else SeedResult()
    except (asyncpg.UndefinedFunctionError, asyncpg.UndefinedTableError) as error:
        raise SeedError("the schema is not there yet: run 'tallystick migrate' first") from error
    finally:
        await connection.close()


async def _seed_test_data(connection: Connection, people: Customers, seed: int, now: datetime) -> SeedResult:
    month = Period.month_of(now)
    result = SeedResult(
        models=await _insert(connection, "models", seed_prices.models()),
        prices=await _insert(connection, "model_prices", seed_prices.prices(now)),
        libraries=await _insert(connection, "libraries", LIBRARIES),
        users=await _insert(connection, "users", people.users),
        subscriptions=await _insert(connection, "subscriptions", people.subscriptions, month.start, month.end),
        api_keys=await _insert(connection, "api_keys", _keys(seed, people.subscriptions)),
        credit_accounts=await _insert(connection, "credit_accounts", (account[:4] for account in people.accounts)),
    )
    granted = [(a.user_id, a.first_credits) for a in people.accounts if a.first_credits > 0]
    await _insert(connection, "add_credits", granted)
    return result


async def _insert(connection: Connection, query: str, rows: Iterable[Sequence[Any]], *more: Any) -> int:
    """Run a statement that takes the columns of `rows` as arrays, then `more`. Returns the number that it answers."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return int(await connection.fetchval(_SQL[query], *columns, *more)) if columns else 0


def _keys(seed: int, subscriptions: Sequence[Subscription]) -> list[tuple[UUID, UUID, str, str, str]]:
    """Return one key for each subscription and a second for every tenth, as rows of `api_keys`.

    Only hashes are kept, of secrets that are drawn here and forgotten: nobody can use these keys, in any installation.
    """
    keys = []
    for number, subscription in enumerate(subscriptions):
        for name in ("default", "batch jobs")[: 2 if number % 10 == 0 else 1]:
            secret = f"ts_{secrets.token_urlsafe(32)}"
            key_hash = hashlib.sha256(secret.encode()).hexdigest()
            id_ = uuid5(NAMESPACE, f"{seed}/key/{number}/{name}")
            keys.append((id_, subscription.id, name, key_hash, secret[:10]))
    return keys

"""Facts for the schema's tests: rows made with as few words as possible, and errors told by their SQLSTATE."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from shared.ids import uuid7
from shared.postgres import Connection

NOON = datetime(2026, 10, 14, 12, tzinfo=UTC)
HISTOGRAM = [0] * 12


async def insert(connection: Connection, table: str, /, **columns: Any) -> asyncpg.Record:
    """Insert one row and return it whole."""
    names, places = ", ".join(columns), ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    statement = f"INSERT INTO {table} ({names}) VALUES ({places}) RETURNING *"  # noqa: S608
    row = await connection.fetchrow(statement, *columns.values())
    assert row is not None
    return row


async def make_user(connection: Connection, **columns: Any) -> UUID:
    """Insert a user and return the id."""
    id_ = uuid7()
    await insert(connection, "users", **{"id": id_, "email": f"{id_.hex}@example.com", **columns})
    return id_


async def make_subscription(connection: Connection, user_id: UUID | None = None, **columns: Any) -> UUID:
    """Insert an active, unlimited, postpaid subscription to a plan, of a new user unless one is given; return its id."""
    id_ = uuid7()
    facts = {
        "id": id_, "user_id": user_id or await make_user(connection), "plan_id": "enterprise", "status": "active",
        "quota_requests": None, "quota_tokens": None, "quota_period_start": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    if "model_id" in columns:
        facts.pop("plan_id")
    await insert(connection, "subscriptions", **{**facts, **columns})
    return id_


async def make_model(connection: Connection, id_: str = "gpt-4o") -> str:
    """Insert a model and return its id."""
    await insert(connection, "models", id=id_, name=id_, provider="openai")
    return id_


async def make_price(connection: Connection, **columns: Any) -> UUID:
    """Insert a price in USD that holds since 2026 and return its id."""
    facts = {"valid_from": datetime(2026, 1, 1, tzinfo=UTC), "currency": "USD"}
    row = await insert(connection, "model_prices", **{**facts, **columns})
    return UUID(int=row["id"].int)


async def log_usage(connection: Connection, subscription_id: UUID, **columns: Any) -> None:
    """Insert a row into usage_logs, without any of what ingest does beside it."""
    facts = {
        "created_at": NOON, "id": uuid7(), "subscription_id": subscription_id, "batch_id": uuid7(), "model_id": "gpt-4o",
        "source": "/gateways/test", "request_id": uuid7().hex,
    }  # fmt: skip
    facts |= columns
    await connection.execute("SELECT ensure_usage_partition($1)", facts["created_at"])
    await insert(connection, "usage_logs", **facts)


async def rate_usage(connection: Connection, subscription_id: UUID, user_id: UUID, **columns: Any) -> asyncpg.Record:
    """Insert a row into rated_usage and return it."""
    facts: dict[str, Any] = {
        "subscription_id": subscription_id, "user_id": user_id, "hour": NOON, "model_id": "gpt-4o",
        "rating_run_id": uuid7(), "billing_mode": "postpaid", "requests": 1,
    }  # fmt: skip
    return await insert(connection, "rated_usage", **{**facts, **columns})


async def make_invoice(connection: Connection, user_id: UUID, **columns: Any) -> UUID:
    """Insert a draft for October 2026 in USD and return its id."""
    facts = {
        "user_id": user_id, "currency": "USD",
        "period_start": datetime(2026, 10, 1, tzinfo=UTC), "period_end": datetime(2026, 11, 1, tzinfo=UTC),
    }  # fmt: skip
    row = await insert(connection, "invoices", **{**facts, **columns})
    return UUID(int=row["id"].int)


async def subscription(connection: Connection, id_: UUID) -> asyncpg.Record:
    """Read a subscription."""
    row = await connection.fetchrow("SELECT * FROM subscriptions WHERE id = $1", id_)
    assert row is not None
    return row


@asynccontextmanager
async def refused(connection: Connection, sqlstate: str, text: str | None = None) -> AsyncIterator[None]:
    """Expect an error with this SQLSTATE whose message matches `text`; the transaction goes on as it was before.

    RESTRICT has a state of its own, 23001, since PostgreSQL 18; here it is the older 23503 everywhere.
    """
    with pytest.raises(asyncpg.PostgresError, match=text) as caught:
        async with connection.transaction():
            yield
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    await connection.execute("SET CONSTRAINTS ALL DEFERRED")
    assert caught.value.sqlstate.replace("23001", "23503") == sqlstate, caught.value


@asynccontextmanager
async def violates(connection: Connection, constraint: str) -> AsyncIterator[None]:
    """Expect that the constraint or the index of this name refuses; the transaction goes on as it was before."""
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
        async with connection.transaction():
            yield
    assert caught.value.constraint_name == constraint, caught.value

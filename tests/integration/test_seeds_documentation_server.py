"""What seed D, the documentation server, has beside its invoices: keys, libraries, tool calls, plans, methods of payment, grants, alerts.

docs/reference/seeds.md says which test proves which row of the seeds.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from shared.ids import uuid7
from shared.postgres import Connection
from tests.integration.schema_facts import (
    NOON,
    insert,
    log_usage,
    make_invoice,
    make_subscription,
    make_user,
    refused,
    subscription,
    violates,
)

REFUSED = (asyncpg.CheckViolationError, asyncpg.NotNullViolationError)


async def make_key(connection: Connection, **columns: Any) -> asyncpg.Record:
    facts = {
        "subscription_id": await make_subscription(connection),
        "key_hash": uuid7().hex * 2,
        "key_prefix": "ts_abc",
    }
    return await insert(connection, "api_keys", **{**facts, **columns})


async def make_library(connection: Connection, id_: str, name: str, chunks: int = 0) -> None:
    """Insert a library with one version and its chunks."""
    await insert(connection, "libraries", id=id_, name=name, metadata='{"tags": ["database"]}')
    version = await insert(connection, "library_versions", library_id=id_, version="7.0", is_latest=True)
    for index in range(chunks):
        await insert(
            connection, "documentation_chunks", library_version_id=version["id"], chunk_index=index, content=f"part {index}",
            content_type="snippet", token_count=10,
        )  # fmt: skip


# --- users and api_keys ----------------------------------------------------------------------------------------------


async def test_a_user_may_have_a_password_a_provider_or_neither(connection: Connection) -> None:
    hashed = "$2b$10$" + "x" * 53
    for columns in ({"password_hash": hashed}, {"oauth_provider": "github", "oauth_id": "42"}, {}):
        await make_user(connection, **columns)
    with pytest.raises(asyncpg.UniqueViolationError):
        async with connection.transaction():
            await make_user(connection, oauth_provider="github", oauth_id="42")


async def test_a_key_has_60_requests_a_minute_and_10_000_a_day_unless_it_says_otherwise(connection: Connection) -> None:
    key = await make_key(connection)
    assert (key["quota_requests_per_minute"], key["quota_requests_per_day"]) == (60, 10_000)
    free = await make_key(connection, quota_requests_per_minute=None, quota_requests_per_day=None)
    assert (free["quota_requests_per_minute"], free["quota_requests_per_day"]) == (None, None), "unlimited"
    for quota in ("quota_requests_per_minute", "quota_requests_per_day"):
        with pytest.raises(asyncpg.CheckViolationError):
            async with connection.transaction():
                await make_key(connection, **{quota: 0})


async def test_a_key_is_stored_as_a_hash_that_is_unique(connection: Connection) -> None:
    key = await make_key(connection)
    async with violates(connection, "api_keys_key_hash_key"):
        await make_key(connection, key_hash=key["key_hash"])
    with pytest.raises(asyncpg.CheckViolationError):  # too short for a hash: a key in clear text
        async with connection.transaction():
            await make_key(connection, key_hash="ts_abcdefghijk")
    with pytest.raises(asyncpg.StringDataRightTruncationError):
        async with connection.transaction():
            await make_key(connection, key_prefix="ts_abcdefgh")


# --- libraries, library_versions, documentation_chunks, tool calls ---------------------------------------------------


async def test_a_library_is_found_by_a_word_of_its_name(connection: Connection) -> None:
    await make_library(connection, "/mongodb/docs", "MongoDB Drivers")
    await make_library(connection, "/vercel/next.js", "Next.js")
    await connection.execute("SET LOCAL enable_seqscan = off")
    search = "SELECT id FROM libraries WHERE to_tsvector('english', name) @@ plainto_tsquery('english', 'driver')"
    assert await connection.fetchval(f"SELECT array_agg(id) FROM ({search}) found") == ["/mongodb/docs"]  # noqa: S608
    plan = await connection.fetch(f"EXPLAIN {search}")
    assert "idx_libraries_name" in "\n".join(row[0] for row in plan)


async def test_a_version_and_a_chunk_of_it_are_there_once(connection: Connection) -> None:
    await make_library(connection, "/a/b", "A B", chunks=2)
    chunk = await connection.fetchrow("SELECT * FROM documentation_chunks WHERE chunk_index = 1")
    async with violates(connection, "library_versions_library_id_version_key"):
        await insert(connection, "library_versions", library_id="/a/b", version="7.0")
    again = {"library_version_id": chunk["library_version_id"], "content": "x"}
    async with violates(connection, "documentation_chunks_library_version_id_chunk_index_key"):
        await insert(connection, "documentation_chunks", **again, chunk_index=1)
    with pytest.raises(asyncpg.CheckViolationError):
        async with connection.transaction():
            await insert(connection, "documentation_chunks", **again, chunk_index=2, content_type="video")


async def test_a_library_goes_with_its_chunks_and_its_usage_stays(connection: Connection) -> None:
    await make_library(connection, "/a/b", "A B", chunks=3)
    id_ = await make_subscription(connection)
    call = {"model_id": None, "tool_name": "query-docs", "library_id": "/a/b", "tokens_returned": 80}
    await log_usage(connection, id_, **call, metadata='{"query": "how to index"}')
    await connection.execute("DELETE FROM libraries WHERE id = '/a/b'")
    assert await connection.fetchval("SELECT count(*) FROM documentation_chunks") == 0
    assert await connection.fetchval("SELECT count(*) FROM library_versions") == 0
    row = await connection.fetchrow("SELECT library_id, query, tokens_returned FROM documentation_usage_logs")
    assert tuple(row) == ("/a/b", "how to index", 80)


async def test_tool_calls_are_read_by_user_and_by_key(connection: Connection) -> None:
    user = await make_user(connection)
    id_ = await make_subscription(connection, user)
    key = await insert(connection, "api_keys", subscription_id=id_, key_hash="a" * 64, key_prefix="ts_abc")
    calls = (("resolve-library-id", key["id"], NOON), ("query-docs", None, NOON + timedelta(minutes=1)))
    for tool, api_key, at in calls:
        await log_usage(connection, id_, model_id=None, tool_name=tool, api_key_id=api_key, created_at=at)
    await log_usage(connection, id_)  # a request to a model is no call of a tool
    newest = "SELECT array_agg(tool_name ORDER BY created_at DESC) FROM documentation_usage_logs WHERE "
    assert await connection.fetchval(newest + "user_id = $1", user) == ["query-docs", "resolve-library-id"]
    assert await connection.fetchval(newest + "api_key_id = $1", key["id"]) == ["resolve-library-id"]


# --- plans and subscriptions -----------------------------------------------------------------------------------------


async def test_plans_are_seeded_with_their_limits(connection: Connection) -> None:
    rows = await connection.fetch("SELECT id, amount, currency, interval, limits, features FROM plans ORDER BY amount")
    names = ("requestsPerMonth", "tokensPerMonth", "concurrentRequests")
    limits = [json.loads(row["limits"]) for row in rows]
    assert [(*row[:4], *map(limit.get, names)) for row, limit in zip(rows, limits, strict=True)] == [
        ("free", 0, "EUR", "month", 1_000, 100_000, 1),
        ("basic", 19, "EUR", "month", 10_000, 1_000_000, 5),
        ("premium", 99, "EUR", "month", 100_000, 10_000_000, 25),
        ("enterprise", 999, "EUR", "month", None, None, 200),
    ]
    assert all(set(limit) == set(names) for limit in limits)
    assert all(json.loads(row["features"]) for row in rows)


@pytest.mark.parametrize(
    "columns",
    [
        {"interval": "week"},
        {"interval_count": 0},
        {"currency": "euro"},
        {"amount": Decimal(-1)},
        {"current_period_start": NOON, "current_period_end": NOON},
        {"current_period_start": NOON},
        {"trial_start": NOON, "trial_end": NOON - timedelta(days=1)},
        {"trial_end": NOON},
    ],
    ids=str,
)
async def test_what_a_subscription_to_a_plan_cannot_be(connection: Connection, columns: dict[str, Any]) -> None:
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.StringDataRightTruncationError)):
        async with connection.transaction():
            await make_subscription(connection, **columns)


async def test_a_subscription_keeps_its_terms(connection: Connection) -> None:
    terms: dict[str, Any] = {
        "amount": Decimal("57.00"), "currency": "EUR", "interval": "month", "interval_count": 3, "cancel_at_period_end": True,
        "current_period_start": NOON, "current_period_end": datetime(2027, 1, 14, 12, tzinfo=UTC),
    }  # fmt: skip
    id_ = await make_subscription(connection, plan_id="basic", **terms)
    row = await subscription(connection, id_)
    assert {name: row[name] for name in terms} == terms
    assert row["plan_id"] == "basic"


# --- invoices, payment_methods, credits, billing_alerts --------------------------------------------------------------


async def test_a_draft_is_in_euro_and_has_no_number_until_it_is_issued(connection: Connection) -> None:
    period = {"period_start": NOON, "period_end": NOON + timedelta(days=30)}
    row = await insert(connection, "invoices", user_id=await make_user(connection), **period)
    assert (row["status"], row["currency"], row["number"], json.loads(row["items"])) == ("draft", "EUR", None, [])
    assert (row["subtotal"], row["tax"], row["total"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "columns",
    [
        {"type": "cash"},
        {"provider": "barter"},
        {"expiry_month": 13},
        {"last_four": "12345"},
    ],
    ids=str,
)
async def test_what_a_payment_method_cannot_be(connection: Connection, columns: dict[str, Any]) -> None:
    facts = {"user_id": await make_user(connection), "type": "card", "provider": "stripe", "provider_method_id": "pm_1"}
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.StringDataRightTruncationError)):
        async with connection.transaction():
            await insert(connection, "payment_methods", **{**facts, **columns})


@pytest.mark.parametrize("provider", ["stripe", "paypal", "wise"])
@pytest.mark.parametrize("type_", ["card", "bank_account", "sepa"])
async def test_every_kind_of_payment_method_is_kept_once(connection: Connection, provider: str, type_: str) -> None:
    method = {"user_id": await make_user(connection), "type": type_, "provider": provider, "provider_method_id": "pm_1"}
    row = await insert(connection, "payment_methods", **method)
    payment = await insert(
        connection, "payments", user_id=row["user_id"], amount=Decimal(1), provider=provider, method_id=row["id"]
    )
    assert (payment["status"], payment["currency"], payment["refunded_amount"]) == ("pending", "EUR", 0)
    async with violates(connection, "payment_methods_user_id_provider_provider_method_id_key"):
        await insert(connection, "payment_methods", **method)
    async with refused(connection, "23503"):  # what a payment was made with stays
        await connection.execute("DELETE FROM payment_methods WHERE id = $1", row["id"])


@pytest.mark.parametrize("type_", ["promotional", "refund", "compensation", "adjustment"])
async def test_money_is_granted_for_a_reason_of_the_seed(connection: Connection, type_: str) -> None:
    user = await make_user(connection)
    grant = await insert(connection, "credits", user_id=user, amount=Decimal("5.00"), reason="a promise", type=type_)
    assert (grant["remaining"], grant["currency"], grant["expires_at"], grant["used_at"]) == (5, "EUR", None, None)
    for wrong in ({"type": "gift"}, {"reason": None}, {"amount": Decimal(0)}):
        facts = {"user_id": user, "amount": Decimal(1), "reason": "x", "type": type_, **wrong}
        with pytest.raises(REFUSED):
            async with connection.transaction():
                await insert(connection, "credits", **facts)


@pytest.mark.parametrize("type_", ["usage_threshold", "payment_failed", "invoice_overdue", "subscription_expiring"])
async def test_every_alert_of_the_seed_is_kept_until_it_is_read(connection: Connection, type_: str) -> None:
    user = await make_user(connection)
    figures = {"threshold": Decimal(80), "current_value": Decimal("81.5")}
    alert = await insert(connection, "billing_alerts", user_id=user, type=type_, message="look", **figures)
    unread = "SELECT count(*) FROM billing_alerts WHERE user_id = $1 AND NOT is_read"
    assert await connection.fetchval(unread, user) == 1
    read = "UPDATE billing_alerts SET is_read = true WHERE id = $1 RETURNING read_at"
    assert await connection.fetchval(read, alert["id"]) is not None
    assert await connection.fetchval(unread, user) == 0
    with pytest.raises(asyncpg.CheckViolationError):
        async with connection.transaction():
            await insert(connection, "billing_alerts", user_id=user, type="weather", message="rain")


async def test_a_payment_names_its_invoice_and_both_outlast_a_try_to_delete_them(connection: Connection) -> None:
    user = await make_user(connection)
    invoice = await make_invoice(connection, user)
    await insert(
        connection, "payments", user_id=user, invoice_id=invoice, amount=Decimal(1), currency="USD", provider="manual"
    )
    async with refused(connection, "23503"):
        await connection.execute("DELETE FROM invoices WHERE id = $1", invoice)

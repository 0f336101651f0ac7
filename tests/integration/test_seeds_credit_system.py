"""What seed B, the credit system, has beside its credits: packages, power levels, its words for the log, users' provider keys, its script.

docs/reference/seeds.md says which test proves which row of the seeds; those of the ledger are in test_credit_functions.py.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from deploy.migrate import read_migrations
from services.cli.main import run
from shared.ids import uuid7
from shared.postgres import Connection
from tests.integration.schema_facts import (
    NOON,
    insert,
    log_usage,
    make_model,
    make_price,
    make_subscription,
    make_user,
    violates,
)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
TOKEN = "gAAAAABm" + "x" * 90
"""Looks like a key encrypted by Fernet."""


# --- credit_packages and power_level_configs -------------------------------------------------------------------------


async def test_packages_are_seeded_as_they_are_listed(connection: Connection) -> None:
    rows = await connection.fetch(
        """SELECT name, credits, price, currency, discount_percentage, badge_text, is_active, min_tier
           FROM credit_packages ORDER BY sort_order"""
    )
    assert [tuple(row) for row in rows] == [
        ("Starter Pack", 100, 10, "USD", 0, None, True, None),
        ("Value Pack", 500, 45, "USD", 10, "MOST POPULAR", True, None),
        ("Pro Pack", 1000, 80, "USD", 20, "BEST VALUE", True, None),
        ("Enterprise Pack", 5000, 350, "USD", 30, None, True, None),
    ]
    smallest = rows[0]["price"] / rows[0]["credits"]
    for row in rows:
        assert row["price"] == row["credits"] * smallest * (100 - row["discount_percentage"]) / 100, (
            "the discount is what is saved"
        )


async def test_power_levels_are_seeded_as_they_are_listed(connection: Connection) -> None:
    rows = await connection.fetch(
        """SELECT power_level, name, cost_multiplier, max_latency_ms, min_quality_score, preferred_providers, is_active
           FROM power_level_configs ORDER BY cost_multiplier"""
    )
    assert [(*row[:5], json.loads(row[5]), row[6]) for row in rows] == [
        ("eco", "Eco Mode", Decimal("0.7"), 5000, Decimal("0.70"), ["openrouter", "together", "deepinfra"], True),
        ("balanced", "Balanced Mode", 1, 3000, Decimal("0.85"), ["openai", "anthropic", "openrouter"], True),
        ("precision", "Precision Mode", Decimal("1.5"), 2000, Decimal("0.95"), ["anthropic", "openai"], True),
    ]


# --- user_credits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "columns"),
    [
        (asyncpg.CheckViolationError, {"tier": "gold"}),
        (asyncpg.ForeignKeyViolationError, {"power_level": "turbo"}),
        (asyncpg.CheckViolationError, {"balance": Decimal(-1)}),
        (asyncpg.CheckViolationError, {"monthly_allowance": Decimal(-1)}),
        (asyncpg.CheckViolationError, {"billing_cycle_start": NOON, "billing_cycle_end": NOON}),
    ],
)
async def test_what_an_account_cannot_be(
    connection: Connection, refusal: type[Exception], columns: dict[str, Any]
) -> None:
    with pytest.raises(refusal):
        async with connection.transaction():
            await insert(connection, "user_credits", user_id=await make_user(connection), **columns)


async def test_a_user_has_one_account_which_begins_empty(connection: Connection) -> None:
    user = await make_user(connection)
    row = await insert(connection, "user_credits", user_id=user)
    assert (row["balance"], row["tier"], row["power_level"]) == (0, "free", "balanced")
    assert (row["monthly_allowance"], row["auto_renew"], row["credits_used_this_month"]) == (0, False, 0)
    async with violates(connection, "user_credits_user_id_key"):
        await insert(connection, "user_credits", user_id=user)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("user_credits", "tier = 'starter'"),
        ("credit_packages", "price = 11"),
        ("user_provider_keys", "is_active = false"),
        ("subscriptions", "metadata = '{}'"),
        ("invoices", "metadata = '{}'"),
        ("payment_methods", "brand = 'visa'"),
        ("plans", "description = 'new'"),
        ("libraries", "popularity_score = 1"),
    ],
)
async def test_rows_know_when_they_were_changed(connection: Connection, table: str, change: str) -> None:
    """trigger_user_credits_updated_at, trigger_credit_packages_updated_at, and those of the tables of D."""
    user = await make_user(connection)
    span = {"period_start": NOON, "period_end": NOON + timedelta(days=1)}
    facts: dict[str, dict[str, Any]] = {
        "user_credits": {"user_id": user},
        "credit_packages": {"name": "Tiny", "credits": 1, "price": 1},
        "user_provider_keys": {"user_id": user, "provider": "openai", "encrypted_api_key": TOKEN},
        "subscriptions": {"user_id": user, "plan_id": "free"},
        "invoices": {"user_id": user, **span},
        "payment_methods": {"user_id": user, "type": "card", "provider": "stripe", "provider_method_id": "pm_1"},
        "plans": {"id": "team", "name": "Team", "amount": 1, "interval": "month"},
        "libraries": {"id": "/a/b", "name": "A B"},
    }
    row = await insert(connection, table, **facts[table], updated_at=LONG_AGO)
    assert row["updated_at"] == LONG_AGO
    changed = await connection.fetchval(f"UPDATE {table} SET {change} WHERE id = $1 RETURNING updated_at", row["id"])  # noqa: S608
    assert changed > LONG_AGO


async def test_histories_are_read_by_an_index_in_their_order(connection: Connection) -> None:
    await connection.execute("SET LOCAL enable_seqscan = off")
    await connection.execute("SET LOCAL enable_bitmapscan = off")
    for table in ("credit_transactions", "payments", "billing_alerts", "invoices", "billing_history"):
        plan = await connection.fetch(
            f"EXPLAIN SELECT * FROM {table} WHERE user_id = '{uuid7()}' ORDER BY created_at DESC LIMIT 20"  # noqa: S608
        )
        text = "\n".join(row[0] for row in plan)
        assert "Index Scan" in text, table
        assert "Sort" not in text, table


# --- llm_usage_log and schema_version --------------------------------------------------------------------------------


async def test_a_request_is_shown_in_the_words_of_the_credit_system(connection: Connection) -> None:
    user = await make_user(connection)
    id_ = await make_subscription(connection, user, currency="USD")
    await make_model(connection)
    await make_price(connection, model_id="gpt-4o", input_price_per_1k=Decimal("0.01"))
    await log_usage(
        connection, id_, request_id="req_1", session_id="s-1", app_id="crm", provider="openai", power_level="precision",
        request_tokens=1_000, response_tokens=100, latency_ms=2_000, metadata='{"region": "eu"}',
    )  # fmt: skip
    row = await connection.fetchrow(
        "SELECT * FROM llm_usage_log WHERE user_id = $1 AND session_id = 's-1' AND app_id = 'crm'", user
    )
    assert (row["request_id"], row["model"], row["provider"]) == ("req_1", "gpt-4o", "openai")
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (1_000, 100, 1_100)
    assert (row["credits_used"], row["power_level"]) == (Decimal("0.015"), "precision")
    assert (row["latency_ms"], row["tokens_per_second"]) == (2_000, 50)
    assert (row["success"], row["error_category"], row["is_byok"]) == (True, None, False)
    assert (json.loads(row["metadata"]), row["created_at"]) == ({"region": "eu"}, NOON)


@pytest.mark.parametrize(
    ("status", "category"),
    [
        (401, "authentication"), (403, "authentication"), (408, "timeout"), (504, "timeout"), (429, "rate_limited"),
        (400, "invalid_request"), (500, "provider_error"),
    ],
)  # fmt: skip
async def test_a_failure_has_a_category(connection: Connection, status: int, category: str) -> None:
    id_ = await make_subscription(connection)
    await log_usage(connection, id_, status_code=status, error_message="no", latency_ms=0)
    row = await connection.fetchrow("SELECT * FROM llm_usage_log WHERE subscription_id = $1", id_)
    assert (row["success"], row["error_category"], row["error_message"]) == (False, category, "no")
    assert row["tokens_per_second"] is None


async def test_the_versions_of_the_schema_are_the_migrations_it_has_had(connection: Connection) -> None:
    rows = await connection.fetch("SELECT version, description, applied_at FROM schema_version ORDER BY version")
    assert [row["version"] for row in rows] == [migration.version for migration in read_migrations()]
    assert all(row["description"] and row["applied_at"] for row in rows)


# --- user_provider_keys ----------------------------------------------------------------------------------------------


async def test_a_user_has_several_keys_of_a_provider_by_name_and_retires_them(connection: Connection) -> None:
    user = await make_user(connection)
    key = {"user_id": user, "provider": "openai", "encrypted_api_key": TOKEN}
    first = await insert(connection, "user_provider_keys", **key, key_name="work", is_default=True)
    await insert(connection, "user_provider_keys", **key, key_name="home")
    async with violates(connection, "user_provider_keys_user_id_provider_key_name_key"):
        await insert(connection, "user_provider_keys", **key, key_name="home")
    async with violates(connection, "user_provider_keys_check"):
        await connection.execute("UPDATE user_provider_keys SET is_active = false WHERE id = $1", first["id"])
    await connection.execute(
        "UPDATE user_provider_keys SET is_active = false, is_default = false WHERE id = $1", first["id"]
    )
    assert await connection.fetchval("SELECT array_agg(key_name) FROM user_provider_keys WHERE is_active") == ["home"]
    await connection.execute("SELECT anonymise_user($1)", user)
    assert await connection.fetchval("SELECT count(*) FROM user_provider_keys") == 0


async def test_a_provider_key_is_due_for_rotation_after_90_days_and_counts_its_month(connection: Connection) -> None:
    user = await make_user(connection)
    key = await insert(connection, "user_provider_keys", user_id=user, provider="openai", encrypted_api_key=TOKEN)
    assert key["rotation_due_at"] - key["rotated_at"] == timedelta(days=90)
    assert (key["monthly_requests"], key["monthly_tokens"], key["last_used_at"]) == (0, 0, None)
    assert key["usage_month"].day == 1
    due = "SELECT count(*) FROM user_provider_keys WHERE is_active AND rotation_due_at <= $1"
    assert await connection.fetchval(due, key["rotation_due_at"] - timedelta(seconds=1)) == 0
    assert await connection.fetchval(due, key["rotation_due_at"]) == 1
    with pytest.raises(asyncpg.CheckViolationError):
        async with connection.transaction():
            await connection.execute("UPDATE user_provider_keys SET monthly_tokens = -1")


async def test_usage_on_a_users_own_key_is_told_apart(connection: Connection) -> None:
    id_ = await make_subscription(connection, currency="USD")
    await make_model(connection)
    await make_price(connection, model_id="gpt-4o", input_price_per_1k=Decimal("0.01"))
    for byok in (True, False):
        await log_usage(connection, id_, id=uuid7(), byok=byok, request_tokens=1_000)
    rows = await connection.fetch("SELECT is_byok, credits_used FROM llm_usage_log ORDER BY is_byok")
    assert [tuple(row) for row in rows] == [(False, Decimal("0.01")), (True, 0)]


# --- initialize_litellm_db.py [--test-data] [--reset] ----------------------------------------------------------------


async def test_the_script_that_makes_fills_and_resets_a_database(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database)

    async def tallystick(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run, list(arguments))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    async def ask(question: str) -> Any:
        database = await asyncpg.connect(empty_database)
        try:
            return await database.fetchval(question)
        finally:
            await database.close()

    assert (await tallystick("migrate"))[0] == 0
    assert (await tallystick("migrate"))[1].endswith("the schema is up to date\n"), "what is there is left alone"
    code, text = await tallystick("seed", "--test-data")
    assert (code, "200 users" in text) == (0, True)
    code, text = await tallystick("migrate", "--reset")
    assert (code, "repeat with --yes" in text) == (2, True), "nobody drops everything by mistake"
    assert await ask("SELECT count(*) FROM users") == 200
    assert (await tallystick("migrate", "--reset", "--yes"))[0] == 0
    assert await ask("SELECT count(*) FROM users") == 0
    assert await ask("SELECT count(*) FROM credit_packages") == 4

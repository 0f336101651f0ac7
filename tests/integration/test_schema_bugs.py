"""The bugs of the four seeds, each shown to be fixed: the name of the test says what it is now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from shared.ids import uuid7
from shared.postgres import Connection
from tests.integration.schema_facts import (
    HISTOGRAM,
    NOON,
    insert,
    log_usage,
    make_invoice,
    make_model,
    make_price,
    make_subscription,
    make_user,
    rate_usage,
    refused,
    subscription,
    violates,
)

INT4_MAX = 2**31 - 1


# --- A: subscriptions and quotas (check_subscription_quota, check_subscription_transition) ---------------------------


async def standing(connection: Connection, id_: Any) -> tuple[str, list[str]]:
    row = await subscription(connection, id_)
    return row["status"], row["suspended_reasons"]


async def change(connection: Connection, id_: Any, assignments: str) -> tuple[str, list[str]]:
    """Update a subscription and return its status and reasons."""
    await connection.execute(f"UPDATE subscriptions SET {assignments} WHERE id = $1", id_)  # noqa: S608
    return await standing(connection, id_)


async def test_raising_quota_and_usage_in_one_update_does_not_suspend(connection: Connection) -> None:
    id_ = await make_subscription(connection, quota_requests=10)
    assert await change(connection, id_, "quota_requests = 100, used_requests = 50") == ("active", [])


async def test_lowering_the_quota_suspends(connection: Connection) -> None:
    id_ = await make_subscription(connection, quota_tokens=1_000, used_tokens=600)
    assert await change(connection, id_, "quota_tokens = 500") == ("suspended", ["quota_tokens"])
    assert await change(connection, id_, "quota_tokens = NULL") == ("active", [])


async def test_usage_that_equals_the_quota_suspends(connection: Connection) -> None:
    id_ = await make_subscription(connection, quota_requests=10)
    assert await change(connection, id_, "used_requests = 9") == ("active", [])
    assert await change(connection, id_, "used_requests = 10") == ("suspended", ["quota_requests"])


async def test_both_quotas_are_named_and_both_have_to_clear(connection: Connection) -> None:
    id_ = await make_subscription(connection, quota_requests=10, quota_tokens=10)
    assert await change(connection, id_, "used_requests = 10, used_tokens = 10") == (
        "suspended",
        ["quota_requests", "quota_tokens"],
    )
    assert await change(connection, id_, "used_requests = 0") == ("suspended", ["quota_tokens"])


@pytest.mark.parametrize("status", ["pending", "paused", "cancelled", "expired"])
async def test_who_is_not_active_never_becomes_suspended(connection: Connection, status: str) -> None:
    id_ = await make_subscription(connection, quota_requests=10, status=status)
    assert await change(connection, id_, "used_requests = 11") == (status, [])
    assert await connection.fetchval("SELECT suspend_subscription($1, 'admin')", id_) is False


@pytest.mark.parametrize("status", ["active", "trialing"])
async def test_a_reset_reactivates_to_what_it_was(connection: Connection, status: str) -> None:
    id_ = await make_subscription(
        connection, quota_requests=10, status=status, reset_at=datetime(2026, 2, 1, tzinfo=UTC)
    )
    await change(connection, id_, "used_requests = 10")
    rolled = "used_requests = 0, quota_period_start = reset_at, reset_at = reset_at + interval '1 month'"
    assert await change(connection, id_, rolled) == (status, [])


async def test_a_reset_lifts_only_what_quota_had_suspended(connection: Connection) -> None:
    id_ = await make_subscription(connection, quota_requests=10)
    await change(connection, id_, "used_requests = 10")
    assert await connection.fetchval("SELECT suspend_subscription($1, 'payment_overdue')", id_)
    assert await change(connection, id_, "used_requests = 0") == ("suspended", ["payment_overdue"])
    assert await connection.fetchval("SELECT clear_suspension($1, 'payment_overdue')", id_)
    assert await standing(connection, id_) == ("active", [])


async def test_suspending_twice_changes_once(connection: Connection) -> None:
    id_ = await make_subscription(connection)
    changed = [await connection.fetchval("SELECT suspend_subscription($1, 'credits_exhausted')", id_) for _ in range(2)]
    cleared = [await connection.fetchval("SELECT clear_suspension($1, 'credits_exhausted')", id_) for _ in range(2)]
    assert (changed, cleared) == ([True, False], [True, False])
    assert (await subscription(connection, id_))["status_version"] == 2


async def test_quota_reasons_are_derived_not_set(connection: Connection) -> None:
    id_ = await make_subscription(connection, quota_requests=10, used_requests=0)
    async with refused(connection, "TS011", "cannot be suspended for 'quota_requests'"):
        await connection.execute("SELECT suspend_subscription($1, 'quota_requests')", id_)
    await change(connection, id_, "used_requests = 10")
    assert await connection.fetchval("SELECT clear_suspension($1, 'quota_requests')", id_) is False


async def test_a_suspension_is_not_overridden_by_hand(connection: Connection) -> None:
    id_ = await make_subscription(connection)
    await connection.execute("SELECT suspend_subscription($1, 'admin')", id_)
    async with refused(connection, "TS010", r"is suspended \(admin\)"):
        await change(connection, id_, "status = 'active'")
    async with refused(connection, "TS010", "cannot become paused"):
        await change(connection, id_, "status = 'paused'")
    assert await change(connection, id_, "status = 'cancelled'") == ("cancelled", [])
    async with refused(connection, "TS010", "cancelled and cannot become active"):
        await change(connection, id_, "status = 'active'")


async def test_who_comes_back_with_a_used_up_quota_is_suspended_at_once(connection: Connection) -> None:
    id_ = await make_subscription(connection, quota_requests=10, status="paused")
    await change(connection, id_, "used_requests = 11")
    assert await change(connection, id_, "status = 'active'") == ("suspended", ["quota_requests"])
    assert await change(connection, id_, "used_requests = 0") == ("active", [])


async def test_suspended_by_hand_means_by_an_administrator(connection: Connection) -> None:
    id_ = await make_subscription(connection)
    assert await change(connection, id_, "status = 'suspended'") == ("suspended", ["admin"])


async def test_one_live_subscription_per_user_and_model_even_while_suspended(connection: Connection) -> None:
    user, model = await make_user(connection), await make_model(connection)
    first = await make_subscription(connection, user, model_id=model)
    await connection.execute("SELECT suspend_subscription($1, 'admin')", first)
    async with violates(connection, "unique_active_subscription"):
        await make_subscription(connection, user, model_id=model)
    await change(connection, first, "status = 'cancelled'")
    await make_subscription(connection, user, model_id=model)


# --- A: usage (update_usage_summary) ---------------------------------------------------------------------------------


async def import_by_hand(connection: Connection, *rows: dict[str, Any]) -> None:
    """Insert rows through a table that has update_usage_summary as its trigger, as the function's comment tells."""
    await connection.execute(
        "CREATE TEMP TABLE imported (LIKE usage_logs INCLUDING DEFAULTS INCLUDING GENERATED) ON COMMIT DROP"
    )
    await connection.execute(
        "CREATE TRIGGER update_usage_on_log AFTER INSERT ON imported FOR EACH ROW EXECUTE FUNCTION update_usage_summary()"
    )
    for row in rows:
        facts = {
            "created_at": NOON,
            "id": uuid7(),
            "batch_id": uuid7(),
            "model_id": "gpt-4o",
            "source": "/import",
            "request_id": uuid7().hex,
        }
        await insert(connection, "imported", **{**facts, **row})


async def test_a_missing_latency_does_not_erase_the_average(connection: Connection) -> None:
    id_ = await make_subscription(connection)
    await import_by_hand(connection, *({"subscription_id": id_, "latency_ms": ms} for ms in (None, 100, 201, None)))
    row = await connection.fetchrow(
        "SELECT * FROM usage_summaries WHERE subscription_id = $1 AND period_type = 'hour'", id_
    )
    assert (row["request_count"], row["latency_count"], row["avg_latency_ms"]) == (4, 2, Decimal("150.500"))
    assert row["latency_histogram"] == [0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]


async def test_averages_are_not_integer_divisions(connection: Connection) -> None:
    id_ = await make_subscription(connection)
    await import_by_hand(connection, *({"subscription_id": id_, "latency_ms": ms} for ms in [2] * 10 + [1]))
    averages = await connection.fetch("SELECT avg_latency_ms FROM usage_summaries WHERE subscription_id = $1", id_)
    assert {row["avg_latency_ms"] for row in averages} == {Decimal("1.909")}
    shown = await connection.fetchval("SELECT avg_latency_ms FROM usage_statistics WHERE model_id = 'gpt-4o'")
    assert shown == Decimal("1.909")


async def test_hour_day_and_month_are_all_written_in_utc(connection: Connection) -> None:
    await connection.execute("SET LOCAL TimeZone = 'Asia/Kathmandu'")
    id_ = await make_subscription(connection)
    at = datetime(2026, 10, 31, 23, 59, tzinfo=UTC)
    await import_by_hand(
        connection, {"subscription_id": id_, "created_at": at, "request_tokens": 5, "response_tokens": 2}
    )
    rows = await connection.fetch("SELECT * FROM usage_summaries WHERE subscription_id = $1 ORDER BY period_start", id_)
    assert [(row["period_type"], row["period_start"], row["total_tokens"]) for row in rows] == [
        ("month", datetime(2026, 10, 1, tzinfo=UTC), 7),
        ("day", datetime(2026, 10, 31, tzinfo=UTC), 7),
        ("hour", datetime(2026, 10, 31, 23, tzinfo=UTC), 7),
    ]


async def test_imports_count_towards_the_quota_of_their_own_period(connection: Connection) -> None:
    id_ = await make_subscription(
        connection, quota_requests=2, quota_period_start=NOON, reset_at=NOON + timedelta(hours=1)
    )
    times = (NOON - timedelta(seconds=1), NOON, NOON + timedelta(minutes=59), NOON + timedelta(hours=1))
    await import_by_hand(connection, *({"subscription_id": id_, "created_at": at} for at in times))
    assert (await subscription(connection, id_))["used_requests"] == 2
    assert await standing(connection, id_) == ("suspended", ["quota_requests"])


async def test_counters_outgrow_an_int4(connection: Connection) -> None:
    big = 2**53 - 1
    id_ = await make_subscription(connection)
    await change(connection, id_, f"used_requests = {big}, used_tokens = {big}, quota_requests = {big + 1}")
    await log_usage(connection, id_, request_tokens=INT4_MAX, response_tokens=INT4_MAX)
    await insert(
        connection, "usage_summaries", subscription_id=id_, period_type="hour", period_start=NOON, request_count=big,
        request_tokens=big, latency_sum_ms=big, latency_count=1, latency_histogram=[big, *HISTOGRAM[1:]],
    )  # fmt: skip
    assert (
        await connection.fetchval("SELECT total_tokens FROM usage_logs WHERE subscription_id = $1", id_) == 2 * INT4_MAX
    )


async def test_any_month_can_be_logged_and_an_event_cannot_be_logged_twice(connection: Connection) -> None:
    id_, event = await make_subscription(connection), uuid7()
    for year in (2024, 2026, 2031):
        await log_usage(connection, id_, id=event, created_at=datetime(year, 1, 1, tzinfo=UTC))
    async with refused(connection, "23505"):
        await log_usage(connection, id_, id=event, created_at=datetime(2024, 1, 1, tzinfo=UTC))


async def test_prices_of_a_thousandth_of_a_dollar_per_million_do_not_round(connection: Connection) -> None:
    price = Decimal("0.000001")  # $0.001 per 1M tokens
    await make_model(connection)
    await make_price(connection, model_id="gpt-4o", input_price_per_1k=price, cached_input_price_per_1k=price / 4)
    id_ = await make_subscription(connection, currency="USD")
    await log_usage(connection, id_, request_tokens=1, cached_tokens=1)
    assert await connection.fetchval("SELECT credits_used FROM llm_usage_log") == Decimal("0.00000000025")


# --- who is deleted, and what stays (protect_used_subscription) ------------------------------------------------------


async def test_a_subscription_with_usage_cannot_be_deleted(connection: Connection) -> None:
    for use in ("log", "summary", "rated"):
        user = await make_user(connection)
        id_ = await make_subscription(connection, user)
        match use:
            case "log":
                await log_usage(connection, id_)
            case "summary":
                await insert(
                    connection,
                    "usage_summaries",
                    subscription_id=id_,
                    period_type="hour",
                    period_start=NOON,
                    latency_histogram=HISTOGRAM,
                )
            case _:
                await rate_usage(connection, id_, user)
        async with refused(connection, "TS012", "has usage"):
            await connection.execute("DELETE FROM subscriptions WHERE id = $1", id_)


@pytest.mark.parametrize(
    "kept", ["subscriptions", "user_credits", "invoices", "payments", "billing_history", "credits", "billing_alerts"]
)
async def test_deleting_a_user_never_deletes_money_or_usage(connection: Connection, kept: str) -> None:
    user = await make_user(connection)
    match kept:
        case "subscriptions":
            await make_subscription(connection, user)
        case "user_credits":
            await connection.execute("SELECT add_user_credits($1::uuid, 1)", user)
        case "invoices":
            await make_invoice(connection, user)
        case "payments":
            await insert(connection, "payments", user_id=user, amount=Decimal(1), provider="stripe")
        case "billing_history":
            await insert(connection, "billing_history", user_id=user, amount=Decimal(1), status="completed")
        case "credits":
            await insert(connection, "credits", user_id=user, amount=Decimal(1), reason="x", type="promotional")
        case _:
            await insert(connection, "billing_alerts", user_id=user, type="low_balance", message="x")
    async with refused(connection, "23503"):
        await connection.execute("DELETE FROM users WHERE id = $1", user)


async def test_nothing_of_value_is_deleted_by_a_cascade(connection: Connection) -> None:
    cascades = await connection.fetch(
        """SELECT conrelid::regclass::text AS child, confrelid::regclass::text AS parent FROM pg_constraint
           WHERE contype = 'f' AND confdeltype = 'c' ORDER BY 1"""
    )
    assert {(row["child"], row["parent"]) for row in cascades} == {
        ("admin_notes", "users"), ("bridge_tokens", "users"), ("sessions", "users"), ("sync_logs", "users"), ("user_activity", "users"),
        ("user_provider_keys", "users"), ("library_versions", "libraries"), ("documentation_chunks", "library_versions"),
        ("plan_versions", "plans"), ("subscription_terms", "subscriptions"), ("subscription_changes", "subscriptions"),  # of what was never used
        ("alert_settings", "users"), ("webhook_deliveries", "webhook_endpoints"), ("webhook_deliveries", "webhook_messages"),
        ("webhook_attempts", "webhook_deliveries"),  # a log of what was sent, kept for days
        ("reservations", "reservation_holds"), ("reservation_holds", "subscriptions"),  # claims on what was not used
        ("reservation_credits", "reservations"), ("reservation_credits", "credit_holds"), ("credit_holds", "users"),
        ("usage_archive_batches", "usage_archives"), ("usage_archive_sums", "usage_archives"),  # parts of one record, gone on restore
    }  # fmt: skip


async def test_a_user_without_a_past_can_be_deleted(connection: Connection) -> None:
    user = await make_user(connection)
    await insert(connection, "user_activity", user_id=user, action="login")
    await connection.execute("DELETE FROM users WHERE id = $1", user)
    trail = await connection.fetch("SELECT action FROM audit_logs WHERE user_id = $1", user)
    assert {row["action"] for row in trail} == {"user.created", "user.deleted"}


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_logs SET action = 'x'", "DELETE FROM audit_logs", "TRUNCATE audit_logs"]
)
async def test_the_audit_trail_is_append_only(connection: Connection, statement: str) -> None:
    await insert(connection, "audit_logs", action="x")  # refuse_change() answers
    async with refused(connection, "TS003", "audit_logs is append-only"):
        await connection.execute(statement)


# --- B ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["trial", "free", "starter", "professional", "enterprise"])
async def test_both_spellings_of_a_tier_are_accepted(connection: Connection, tier: str) -> None:
    await insert(connection, "user_credits", user_id=await make_user(connection), tier=tier)


async def test_a_provider_key_cannot_be_stored_in_clear_text(connection: Connection) -> None:
    user = await make_user(connection)
    token = "gAAAAABm" + "x" * 90
    await insert(
        connection, "user_provider_keys", user_id=user, provider="openai", encrypted_api_key=token, is_default=True
    )
    async with refused(connection, "23514"):
        await insert(
            connection, "user_provider_keys", user_id=user, provider="openai", key_name="b", encrypted_api_key="sk-abc"
        )
    async with violates(connection, "idx_user_provider_keys_default"):
        await insert(
            connection,
            "user_provider_keys",
            user_id=user,
            provider="openai",
            key_name="c",
            encrypted_api_key=token,
            is_default=True,
        )


# --- C ---------------------------------------------------------------------------------------------------------------


async def test_the_seeds_insert_of_a_user_works(connection: Connection) -> None:
    await connection.execute(
        """INSERT INTO users (email, password_hash, full_name, subscription_tier, email_verified)
           VALUES ('user2@example.com', $1, 'Test User 2', 'pro', true)""",
        "$2b$10$" + "x" * 53,
    )


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        ("valid_email", {"email": "not an address"}),
        ("valid_subscription_tier", {"subscription_tier": "gold"}),
        ("valid_password_hash", {"password_hash": "admin123"}),
        ("valid_roles", {"roles": ["root"]}),
        ("oauth_id_has_provider", {"oauth_id": "x", "oauth_provider": None}),
    ],
)
async def test_what_a_user_cannot_be(connection: Connection, constraint: str, columns: dict[str, Any]) -> None:
    async with violates(connection, constraint):
        await make_user(connection, **columns)


async def test_one_address_is_one_person(connection: Connection) -> None:
    await make_user(connection, email="ada@example.com")
    async with violates(connection, "users_email_any_case"):
        await make_user(connection, email="Ada@Example.com")


async def test_a_session_ends_after_it_begins(connection: Connection) -> None:
    async with violates(connection, "future_expiration"):
        before = datetime(2020, 1, 1, tzinfo=UTC)
        await insert(
            connection, "sessions", user_id=await make_user(connection), family=uuid7(), refresh_token="x", access_token="y",
            expires_at=before, access_expires_at=before, logged_in_at=before,
        )  # fmt: skip


async def test_zero_may_be_charged_and_less_may_not(connection: Connection) -> None:
    user = await make_user(connection)
    await insert(connection, "billing_history", user_id=user, amount=Decimal(0), status="completed")
    async with violates(connection, "amount_is_not_negative"):
        await insert(connection, "billing_history", user_id=user, amount=Decimal(-1), status="completed")
    async with violates(connection, "valid_status"):
        await insert(connection, "billing_history", user_id=user, amount=Decimal(1), status="done")


async def test_no_user_comes_with_the_schema(connection: Connection) -> None:
    assert await connection.fetchval("SELECT count(*) FROM users") == 0


async def test_usage_by_feature_is_what_was_rated(connection: Connection) -> None:
    user = await make_user(connection)
    id_ = await make_subscription(connection, user)
    price = {"price_id": uuid7(), "currency": "USD", "amount": Decimal("0.25")}
    await rate_usage(connection, id_, user, feature_type="chat", requests=2, request_tokens=100, **price)
    await rate_usage(
        connection, id_, user, feature_type="chat", hour=NOON + timedelta(hours=1), response_tokens=5, **price
    )
    row = await connection.fetchrow("SELECT * FROM user_usage_metrics WHERE user_id = $1", user)
    assert (row["feature_type"], row["request_count"], row["total_tokens"], row["total_cost"]) == (
        "chat",
        3,
        105,
        Decimal("0.50"),
    )


# --- D ---------------------------------------------------------------------------------------------------------------


async def test_one_default_payment_method(connection: Connection) -> None:
    user = await make_user(connection)
    card = {"user_id": user, "type": "card", "provider": "stripe", "is_default": True}
    await insert(connection, "payment_methods", **card, provider_method_id="pm_1")
    async with violates(connection, "one_default_payment_method"):
        await insert(connection, "payment_methods", **card, provider_method_id="pm_2")


async def test_a_subscription_is_for_a_model_or_for_a_plan_that_exists(connection: Connection) -> None:
    model = await make_model(connection)
    async with violates(connection, "model_or_plan"):
        await make_subscription(connection, model_id=model, plan_id="basic")
    async with violates(connection, "model_or_plan"):
        await make_subscription(connection, plan_id=None)
    async with refused(connection, "23503"):
        await make_subscription(connection, plan_id="gold")


async def test_calls_of_tools_are_shown_as_the_documentation_server_logs_them(connection: Connection) -> None:
    user = await make_user(connection)
    id_ = await make_subscription(connection, user)
    await log_usage(
        connection,
        id_,
        model_id=None,
        tool_name="query-docs",
        library_id="/mongodb/docs",
        tokens_returned=800,
        latency_ms=42,
    )
    row = await connection.fetchrow("SELECT * FROM documentation_usage_logs")
    assert (row["user_id"], row["tool_name"], row["tokens_returned"], row["response_time_ms"]) == (
        user,
        "query-docs",
        800,
        42,
    )


async def test_active_subscriptions_show_what_remains(connection: Connection) -> None:
    user = await make_user(connection)
    await make_subscription(connection, user, quota_requests=10, used_requests=4)
    await make_subscription(connection, user, plan_id="basic", status="cancelled")
    rows = await connection.fetch("SELECT * FROM active_subscriptions WHERE user_id = $1", user)
    assert [(row["plan_name"], row["remaining_requests"], row["remaining_tokens"]) for row in rows] == [
        ("Enterprise", 6, None)
    ]


async def test_one_latest_version_of_a_library(connection: Connection) -> None:
    await insert(connection, "libraries", id="/a/b", name="A B")
    await insert(connection, "library_versions", library_id="/a/b", version="1", is_latest=True)
    async with violates(connection, "one_latest_version"):
        await insert(connection, "library_versions", library_id="/a/b", version="2", is_latest=True)

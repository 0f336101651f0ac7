"""Every function of the schema is called and does what its comment says."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

from services.billing.rating.rating import Factors, Price, PriceBook, Rated, rate
from services.billing.rating.usage import Quantities, UsageKey
from shared.contracts import LATENCY_BUCKET_COUNT, LATENCY_BUCKETS_MS
from shared.ids import uuid7
from shared.money import MINOR_UNITS, exact, minor_unit
from shared.postgres import Connection
from tests.integration.schema_facts import (
    NOON,
    insert,
    log_usage,
    make_model,
    make_price,
    make_subscription,
    make_user,
    rate_usage,
    refused,
    subscription,
)

Test = TypeVar("Test", bound=Callable[..., Any])
COVERED: set[str] = set()
ELSEWHERE = {
    "test_credit_functions.py": """debit_user_credits add_user_credits settle_user_credits get_user_balance get_quota_usage_percentage
        lock_credit_account replayed_credit_transaction post_credit_transaction suspend_exhausted_subscriptions
        clear_exhausted_subscriptions check_credit_balance""",
    "test_credit_grants.py": """burn_credit_grants open_credit_grant credit_grant_priority expire_credit_grants reverse_user_credits
        settle_credit_windows lock_credit_accounts roll_credit_cycle check_ledger_is_followed protect_credit_rate""",
    "test_credit_upkeep.py": """renew_credit_allowance request_credit_topups purchase_credit_package take_back_refunded_credits""",
    "test_schema_bugs.py": """check_subscription_quota check_subscription_transition suspend_subscription clear_suspension
        protect_used_subscription update_usage_summary refuse_change""",
    "test_schema_billing.py": """protect_model_price protect_rated_usage protect_issued_invoice protect_invoice_line invoice_period
        take_invoice_number complete_credit complete_billing_alert""",
    "test_invoice_corrections.py": "audit_credit_note",
    "test_schema_invoices.py": """party_of_entity party_of_customer erase_billing_profile audit_party invoice_number_text keep_invoice_prefix
        check_invoice_transition audit_invoice complete_invoice_line protect_issued_lines book_credit_note check_credit_note_lines
        check_credit_note usage_line_id keep_invoice_of_lines""",
    "test_payments_recording.py": "audit_payment",
    "test_schema_tenants.py": "app_current_user_id refuse_missing_tenant tenant_relations",
    "test_key_command.py": "audit_api_key",
    "api/test_provider_keys.py": "audit_provider_key",
    "api/test_admin_writing.py": "request_setting",
    "test_billing_reprice.py": "turn_price_book",
    "test_billing_provenance_of_corrections.py": "rated_usage_sources",
    "test_partitions.py": "attach_usage_partition",
    "test_api_key_days.py": "announce_key_limit",
    "test_usage_totals.py": "usage_totals_statement keep_usage_totals repair_usage_totals",
    "test_hours_of_uses.py": "usage_kind note_missing_hours",
    "test_identities.py": "write_usage_ids keep_usage_ids guard_usage_ids begin_usage_id_generation",
    "test_plans.py": "keep_subscription_terms subscription_phase",
    "test_subscriptions.py": "audit_subscription_change save_subscription",
    "test_plans_schema.py": "protect_plan_version version_plan protect_coupon",
    "test_webhooks.py": "queue_webhooks erase_notices",
    "test_alerts.py": "respect_alert_settings announce_low_balance",
    "test_reservations.py": """reserve_many cancel_reservation concurrent_limit expire_reservations expire_reservations_of forget_reservations
        give_back_reserved_credits give_back_reserved_quota release_debited_credits settle_reserved_quota use_reserved_credits""",
    "test_roles.py": "apply_role_rights create_service_roles secure_functions readable_relations",
}


def covers(*functions: str) -> Callable[[Test], Test]:
    """Say which functions a test calls."""

    def note(test: Test) -> Test:
        COVERED.update(functions)
        return test

    return note


async def test_every_function_is_covered(connection: Connection) -> None:
    rows = await connection.fetch(
        """SELECT DISTINCT proname::text AS name FROM pg_proc p
           WHERE pronamespace = 'public'::regnamespace
             AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')"""
    )
    covered = COVERED | {name for names in ELSEWHERE.values() for name in names.split()}
    assert sorted({row["name"] for row in rows} - covered) == [], "say here which test calls each new function"


@pytest.mark.parametrize("file", ELSEWHERE)
def test_what_is_covered_elsewhere_is_named_there(file: str) -> None:
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    assert [name for name in ELSEWHERE[file].split() if name not in text] == []


@covers(
    "update_updated_at_column",
    "default_username",
    "update_notification_preferences_updated_at",
    "update_permissions_updated_at",
)
async def test_users_remember_when_they_were_changed(connection: Connection) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    user = await make_user(connection, email="Ada@example.com", updated_at=long_ago, permissions_updated_at=long_ago)
    row = await connection.fetchrow("SELECT * FROM users WHERE id = $1", user)
    assert (row["username"], row["notification_preferences_updated_at"]) == ("Ada@example.com", None)

    await connection.execute("UPDATE users SET full_name = 'Ada' WHERE id = $1", user)
    row = await connection.fetchrow("SELECT * FROM users WHERE id = $1", user)
    assert row["updated_at"] > long_ago
    assert (row["permissions_updated_at"], row["notification_preferences_updated_at"]) == (long_ago, None)

    await connection.execute(
        """UPDATE users SET roles = '{admin}', notification_preferences = '{"low_balance": true}' WHERE id = $1""", user
    )
    row = await connection.fetchrow("SELECT * FROM users WHERE id = $1", user)
    assert row["permissions_updated_at"] > long_ago
    assert row["notification_preferences_updated_at"] > long_ago


@covers("version_subscription_status", "audit_subscription")
async def test_changes_that_gateways_must_hear_of_are_numbered_and_audited(connection: Connection) -> None:
    id_ = await make_subscription(connection, quota_requests=10)
    await connection.execute("SELECT set_config('tallystick.actor', 'aggregator', true)")
    await connection.execute("UPDATE subscriptions SET used_requests = 9 WHERE id = $1", id_)
    assert (await subscription(connection, id_))["status_version"] == 0
    await connection.execute("UPDATE subscriptions SET used_requests = 10 WHERE id = $1", id_)
    await connection.execute("UPDATE subscriptions SET quota_requests = 20 WHERE id = $1", id_)
    assert (await subscription(connection, id_))["status_version"] == 2
    trail = await connection.fetch(
        "SELECT actor, action, after ->> 'reasons' AS reasons FROM audit_logs WHERE resource_id = $1 ORDER BY before ->> 'status'",
        str(id_),
    )
    assert [tuple(row) for row in trail] == [
        ("aggregator", "subscription.suspended", '["quota_requests"]'),
        ("aggregator", "subscription.active", "[]"),
    ]


@covers("complete_api_key")
async def test_a_key_belongs_to_the_subscriber_and_is_dead_once_revoked(connection: Connection) -> None:
    user = await make_user(connection)
    id_ = await make_subscription(connection, user)
    key = await insert(connection, "api_keys", subscription_id=id_, key_hash="a" * 64, key_prefix="ts_abc")
    assert key["user_id"] == user
    active = await connection.fetchval(
        "UPDATE api_keys SET revoked_at = now() WHERE id = $1 RETURNING is_active", key["id"]
    )
    assert active is False
    async with refused(connection, "23503"):
        await insert(
            connection,
            "api_keys",
            subscription_id=id_,
            user_id=await make_user(connection),
            key_hash="b" * 64,
            key_prefix="x",
        )


@covers("minor_units")
async def test_minor_units_are_those_of_the_rounding_function(connection: Connection) -> None:
    for currency in (*MINOR_UNITS, "EUR", "USD", "CHF"):
        digits = await connection.fetchval("SELECT minor_units($1)", currency)
        assert Decimal(1).scaleb(-digits) == minor_unit(currency), currency


@covers("ensure_usage_partition")
async def test_a_partition_is_made_once_for_a_utc_month(connection: Connection) -> None:
    await connection.execute("SET LOCAL TimeZone = 'Pacific/Auckland'")
    for _ in range(2):
        name = await connection.fetchval("SELECT ensure_usage_partition('2031-01-31T23:30:00Z')")
        assert name == "usage_logs_2031_01"
    await log_usage(connection, uuid7(), created_at=datetime(2031, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC))
    assert await connection.fetchval("SELECT count(*) FROM usage_logs_2031_01") == 1


@covers("seed_reference_data")
async def test_reference_data_comes_back_and_keeps_what_an_operator_changed(connection: Connection) -> None:
    await connection.execute("DELETE FROM credit_packages WHERE name = 'Pro Pack'")
    await connection.execute("UPDATE plans SET amount = 29 WHERE id = 'basic'")
    await connection.execute("SELECT seed_reference_data()")
    assert await connection.fetchval("SELECT price FROM credit_packages WHERE name = 'Pro Pack'") == 80
    assert await connection.fetchval("SELECT amount FROM plans WHERE id = 'basic'") == 29


@covers("get_user_stats")
async def test_user_stats_count_logins_not_sign_ups(connection: Connection) -> None:
    before = await connection.fetchrow("SELECT * FROM get_user_stats()")
    old = datetime(2020, 1, 1, tzinfo=UTC)
    user = await make_user(connection, created_at=old, last_login_at=await connection.fetchval("SELECT now()"))
    await make_user(connection)
    await rate_usage(connection, uuid7(), user, feature_type="chat")
    after = await connection.fetchrow("SELECT * FROM get_user_stats()")
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 1, 1]


@covers("get_user_activity_summary")
async def test_activity_is_summed_by_user(connection: Connection) -> None:
    user = await make_user(connection)
    now = await connection.fetchval("SELECT now()")
    for action, age in (("login", 0), ("export", 1), ("login", 30)):
        await insert(connection, "user_activity", user_id=user, action=action, created_at=now - timedelta(days=age))
    summary = await connection.fetchrow("SELECT * FROM get_user_activity_summary($1)", user)
    assert tuple(summary) == (3, 2, now, "login")
    assert tuple(await connection.fetchrow("SELECT * FROM get_user_activity_summary($1)", uuid7())) == (
        0,
        0,
        None,
        None,
    )


@covers("add_histograms")
async def test_histograms_are_added_bucket_by_bucket(connection: Connection) -> None:
    one, other = list(range(LATENCY_BUCKET_COUNT)), [-5, *[100] * (LATENCY_BUCKET_COUNT - 1)]
    added = await connection.fetchval("SELECT add_histograms($1::bigint[], $2::bigint[])", one, other)
    assert added == [a + b for a, b in zip(one, other, strict=True)]


@covers("refresh_usage_summary")
async def test_the_summary_of_requests_is_refreshed(connection: Connection) -> None:
    await make_model(connection)
    await make_price(connection, model_id="gpt-4o", input_price_per_1k=Decimal("0.01"))
    id_ = await make_subscription(connection, currency="USD")
    await log_usage(connection, id_, provider="openai", request_tokens=500, response_tokens=100, latency_ms=2_000)
    await log_usage(connection, id_, provider="openai", request_tokens=500, status_code=500)
    await log_usage(connection, id_, provider="openai", request_tokens=500, byok=True, power_level="eco")
    await insert(  # by which it knows that the day changed
        connection,
        "usage_summaries",
        subscription_id=id_,
        period_type="day",
        period_start=NOON.replace(hour=0),
        model_id="gpt-4o",
        latency_histogram=[0] * LATENCY_BUCKET_COUNT,
    )
    await connection.execute("SELECT refresh_usage_summary()")
    row = await connection.fetchrow("SELECT * FROM llm_usage_summary WHERE model = 'gpt-4o'")
    assert (row["usage_date"], row["request_count"], row["error_count"], row["byok_count"]) == (NOON.date(), 3, 1, 1)
    assert (row["total_tokens"], row["total_cost"], row["avg_latency_ms"]) == (1_600, Decimal("0.005"), 2_000)
    assert (row["tokens_per_second"], row["success_rate"]) == (50, Decimal("0.6667"))


USAGE = [
    {"power_level": "balanced"},
    {"power_level": "eco", "status_class": 5},
    {"power_level": "precision", "byok": True},
    {"power_level": "precision", "model_id": "billed-errors", "status_class": 4},
    {"model_id": "", "tool_name": "query-docs"},
    {"model_id": "", "feature_type": "analysis"},
    {"model_id": "unpriced"},
    {"model_id": "", "tool_name": "query-docs", "feature_type": "analysis", "hour": NOON.replace(year=2025)},
]


@covers("usage_amount")
@pytest.mark.parametrize("facts", USAGE, ids=str)
async def test_the_amount_shown_is_the_amount_rated(connection: Connection, facts: dict[str, Any]) -> None:
    book = PriceBook.of(
        [
            await price(connection, "model", "gpt-4o", cached="0.00125"),
            await price(connection, "model", "billed-errors", bill_errors=True),
            await price(connection, "tool", "query-docs"),
            await price(connection, "feature", "analysis"),
        ],
        Factors({"eco": Decimal("0.7"), "balanced": Decimal(1), "precision": Decimal("1.5")}, byok=Decimal(0)),
    )
    key = UsageKey(
        **{
            "subscription_id": uuid7(), "hour": NOON, "model_id": "gpt-4o", "tool_name": "", "feature_type": "",
            "power_level": "balanced", "byok": False, "status_class": 2, **facts,
        }
    )  # fmt: skip
    used = Quantities(requests=3, request_tokens=10_001, cached_tokens=4_000, response_tokens=777)
    shown = await connection.fetchval(
        "SELECT usage_amount($1, $2, $3, 'USD', $4, $5, $6, $7, 3, 10001, 4000, 777)",
        key.model_id or None, key.tool_name, key.feature_type, key.hour, key.power_level, key.byok, key.status_class != 2,
    )  # fmt: skip
    rated = rate(key, used, "USD", book)
    assert shown == (rated.amount if isinstance(rated, Rated) else None)


async def price(
    connection: Connection, kind: str, subject: str, *, cached: str | None = None, bill_errors: bool = False
) -> Price:
    """Store a price and return it as rating knows it."""
    if kind == "model":
        await make_model(connection, subject)
    column = {"model": "model_id", "tool": "tool_name", "feature": "feature_type"}[kind]
    with exact():
        prices = {
            "input_price_per_1k": Decimal("0.0025"),
            "output_price_per_1k": Decimal("0.01"),
            "price_per_request": Decimal("0.002"),
        }
    id_ = await make_price(
        connection, **{column: subject}, **prices, bill_errors=bill_errors,
        cached_input_price_per_1k=Decimal(cached) if cached else None,
    )  # fmt: skip
    row = await connection.fetchrow("SELECT * FROM model_prices WHERE id = $1", id_)
    return Price(
        id=id_, kind=kind, subject=subject, currency="USD", valid_from=row["valid_from"], valid_to=row["valid_to"],
        input_per_1k=row["input_price_per_1k"], output_per_1k=row["output_price_per_1k"],
        cached_input_per_1k=row["cached_input_price_per_1k"], per_request=row["price_per_request"], bills_errors=row["bill_errors"],
    )  # fmt: skip


@covers("rated_usage_digest")
async def test_the_digest_of_rated_usage_tells_what_was_rated_not_who_bills_it(connection: Connection) -> None:
    user = await make_user(connection)
    id_ = await make_subscription(connection, user)
    priced = {"price_id": uuid7(), "currency": "USD", "amount": Decimal("0.50"), "multiplier": Decimal(1)}
    await rate_usage(connection, id_, user, **priced)
    digest = "SELECT rated_usage_digest(r) FROM rated_usage r WHERE subscription_id = $1"
    before = await connection.fetchval(digest, id_)
    await connection.execute(
        "UPDATE rated_usage SET invoice_line_id = gen_random_uuid() WHERE subscription_id = $1", id_
    )
    assert await connection.fetchval(digest, id_) == before
    other = await make_subscription(connection, user)
    await rate_usage(connection, other, user, **priced)
    assert await connection.fetchval(digest, other) != before


async def test_the_digest_of_rated_usage_is_what_it_was_when_it_was_made_by_way_of_jsonb(
    connection: Connection,
) -> None:
    """The checksums of lines that were issued then stay true."""
    user = await make_user(connection)
    id_ = await make_subscription(connection, user)
    for name in ("gpt-4o", "", 'a "quoted" \\ model', "línea\n\t\x01\x7f\u2028", "模型 🦙"):
        for latency, amount in ((0, "1.500"), (1250, "-0.0000070"), (3, "12345678901234567890.1")):
            priced = {"price_id": uuid7(), "currency": "USD", "amount": Decimal(amount), "multiplier": Decimal("1.50")}
            await rate_usage(connection, id_, user, model_id=name, feature_type=name[:3], latency_ms=latency, **priced)
    await rate_usage(connection, id_, user, byok=True, status_class=5, latency_ms=7)  # without a price
    rows = await connection.fetch(
        """SELECT rated_usage_digest(r) AS now, ('x' || encode(substr(sha256(convert_to((jsonb_build_array(
                      r.subscription_id, extract(epoch FROM r.hour)::bigint, r.model_id, r.tool_name, r.feature_type, r.power_level, r.byok,
                      r.status_class, r.rating_run_id, r.requests, r.request_tokens, r.response_tokens, r.cached_tokens,
                      r.price_id, trim_scale(r.multiplier), trim_scale(r.amount))
                      || CASE WHEN r.latency_ms = 0 THEN '[]' ELSE to_jsonb(r.latency_ms) END)::text,
                      'UTF8')), 1, 8), 'hex'))::bit(64)::bigint::numeric AS before
           FROM rated_usage r WHERE subscription_id = $1""",
        id_,
    )
    assert [row["now"] for row in rows] == [row["before"] for row in rows]
    assert len({row["now"] for row in rows}) == 16


@covers("anonymise_user")
async def test_an_erased_person_leaves_the_sums(connection: Connection) -> None:
    user = await make_user(connection, full_name="Ada", oauth_id="sub-1")
    id_ = await make_subscription(connection, user)
    await insert(
        connection, "api_keys", subscription_id=id_, key_hash="a" * 64, key_prefix="ts_abc", name="Ada's laptop"
    )
    later = datetime(2099, 1, 1, tzinfo=UTC)
    await insert(
        connection, "sessions", user_id=user, family=uuid7(), refresh_token="x", access_token="y", expires_at=later, access_expires_at=later,
        logged_in_at=NOON,
    )  # fmt: skip
    await connection.execute("SELECT add_user_credits($1::uuid, 10)", user)
    async with refused(connection, "TS012", "still has subscriptions"):
        await connection.execute("SELECT anonymise_user($1)", user)
    await connection.execute("UPDATE subscriptions SET status = 'cancelled' WHERE id = $1", id_)
    await connection.execute("SELECT anonymise_user($1)", user)
    row = await connection.fetchrow("SELECT * FROM users WHERE id = $1", user)
    assert (row["email"], row["full_name"], row["oauth_id"]) == (f"erased-{user}@erased.invalid", None, None)
    assert await connection.fetchval("SELECT count(*) FROM sessions WHERE user_id = $1", user) == 0
    assert tuple(await connection.fetchrow("SELECT is_active, name FROM api_keys WHERE user_id = $1", user)) == (
        False,
        None,
    )
    assert await connection.fetchval("SELECT get_user_balance($1)", user) == 10
    async with refused(connection, "TS005"):
        await connection.execute("SELECT anonymise_user($1)", uuid7())


@covers("audit_change", "complete_audit_entry")
async def test_a_change_is_in_the_audit_trail_with_before_after_and_who_acted(connection: Connection) -> None:
    admin, ada = await make_user(connection), await make_user(connection)
    await connection.execute(
        "SELECT set_config('tallystick.actor', 'grace', true), set_config('app.current_user_id', $1, true)", str(admin)
    )
    await connection.execute(
        "UPDATE users SET subscription_tier = 'pro', full_name = 'Ada Lovelace' WHERE id = $1", ada
    )
    entry = await connection.fetchrow("SELECT * FROM audit_logs WHERE action = 'user.changed' AND user_id = $1", ada)
    assert (entry["actor"], entry["admin_id"]) == ("grace", admin)
    assert json.loads(entry["before"]) == {"subscription_tier": "free"}
    assert json.loads(entry["after"]) == {"subscription_tier": "pro"}, "who somebody is must not live on in the trail"
    assert json.loads(entry["details"])["changed"] == ["full_name", "subscription_tier"]

    await connection.execute("SELECT set_config('app.current_user_id', $1, true)", str(ada))
    await connection.execute("UPDATE users SET subscription_tier = 'free' WHERE id = $1", ada)
    own = await connection.fetchval(
        "SELECT admin_id FROM audit_logs WHERE user_id = $1 AND after ->> 'subscription_tier' = 'free' AND action = 'user.changed'",
        ada,
    )
    assert own is None, "nobody administers themselves"


@covers("audit_run_by_hand")
async def test_a_job_that_somebody_ran_is_in_the_audit_trail(connection: Connection) -> None:
    for worker in ("billing-0", "by hand"):
        await insert(connection, "job_runs", job=f"of {worker}", scheduled_for=NOON, worker=worker)
    rows = await connection.fetch("SELECT resource_id FROM audit_logs WHERE action = 'job.run'")
    assert [row["resource_id"] for row in rows] == ["of by hand"]


@covers("audit_provider_key")
async def test_a_key_at_a_provider_leaves_a_trail_and_nothing_of_the_key(connection: Connection) -> None:
    user = await make_user(connection)
    token = "gAAAA" + "secret" * 20
    await insert(connection, "user_provider_keys", user_id=user, provider="openai", encrypted_api_key=token)
    await connection.execute("UPDATE user_provider_keys SET is_default = true WHERE user_id = $1", user)
    await connection.execute("DELETE FROM user_provider_keys WHERE user_id = $1", user)
    rows = await connection.fetch(
        "SELECT * FROM audit_logs WHERE resource_type = 'provider_key' AND user_id = $1", user
    )
    assert {row["action"] for row in rows} == {"provider_key.created", "provider_key.changed", "provider_key.deleted"}
    assert "secret" not in str([dict(row) for row in rows])


@covers("check_time_zone")
async def test_a_time_zone_that_there_is_not_is_refused(connection: Connection) -> None:
    user = await make_user(connection, time_zone="Asia/Kathmandu")
    async with refused(connection, "TS011", "there is no time zone"):
        await connection.execute("UPDATE users SET time_zone = 'Mars/Olympus' WHERE id = $1", user)


async def test_the_histogram_of_imports_has_the_bounds_of_the_contract(connection: Connection) -> None:
    source = await connection.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'update_usage_summary'")
    assert f"ARRAY[{', '.join(map(str, LATENCY_BUCKETS_MS))}]" in source

"""Every table, function, trigger and view of the four seeds exists under its name: looked up in the catalogue, object by object.

The lists are the seeds', written down from their text; docs/reference/schema.md says what was renamed and why.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.postgres import Connection

SYSTEMS = {
    "A": """users models subscriptions api_keys usage_logs usage_summaries audit_logs active_subscriptions usage_statistics""",
    "B": """user_credits credit_transactions user_provider_keys llm_usage_log provider_health credit_packages power_level_configs
            schema_version llm_usage_summary""",
    "C": """users sessions user_activity admin_notes user_usage_metrics billing_history audit_logs bridge_tokens sync_logs""",
    "D": """users api_keys libraries library_versions documentation_chunks usage_logs documentation_usage_logs invoices payments
            payment_methods subscriptions credits billing_alerts plans""",
}
VIEWS = {
    "active_subscriptions": "v", "usage_statistics": "v", "llm_usage_log": "v", "schema_version": "v", "user_usage_metrics": "v",
    "documentation_usage_logs": "v", "llm_usage_summary": "m", "usage_logs": "p",
}  # fmt: skip
"""What is not an ordinary table: views of the same facts, the materialized view, the partitioned log."""

COLUMNS = {
    # A
    "users": "id username email full_name oauth_provider oauth_id roles is_active last_login_at created_at updated_at "
    # C, D
    "password_hash avatar_url subscription_tier email_verified",
    "models": """id name provider description capabilities context_length input_price_per_1k output_price_per_1k metadata
                 is_active created_at updated_at""",
    "subscriptions": "id user_id model_id status quota_requests quota_tokens used_requests used_tokens reset_at expires_at created_at updated_at "
    "plan_id current_period_start current_period_end cancel_at_period_end amount currency interval interval_count trial_start trial_end metadata",
    "api_keys": "id subscription_id name key_hash key_prefix last_used_at expires_at is_active created_at revoked_at "
    "user_id quota_requests_per_minute quota_requests_per_day",
    "usage_logs": """id subscription_id api_key_id model_id request_tokens response_tokens total_tokens latency_ms status_code error_message
                     metadata created_at tool_name library_id tokens_returned""",
    "usage_summaries": "subscription_id model_id period_type period_start request_count total_tokens error_count avg_latency_ms created_at",
    "audit_logs": "id user_id action resource_type resource_id ip_address user_agent metadata created_at admin_id details",
    "active_subscriptions": "id user_id model_id status username email model_name provider remaining_requests remaining_tokens",
    "usage_statistics": "user_id model_id usage_date request_count total_tokens avg_latency_ms error_count",
    # B
    "user_credits": """id user_id balance tier power_level monthly_allowance credits_used_this_month auto_renew billing_cycle_start
                       billing_cycle_end stripe_customer_id created_at updated_at""",
    "credit_transactions": """id user_id transaction_type amount balance_before balance_after provider model prompt_tokens completion_tokens
                              power_level payment_method stripe_transaction_id stripe_payment_intent_id stripe_charge_id package_id request_id
                              invoice_id description metadata created_at idempotency_key""",
    "credit_packages": """id name credits price currency discount_percentage min_tier is_active is_featured sort_order badge_text
                          created_at updated_at""",
    "power_level_configs": "id power_level name preferred_providers fallback_strategy cost_multiplier max_latency_ms min_quality_score is_active",
    "user_provider_keys": """id user_id provider encrypted_api_key key_name is_default is_active last_used_at monthly_requests monthly_tokens
                             rotation_due_at created_at updated_at""",
    "llm_usage_log": """id request_id session_id user_id app_id model provider prompt_tokens completion_tokens total_tokens credits_used
                        power_level latency_ms tokens_per_second success error_category error_message is_byok metadata created_at""",
    "provider_health": "provider status avg_latency_ms p95_latency_ms success_rate consecutive_failures rate_limited",
    "schema_version": "version description applied_at",
    "llm_usage_summary": """usage_date user_id provider model request_count total_tokens total_cost avg_latency_ms tokens_per_second
                            success_rate byok_count""",
    # C
    "sessions": "id user_id refresh_token expires_at created_at",
    "user_activity": "id user_id action data created_at",
    "admin_notes": "id user_id admin_id note is_flagged created_at",
    "user_usage_metrics": "id user_id request_count total_tokens total_cost feature_type created_at",
    "billing_history": "id user_id amount currency status description created_at",
    "bridge_tokens": "id token user_id session_data client_ip user_agent expires_at used_at created_at",
    "sync_logs": "id user_id event_type event_source data client_ip user_agent success error_message created_at",
    # D
    "libraries": """id name vendor repo_url docs_url default_version popularity_score total_snippets total_tokens last_crawled_at created_at
                    updated_at metadata""",
    "library_versions": "id library_id version release_date is_latest docs_snapshot_url",
    "documentation_chunks": "id library_version_id chunk_index content content_type source_url token_count embedding_id metadata created_at",
    "documentation_usage_logs": "id user_id api_key_id tool_name library_id query tokens_returned response_time_ms created_at",
    "invoices": "id user_id number period status items subtotal tax total currency issue_date due_date paid_date created_at updated_at metadata",
    "payments": """id invoice_id user_id amount currency status method_id provider provider_transaction_id failure_reason refunded_amount
                   created_at processed_at metadata""",
    "payment_methods": """id user_id type provider is_default provider_method_id last_four expiry_month expiry_year brand created_at
                          updated_at metadata""",
    "credits": "id user_id amount currency reason type expires_at used_at invoice_id created_at metadata remaining",
    "billing_alerts": "id user_id type threshold current_value message is_read created_at read_at metadata",
    "plans": "id name description amount currency interval features limits metadata created_at updated_at",
}  # fmt: skip
TRIGGERS = {
    ("users", "update_users_updated_at"): "update_updated_at_column",
    ("models", "update_models_updated_at"): "update_updated_at_column",
    ("subscriptions", "update_subscriptions_updated_at"): "update_updated_at_column",
    ("subscriptions", "enforce_subscription_quota"): "check_subscription_quota",
    ("user_credits", "trigger_user_credits_updated_at"): "update_updated_at_column",
    ("credit_packages", "trigger_credit_packages_updated_at"): "update_updated_at_column",
}
FUNCTIONS = [
    "update_updated_at_column",
    "check_subscription_quota",
    "update_usage_summary",
    "debit_user_credits",
    "add_user_credits",
    "get_user_balance",
    "refresh_usage_summary",
    "get_quota_usage_percentage",
    "update_notification_preferences_updated_at",
    "update_permissions_updated_at",
    "get_user_stats",
    "get_user_activity_summary",
]
OURS = [
    "model_prices",
    "rating_runs",
    "rated_usage",
    "billing_positions",
    "billing_inbox",
    "credit_settlements",
    "invoice_lines",
    "invoice_numbers",
    "job_runs",
    "ingest_positions",
    "ingest_outbox",
    "aggregator_positions",
    "aggregator_inbox",
    "aggregator_outbox",
    "billing_outbox",
    "usage_batches",
    "quarantined_events",
    "held_events",
    "provider_observations",
]


@pytest.mark.parametrize(("system", "name"), [(s, n) for s, names in SYSTEMS.items() for n in names.split()])
async def test_every_table_and_view_of_the_seeds_exists(connection: Connection, system: str, name: str) -> None:
    kind = await connection.fetchval("SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)", name)
    assert kind == VIEWS.get(name, "r"), f"{name} of system {system}"


@pytest.mark.parametrize("table", COLUMNS)
async def test_every_column_of_the_seeds_exists(connection: Connection, table: str) -> None:
    rows = await connection.fetch(
        "SELECT attname::text AS name FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0", table
    )
    assert set(COLUMNS[table].split()) <= {row["name"] for row in rows}


def test_every_table_of_the_seeds_has_its_columns_listed() -> None:
    assert set(COLUMNS) == {name for names in SYSTEMS.values() for name in names.split()}


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_every_function_of_the_seeds_exists(connection: Connection, function: str) -> None:
    assert await connection.fetchval(
        "SELECT count(*) FROM pg_proc WHERE proname = $1 AND pronamespace = 'public'::regnamespace", function
    )


@pytest.mark.parametrize(("table", "trigger"), TRIGGERS)
async def test_every_trigger_of_the_seeds_exists(connection: Connection, table: str, trigger: str) -> None:
    function = await connection.fetchval(
        "SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = $2", table, trigger
    )
    assert function == TRIGGERS[table, trigger]


async def test_the_log_has_no_row_trigger(connection: Connection) -> None:
    triggers = await connection.fetchval(
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'usage_logs'::regclass AND NOT tgisinternal"
    )
    assert triggers == 0, "update_usage_on_log is replaced by the pipeline; its function stays for imports by hand"


@pytest.mark.parametrize("table", OURS)
async def test_every_table_of_ours_exists(connection: Connection, table: str) -> None:
    assert await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table)


async def test_every_table_says_what_it_is_for(connection: Connection) -> None:
    silent = await connection.fetch(
        """SELECT relname FROM pg_class c
           WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition
             AND relname <> 'schema_migrations' AND obj_description(oid, 'pg_class') IS NULL"""
    )
    assert [row["relname"] for row in silent] == []


async def test_every_function_says_what_it_does(connection: Connection) -> None:
    silent = await connection.fetch(
        """SELECT proname FROM pg_proc p
           WHERE pronamespace = 'public'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL
             AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')"""
    )
    assert [row["proname"] for row in silent] == []


async def test_statuses_are_the_union_of_the_seeds(connection: Connection) -> None:
    labels = await connection.fetchval("SELECT enum_range(NULL::subscription_status)::text[]")
    assert labels == ["pending", "trialing", "active", "paused", "suspended", "cancelled", "expired"]


async def test_packages_power_levels_and_plans_are_there(connection: Connection) -> None:
    packages = await connection.fetch(
        "SELECT name, credits, price, badge_text FROM credit_packages ORDER BY sort_order"
    )
    assert [tuple(row) for row in packages] == [
        ("Starter Pack", 100, 10, None),
        ("Value Pack", 500, 45, "MOST POPULAR"),
        ("Pro Pack", 1000, 80, "BEST VALUE"),
        ("Enterprise Pack", 5000, 350, None),
    ]
    levels = await connection.fetch(
        "SELECT power_level, cost_multiplier::text FROM power_level_configs ORDER BY cost_multiplier"
    )
    assert [tuple(row) for row in levels] == [("eco", "0.7"), ("balanced", "1.0"), ("precision", "1.5")]
    plans = await connection.fetchval("SELECT array_agg(id ORDER BY amount) FROM plans")
    assert plans == ["free", "basic", "premium", "enterprise"]


async def test_extensions_are_made_where_the_server_has_them(connection: Connection) -> None:
    wanted = ["uuid-ossp", "pgcrypto"]
    available = await connection.fetch("SELECT name FROM pg_available_extensions WHERE name = ANY($1::text[])", wanted)
    made = await connection.fetch("SELECT extname AS name FROM pg_extension WHERE extname = ANY($1::text[])", wanted)
    assert {row["name"] for row in made} == {row["name"] for row in available}


async def test_every_time_has_a_zone_and_no_counter_is_an_int4(connection: Connection) -> None:
    naive = await connection.fetch(
        """SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'
           AND (data_type = 'timestamp without time zone' OR data_type IN ('real', 'double precision')
                OR (data_type = 'integer' AND column_name ~ '^(used_|request|error|prompt_|completion_|total_)'))"""
    )
    assert [tuple(row) for row in naive] == []


def test_the_reference_maps_every_object_of_the_seeds() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "schema.md").read_text(encoding="utf-8")
    names = (
        {name for names in SYSTEMS.values() for name in names.split()}
        | set(FUNCTIONS)
        | {trigger for _, trigger in TRIGGERS}
    )
    assert sorted(name for name in names | set(OURS) if f"`{name}`" not in text) == []

"""Subscriptions, quotas, credits, alerts and catalogues, as a tenant and as who reads all sees them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from shared.postgres import Pool
from tests.integration.api.conftest import NOW
from tests.integration.api.facts import Customer, Facts
from tests.integration.schema_facts import insert, make_subscription


async def ask(client: httpx.AsyncClient, who: Customer, path: str, **parameters: Any) -> dict[str, Any]:
    answer = await client.get(f"/api/v1/{path}", params=parameters, headers=who.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


# Subscriptions and quotas


async def test_a_subscription_says_what_remains_and_when_it_resets(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer(
        quota_requests=100,
        used_requests=30,
        quota_tokens=None,
        used_tokens=7,
        reset_at=datetime(2026, 12, 1, tzinfo=UTC),
    )
    [found] = (await ask(client, ada, "subscriptions"))["items"]
    assert found == await ask(client, ada, f"subscriptions/{ada.subscription_id}")
    assert (found["id"], found["status"], found["plan_id"], found["amount"]) == (
        str(ada.subscription_id),
        "active",
        "enterprise",
        "0",
    )
    assert found["requests"] == {"quota": 100, "used": 30, "remaining": 70}
    assert found["tokens"] == {"quota": None, "used": 7, "remaining": None}
    assert found["reset_at"] == "2026-12-01T00:00:00Z"


async def test_quotas_of_a_subscription_and_its_keys(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer(quota_requests=10, used_requests=12)
    await database_pool.execute(
        "UPDATE api_keys SET quota_requests_per_day = 50, name = 'chat' WHERE id = $1", ada.key_id
    )
    async with database_pool.acquire() as connection:
        for day, requests in ((NOW.date(), 20), (NOW.date() - timedelta(days=1), 5)):
            await insert(
                connection,
                "api_key_days",
                subscription_id=ada.subscription_id,
                api_key_id=ada.key_id,
                day=day,
                requests=requests,
                tokens=1,
            )
        await make_subscription(connection, ada.user_id, status="cancelled")
    answer = await ask(client, ada, "quotas")
    [quota] = answer["items"]
    assert answer["as_of"] == "2026-11-20T12:00:00Z"
    assert (quota["status"], quota["suspended_reasons"]) == ("suspended", ["quota_requests"])
    assert quota["requests"] == {"quota": 10, "used": 12, "remaining": 0}
    [key] = quota["keys"]
    assert (key["name"], key["requests_per_day"], key["resets_at"]) == (
        "chat", {"quota": 50, "used": 20, "remaining": 30}, "2026-11-21T00:00:00Z",
    )  # fmt: skip
    assert await ask(client, ada, "quotas", subscription_id=ada.subscription_id) == answer


async def test_subscriptions_of_others_are_not_there(client: httpx.AsyncClient, facts: Facts) -> None:
    ada, bob, root = await facts.customer(), await facts.customer(), await facts.customer("admin")
    for path in (f"subscriptions/{ada.subscription_id}", f"quotas?subscription_id={ada.subscription_id}", f"subscriptions?user_id={ada.user_id}",
                 f"quotas?user_id={ada.user_id}", f"credits/balance?user_id={ada.user_id}", f"alerts?user_id={ada.user_id}"):  # fmt: skip
        answer = await client.get(f"/api/v1/{path}", headers=bob.headers)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:tallystick:problem:not-found"), path
    assert (await ask(client, root, f"subscriptions/{ada.subscription_id}"))["user_id"] == str(ada.user_id)
    assert len((await ask(client, root, "subscriptions", user_id=ada.user_id))["items"]) == 1
    assert len((await ask(client, root, "subscriptions"))["items"]) >= 3


async def test_both_ways_through_a_list(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer()
    async with database_pool.acquire() as connection:
        for hour in range(4):
            await make_subscription(connection, ada.user_id, created_at=NOW - timedelta(hours=hour), status="expired")
    whole = [item["id"] for item in (await ask(client, ada, "subscriptions"))["items"]]
    by_offset = []
    for offset in (0, 2, 4):
        answer = await ask(client, ada, "subscriptions", limit=2, offset=offset)
        assert answer["total"] == 5
        by_offset += [item["id"] for item in answer["items"]]
    first = await ask(client, ada, "subscriptions", limit=2)
    assert first["total"] is None
    second = await ask(client, ada, "subscriptions", limit=2, cursor=first["next_cursor"])
    third = await ask(client, ada, "subscriptions", limit=2, cursor=second["next_cursor"])
    assert third["next_cursor"] is None
    by_cursor = [item["id"] for page in (first, second, third) for item in page["items"]]
    assert by_offset == by_cursor == whole
    assert len((await ask(client, ada, "subscriptions", status="expired"))["items"]) == 4
    both = await client.get(
        "/api/v1/subscriptions", params={"offset": 1, "cursor": first["next_cursor"]}, headers=ada.headers
    )
    assert (both.status_code, "not both" in both.json()["detail"]) == (400, True)


# Alerts


async def test_an_alert_is_read_once_and_only_by_whose_it_is(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada, bob, root = await facts.customer(), await facts.customer(), await facts.customer("admin")
    async with database_pool.acquire() as connection:
        ids = []
        for hours in (2, 1, 0):
            told = {"type": "low_balance", "message": "-", "created_at": NOW - timedelta(hours=hours)}
            ids.append((await insert(connection, "billing_alerts", user_id=ada.user_id, **told))["id"])
    for other in (bob, root):
        refused = await client.put(f"/api/v1/alerts/{ids[0]}/read", headers=other.headers)
        assert refused.status_code == 404
    first, again = [await client.put(f"/api/v1/alerts/{ids[0]}/read", headers=ada.headers) for _ in range(2)]
    assert (first.status_code, first.json()["is_read"], first.json()["read_at"]) == (200, True, "2026-11-20T12:00:00Z")
    assert again.json() == first.json()
    until = {"until": (NOW - timedelta(hours=1)).isoformat()}
    marked = [(await client.post("/api/v1/alerts/read", json=until, headers=ada.headers)).json() for _ in range(2)]
    assert marked == [{"marked": 1}, {"marked": 0}]
    assert [item["id"] for item in (await ask(client, ada, "alerts", unread="true"))["items"]] == [str(ids[2])]


# Credits


async def give(pool: Pool, who: Customer, amount: int, **more: Any) -> None:
    """Put credits into somebody's account."""
    arguments = {"user_id": who.user_id, "amount": Decimal(amount), **more}
    places = ", ".join(f"{name} => ${n}" for n, name in enumerate(arguments, start=1))
    await pool.execute(f"SELECT add_user_credits({places})", *arguments.values())


async def test_a_balance_with_the_names_of_the_seed(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    nothing = await ask(client, ada, "credits/balance")
    assert (nothing["balance"], nothing["tier"], nothing["quota_usage_percentage"]) == ("0", "free", None)
    await give(database_pool, ada, 100, idempotency_key="a")
    await database_pool.execute("SELECT debit_user_credits($1::uuid, 12.5)", ada.user_id)
    await database_pool.execute(
        "UPDATE user_credits SET monthly_allowance = 50, billing_cycle_start = '2026-11-01Z', billing_cycle_end = '2026-12-01Z' WHERE user_id = $1",
        ada.user_id,
    )
    async with database_pool.acquire() as connection:
        await insert(
            connection,
            "credits",
            user_id=ada.user_id,
            amount=Decimal(20),
            currency="EUR",
            reason="sorry",
            type="compensation",
        )
    found = await ask(client, ada, "credits/balance")
    assert {name: found[name] for name in ("balance", "owed", "monthly_allowance", "credits_used_this_month", "quota_usage_percentage")} == {
        "balance": "87.5", "owed": "0", "monthly_allowance": "50", "credits_used_this_month": "12.5", "quota_usage_percentage": 25.0,
    }  # fmt: skip
    assert found["invoice_credit"] == [{"currency": "EUR", "amount": "20"}]


async def test_what_has_expired_is_not_in_the_balance(
    app: FastAPI, client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    await give(database_pool, ada, 100, idempotency_key="a")
    await give(database_pool, ada, 30, idempotency_key="b", expires_at=datetime.now(UTC) + timedelta(days=400))
    app.state.tallystick.clock.at = datetime.now(UTC) + timedelta(days=500)
    assert (await ask(client, ada, "credits/balance"))["balance"] == "100"
    grants = (await ask(client, ada, "credits/grants"))["items"]
    assert [(grant["remaining"], grant["sequence"]) for grant in grants] == [("30", 2), ("100", 1)]
    assert [grant["remaining"] for grant in (await ask(client, ada, "credits/grants", open=True))["items"]] == ["100"]


async def test_the_ledger_by_offset_and_by_cursor(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada, bob, root = await facts.customer(), await facts.customer(), await facts.customer("finance")
    for n in range(5):
        await give(database_pool, ada, n + 1, idempotency_key=str(n), transaction_type="bonus")
    first = await ask(client, ada, "credits/transactions", limit=2, offset=0)
    assert (first["total"], [t["amount"] for t in first["items"]]) == (5, ["5", "4"])
    entry = first["items"][0]
    assert {name: entry[name] for name in ("transaction_type", "amount", "balance_before", "balance_after", "user_id")} == {
        "transaction_type": "bonus", "amount": "5", "balance_before": "10", "balance_after": "15", "user_id": str(ada.user_id),
    }  # fmt: skip
    await give(database_pool, ada, 6, idempotency_key="later")
    second = await ask(client, ada, "credits/transactions", limit=2, cursor=first["next_cursor"])
    assert [t["amount"] for t in second["items"]] == ["3", "2"]
    assert [
        t["amount"] for t in (await ask(client, ada, "credits/transactions", transaction_type="purchase"))["items"]
    ] == ["6"]
    assert (await ask(client, bob, "credits/transactions"))["items"] == []
    assert len((await ask(client, root, "credits/transactions", user_id=ada.user_id))["items"]) == 6


async def test_packages(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    found = (await ask(client, ada, "credits/packages"))["items"]
    assert [(package["name"], package["credits"], package["price"]) for package in found[:2]] == [
        ("Starter Pack", "100", "10"), ("Value Pack", "500", "45"),
    ]  # fmt: skip


# Alerts


async def test_alerts(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada, bob = await facts.customer(), await facts.customer()
    async with database_pool.acquire() as connection:
        for type_, read in (("low_balance", True), ("usage_threshold", False), ("usage_threshold", False)):
            await insert(
                connection,
                "billing_alerts",
                user_id=ada.user_id,
                type=type_,
                message="80 %",
                is_read=read,
                threshold=Decimal(80),
            )
    assert (await ask(client, ada, "alerts", offset=0))["total"] == 3
    assert [a["threshold"] for a in (await ask(client, ada, "alerts", type="usage_threshold", limit=1))["items"]] == [
        "80"
    ]
    assert len((await ask(client, ada, "alerts", unread=True))["items"]) == 2
    assert (await ask(client, bob, "alerts"))["items"] == []


# Catalogues


@pytest.fixture
def a_model() -> Mapping[str, Any]:
    """A model that no other test uses."""
    return {"id": "catalogue-model", "name": "Catalogue", "provider": "catalogue"}


async def test_models_and_prices(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool, a_model: Mapping[str, Any]
) -> None:
    ada = await facts.customer()
    versions: list[dict[str, Any]] = [
        {"valid_from": datetime(2026, 1, 1, tzinfo=UTC), "input_price_per_1k": Decimal("0.01")},
        {"valid_from": datetime(2026, 1, 1, tzinfo=UTC), "input_price_per_1k": Decimal("0.02"), "revision": 1},
        {"valid_from": datetime(2026, 1, 1, tzinfo=UTC), "input_price_per_1k": Decimal("0.03"), "currency": "EUR"},
    ]
    async with database_pool.acquire() as connection:
        await insert(connection, "models", **a_model)
        await insert(connection, "models", **{**a_model, "id": "catalogue-old", "is_active": False})
        for version in versions:
            await insert(connection, "model_prices", **{"model_id": a_model["id"], "currency": "USD", **version})
    assert [m["id"] for m in (await ask(client, ada, "models", provider="catalogue"))["items"]] == ["catalogue-model"]
    everything = await ask(client, ada, "models", provider="catalogue", inactive=True, limit=1, offset=0)
    assert (everything["total"], everything["next_cursor"] is not None) == (2, True)
    rest = await ask(
        client, ada, "models", provider="catalogue", inactive=True, limit=1, cursor=everything["next_cursor"]
    )
    assert [m["id"] for m in rest["items"]] == ["catalogue-old"]
    prices = (await ask(client, ada, "prices", model=a_model["id"]))["items"]
    assert [(p["currency"], p["input_price_per_1k"], p["revision"]) for p in prices] == [
        ("EUR", "0.03", 0),
        ("USD", "0.02", 1),
    ]
    assert not [name for name in prices[0] if "cost" in name]
    assert (await ask(client, ada, "prices", model=a_model["id"], at="2025-06-01T00:00:00Z"))["items"] == []
    one = await ask(client, ada, "prices", model=a_model["id"], limit=1)
    two = await ask(client, ada, "prices", model=a_model["id"], limit=1, cursor=one["next_cursor"])
    assert [p["currency"] for p in one["items"] + two["items"]] == ["EUR", "USD"]


async def test_plans_power_levels_and_health(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer()
    plans = {plan["id"]: plan for plan in (await ask(client, ada, "plans"))["items"]}
    assert plans["free"]["limits"] == {"requestsPerMonth": 1000, "tokensPerMonth": 100000, "concurrentRequests": 1}
    levels = (await ask(client, ada, "power-levels"))["items"]
    assert [(level["power_level"], level["cost_multiplier"]) for level in levels] == [
        ("eco", "0.7"),
        ("balanced", "1.0"),
        ("precision", "1.5"),
    ]
    async with database_pool.acquire() as connection:
        await insert(connection, "provider_health", provider="openai", status="degraded", request_count=100, error_count=8,
                     success_rate=Decimal("0.92"), avg_latency_ms=Decimal("812.5"), p95_latency_ms=1600, consecutive_failures=2)  # fmt: skip
    [health] = (await ask(client, ada, "providers/health"))["items"]
    assert (health["provider"], health["status"], health["success_rate"], health["avg_latency_ms"]) == (
        "openai",
        "degraded",
        0.92,
        812.5,
    )


@pytest.mark.parametrize(
    "path",
    ["usage", "analytics/usage", "usage/events", "subscriptions", "quotas", "credits/balance", "credits/transactions", "credits/grants",
     "credits/packages", "alerts", "models", "prices", "plans", "power-levels", "providers/health"],
)  # fmt: skip
async def test_nobody_reads_without_a_credential(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"/api/v1/{path}")
    assert (answer.status_code, json.loads(answer.text)["type"]) == (401, "urn:tallystick:problem:unauthenticated")

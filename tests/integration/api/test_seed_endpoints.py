"""The nine endpoints of the credit system, under their names, one after the other as one customer and one gateway use them."""

from __future__ import annotations

from decimal import Decimal

import httpx

from shared.postgres import Pool
from tests.integration.api.facts import Facts


async def test_every_endpoint_of_the_credit_system_answers(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada, gateway = await facts.customer(), await facts.customer("service")
    await database_pool.execute("SELECT add_user_credits($1, 100, 'bonus', idempotency_key => 'begin')", ada.user_id)
    await database_pool.execute(
        "INSERT INTO provider_health (provider, status) VALUES ('openai', 'healthy') ON CONFLICT DO NOTHING"
    )

    bought = await client.post(
        "/api/v1/credits/purchase", json={"package": "Starter Pack"}, headers={**ada.headers, "Idempotency-Key": "buy"}
    )
    assert bought.is_success, bought.text
    debited = await client.post(
        "/api/v1/credits/debit",
        json={"user": str(ada.user_id), "amount": "1.5", "reason": "an answer"},
        headers={**gateway.headers, "Idempotency-Key": "debit"},
    )
    assert debited.is_success, debited.text
    balance = await client.get("/api/v1/credits/balance", headers=ada.headers)
    assert Decimal(balance.json()["balance"]) == Decimal("98.5")
    ledger = await client.get("/api/v1/credits/transactions?limit=1&offset=0", headers=ada.headers)
    assert [Decimal(entry["amount"]) for entry in ledger.json()["items"]] == [Decimal("-1.5")]

    stored = await client.post(
        "/api/v1/provider-keys", json={"provider": "openai", "api_key": "sk-of-ada-0123456789"}, headers=ada.headers
    )
    assert stored.is_success, stored.text
    [key] = (await client.get("/api/v1/provider-keys", headers=ada.headers)).json()["items"]
    assert key["id"] == stored.json()["id"]
    assert (await client.delete(f"/api/v1/provider-keys/{key['id']}", headers=ada.headers)).is_success

    usage = await client.get("/api/v1/analytics/usage?days=7", headers=ada.headers)
    assert usage.is_success, usage.text
    health = await client.get("/api/v1/providers/health", headers=ada.headers)
    assert [provider["provider"] for provider in health.json()["items"]] == ["openai"]

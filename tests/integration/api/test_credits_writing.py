"""Credits over HTTP: bought through a provider, debited by gateways, given and given back by finance."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from services.billing.payments.providers import Providers
from services.billing.payments.settings import PaymentSettings
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.api.facts import Customer, Facts
from tests.integration.payment_facts import FakeBank, VerifyingBank, event, session_object, signed

SECRET = "whsec_of_this_test"
PREFIX = "urn:tallystick:problem:"


def kind(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).removeprefix(PREFIX)


def keyed(customer: Customer, key: str = "k-1") -> dict[str, str]:
    return {**customer.headers, "Idempotency-Key": key}


async def give(pool: Pool, user: UUID, amount: int) -> None:
    await pool.execute("SELECT add_user_credits($1, $2, 'bonus', idempotency_key => 'begin')", user, Decimal(amount))


async def balance(pool: Pool, user: UUID) -> Decimal:
    return Decimal(await pool.fetchval("SELECT get_user_balance($1)", user))


@pytest.fixture
def stripe(app: FastAPI) -> FakeBank:
    """Stripe takes new payments."""
    bank = VerifyingBank(SECRET)
    providers = Providers(PaymentSettings(payment_provider="stripe"))
    providers.use(bank)
    app.state.tallystick.capabilities.providers = providers
    return bank


# Buying


async def test_a_package_is_bought_by_bank_transfer_with_a_reference(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    wish = {"package": "starter pack"}
    first = await client.post("/api/v1/credits/purchase", json=wish, headers=keyed(ada))
    assert first.status_code == 201
    said = first.json()
    assert (said["provider"], said["checkout_url"], said["status"]) == ("manual", None, "pending")
    assert said["reference"].startswith("PAY-")
    assert said["reference"] in said["instructions"]
    again = await client.post("/api/v1/credits/purchase", json=wish, headers=keyed(ada))
    assert again.json() == said
    row = await database_pool.fetchrow("SELECT user_id, amount, status FROM payments")
    assert row is not None
    assert (row["user_id"], str(row["amount"]), row["status"]) == (ada.user_id, said["amount"], "pending")
    actor = await database_pool.fetchval("SELECT actor FROM audit_logs WHERE resource_type = 'payment'")
    assert actor == ada_name(await client.get("/api/v1/me", headers=ada.headers))


def ada_name(me: httpx.Response) -> str:
    return str(me.json()["name"])


async def test_a_package_is_bought_at_stripe_and_its_webhook_adds_the_credits_once(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool, stripe: FakeBank
) -> None:
    ada = await facts.customer()
    begun = await client.post("/api/v1/credits/purchase", json={"package": "Starter Pack"}, headers=keyed(ada))
    said = begun.json()
    assert said["checkout_url"].startswith("https://pay.example/")
    units = int(Decimal(said["amount"]) * 100)
    body = event(
        "checkout.session.completed",
        session_object(f"cs_{UUID(said['payment_id']).hex}", UUID(said["payment_id"]), "pi_1", units),
    )
    headers = {**signed(body, SECRET), "Content-Type": "application/json"}
    outcomes = [(await client.post("/api/v1/webhooks/stripe", content=body, headers=headers)).json() for _ in range(2)]
    assert [outcome["outcome"] for outcome in outcomes] == ["applied", "duplicate"]
    credits_ = await database_pool.fetchval("SELECT credits FROM credit_packages WHERE name = 'Starter Pack'")
    assert await balance(database_pool, ada.user_id) == credits_


@pytest.mark.parametrize("forged", [{}, {"Stripe-Signature": "t=1,v1=00"}], ids=["no signature", "another's"])
async def test_a_webhook_that_is_not_from_stripe_changes_nothing(
    client: httpx.AsyncClient, database_pool: Pool, stripe: FakeBank, forged: dict[str, str]
) -> None:
    answer = await client.post("/api/v1/webhooks/stripe", content=b"{}", headers=forged)
    assert (answer.status_code, kind(answer)) == (400, "malformed")
    assert await database_pool.fetchval("SELECT count(*) FROM payment_events") == 0


async def test_webhooks_of_a_provider_that_is_not_configured_are_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/webhooks/stripe", content=b"{}", headers={"Stripe-Signature": "t=1,v1=00"})
    assert (answer.status_code, kind(answer)) == (409, "conflict")
    assert "TALLYSTICK_STRIPE_API_KEY" in answer.json()["detail"]


async def test_a_purchase_without_a_key_or_of_nothing_is_refused(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    no_key = await client.post("/api/v1/credits/purchase", json={"package": "Starter Pack"}, headers=ada.headers)
    assert (no_key.status_code, kind(no_key)) == (422, "invalid-request")
    assert "Idempotency-Key" in str(no_key.json()["errors"])
    nothing = await client.post("/api/v1/credits/purchase", json={"package": "No Pack"}, headers=keyed(ada))
    assert (nothing.status_code, kind(nothing)) == (404, "not-found")
    await client.post("/api/v1/credits/purchase", json={"package": "Starter Pack"}, headers=keyed(ada, "same"))
    other = await client.post("/api/v1/credits/purchase", json={"package": "Value Pack"}, headers=keyed(ada, "same"))
    assert (other.status_code, kind(other)) == (422, "idempotency-key-reused")


async def test_only_finance_buys_for_others(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada, bob, fay = await facts.customer(), await facts.customer(), await facts.customer("finance")
    wish = {"package": "Starter Pack", "user": str(bob.user_id)}
    refused = await client.post("/api/v1/credits/purchase", json=wish, headers=keyed(ada))
    assert (refused.status_code, kind(refused)) == (403, "forbidden")
    assert (await client.post("/api/v1/credits/purchase", json=wish, headers=keyed(fay))).status_code == 201
    assert await database_pool.fetchval("SELECT user_id FROM payments") == bob.user_id


# Debiting


def a_debit(customer: Customer, amount: str = "4.5", **more: Any) -> dict[str, Any]:
    return {"user": str(customer.user_id), "amount": amount, "reason": "a picture", **more}


async def test_a_gateway_debits_once_for_each_key(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada, gateway = await facts.customer(), await facts.customer("service")
    await give(database_pool, ada.user_id, 10)
    wish = a_debit(ada, request_id="req-1", provider="openai", model="gpt-4o", prompt_tokens=3, power_level="eco")
    answers = [await client.post("/api/v1/credits/debit", json=wish, headers=keyed(gateway)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["balance"] == "5.5"
    assert await balance(database_pool, ada.user_id) == Decimal("5.5")
    entry = await database_pool.fetchrow("SELECT * FROM credit_transactions WHERE amount < 0")
    assert entry is not None
    assert (entry["request_id"], entry["model"], entry["description"]) == ("req-1", "gpt-4o", "a picture")
    trail = await database_pool.fetch("SELECT before, after FROM audit_logs WHERE action = 'credits.debited'")
    assert [row["before"] for row in trail] == ['{"balance": "10"}']


async def test_what_is_not_there_is_not_debited_and_it_is_said_how_much_is_missing(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada, gateway = await facts.customer(), await facts.customer("service")
    await give(database_pool, ada.user_id, 3)
    answer = await client.post("/api/v1/credits/debit", json=a_debit(ada), headers=keyed(gateway))
    assert (answer.status_code, kind(answer)) == (402, "insufficient-credits")
    figures = {name: Decimal(answer.json()[name]) for name in ("needed", "available", "missing")}
    assert figures == {"needed": Decimal("4.5"), "available": 3, "missing": Decimal("1.5")}
    assert await balance(database_pool, ada.user_id) == 3


async def test_debits_at_once_never_take_more_than_there_is(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada, gateway = await facts.customer(), await facts.customer("service")
    await give(database_pool, ada.user_id, 10)
    answers = await asyncio.gather(
        *(
            client.post("/api/v1/credits/debit", json=a_debit(ada, "3"), headers=keyed(gateway, f"k-{number}"))
            for number in range(8)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [402] * 5
    assert await balance(database_pool, ada.user_id) == 1


@pytest.mark.parametrize(
    ("change", "status", "problem"),
    [
        ({"amount": 4.5}, 422, "invalid-request"),
        ({"amount": "-1"}, 422, "invalid-request"),
        ({"amount": "0"}, 422, "invalid-request"),
        ({"amuont": "1"}, 422, "invalid-request"),
        ({"reason": ""}, 422, "invalid-request"),
        ({"reason": "\x00"}, 422, "invalid-request"),
        ({"user": "nobody@example.com"}, 404, "not-found"),
    ],
)
async def test_a_debit_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, facts: Facts, change: dict[str, Any], status: int, problem: str
) -> None:
    ada, gateway = await facts.customer(), await facts.customer("service")
    answer = await client.post("/api/v1/credits/debit", json=a_debit(ada) | change, headers=keyed(gateway))
    assert (answer.status_code, kind(answer)) == (status, problem)


async def test_a_key_that_was_used_for_another_debit_is_refused(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada, gateway = await facts.customer(), await facts.customer("service")
    await give(database_pool, ada.user_id, 10)
    await client.post("/api/v1/credits/debit", json=a_debit(ada, "1"), headers=keyed(gateway))
    other = await client.post("/api/v1/credits/debit", json=a_debit(ada, "2"), headers=keyed(gateway))
    assert (other.status_code, kind(other)) == (422, "idempotency-key-reused")


async def test_a_customer_debits_nobody(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    answer = await client.post("/api/v1/credits/debit", json=a_debit(ada), headers=keyed(ada))
    assert (answer.status_code, kind(answer)) == (403, "forbidden")


# Finance


async def test_finance_gives_adjusts_and_takes_credits(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    ada, fay = await facts.customer(), await facts.customer("finance")
    wish = {
        "user": str(ada.user_id),
        "amount": "20",
        "kind": "bonus",
        "why": "welcome",
        "expires_at": "2036-01-01T00:00:00Z",
    }
    given = await client.post("/api/v1/admin/credits/grants", json=wish, headers=keyed(fay))
    assert (given.status_code, given.json()["balance"]) == (201, "20")
    take = {"user": str(ada.user_id), "amount": "-5", "why": "a mistake"}
    taken = await client.post("/api/v1/admin/credits/adjustments", json=take, headers=keyed(fay, "k-2"))
    assert (taken.status_code, taken.json()["balance"]) == (201, "15")
    too_much = await client.post(
        "/api/v1/admin/credits/adjustments", json=take | {"amount": "-50"}, headers=keyed(fay, "k-3")
    )
    assert (too_much.status_code, kind(too_much)) == (402, "insufficient-credits")
    money = {"user": str(ada.user_id), "amount": "12.50", "currency": "EUR", "why": "an outage", "kind": "compensation"}
    assert (await client.post("/api/v1/admin/credits/money-grants", json=money, headers=fay.headers)).status_code == 201
    assert await database_pool.fetchval("SELECT remaining FROM credits") == Decimal("12.50")
    trail = await database_pool.fetch(
        "SELECT action, admin_id, user_id FROM audit_logs WHERE resource_type = 'credits' ORDER BY created_at"
    )
    assert [tuple(row) for row in trail] == [
        (action, fay.user_id, ada.user_id)
        for action in ("credits.granted", "credits.adjusted", "credits.money_granted")
    ]


async def test_finance_gives_a_payment_back_and_its_credits_go(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool, stripe: FakeBank
) -> None:
    ada, fay = await facts.customer(), await facts.customer("finance")
    begun = await client.post("/api/v1/credits/purchase", json={"package": "Starter Pack"}, headers=keyed(ada))
    payment = UUID(begun.json()["payment_id"])
    units = int(Decimal(begun.json()["amount"]) * 100)
    body = event("checkout.session.completed", session_object(f"cs_{payment.hex}", payment, "pi_1", units))
    await client.post("/api/v1/webhooks/stripe", content=body, headers=signed(body, SECRET))
    listed = await client.get(f"/api/v1/admin/payments?user={ada.user_id}&status=completed", headers=fay.headers)
    assert [row["id"] for row in listed.json()["items"]] == [str(payment)]

    url = f"/api/v1/admin/payments/{payment}/refunds"
    answers = [await client.post(url, json={"why": "not used"}, headers=keyed(fay)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert (answers[0].json()["status"], answers[0].json()["left"]) == ("completed", "0")
    assert await balance(database_pool, ada.user_id) == 0
    over = await client.post(url, json={"why": "again", "amount": "1"}, headers=keyed(fay, "k-2"))
    assert (over.status_code, kind(over)) == (409, "conflict")
    unknown = await client.post(f"/api/v1/admin/payments/{uuid7()}/refunds", json={"why": "x"}, headers=keyed(fay))
    assert (unknown.status_code, kind(unknown)) == (404, "not-found")

"""Reservations over HTTP: who may, what is answered, and what a refusal says."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest

from shared.ids import uuid7
from tests.integration.aggregator_facts import Aggregator
from tests.integration.api.facts import Customer, Facts
from tests.integration.billing_facts import make_price
from tests.integration.reservation_facts import usage_naming
from tests.unit.aggregator.facts import recorded

PATH = "/api/v1/reservations"


async def reserve(client: httpx.AsyncClient, who: Customer, key: str | None = None, **body: Any) -> httpx.Response:
    headers = who.headers | ({"Idempotency-Key": key} if key else {})
    return await client.post(
        PATH, json={n: str(v) if isinstance(v, UUID) else v for n, v in body.items()}, headers=headers
    )


@pytest.fixture
async def gateway(facts: Facts) -> Customer:
    return await facts.customer("service")


@pytest.fixture
async def ada(facts: Facts) -> Customer:
    return await facts.customer(quota_requests=2, quota_tokens=100)


async def test_a_key_reserves_for_its_subscription(client: httpx.AsyncClient, ada: Customer) -> None:
    answer = await reserve(client, ada, tokens=40, ttl_seconds=30)
    assert answer.status_code == 201
    made = answer.json()
    assert UUID(made.pop("id")).version == 7
    assert made == {
        "subscription": str(ada.subscription_id),
        "state": "held",
        "held": {"requests": 1, "tokens": 40, "credits": "0"},
        "created_at": "2026-11-20T12:00:00Z",
        "expires_at": "2026-11-20T12:00:30Z",
        "remaining": {"requests": 1, "tokens": 60, "credits": None, "concurrent": 199},
        "reset_at": None,
    }


async def test_a_refusal_names_all_reasons_and_what_remains(client: httpx.AsyncClient, ada: Customer) -> None:
    await reserve(client, ada, tokens=40)
    answer = await reserve(client, ada, requests=2, tokens=61)
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (409, "urn:tallystick:problem:limit-exceeded")
    assert problem["reasons"] == ["quota_requests", "quota_tokens"]
    assert problem["remaining"] == {"requests": 1, "tokens": 60, "credits": None, "concurrent": 199}
    assert "quota_tokens" in problem["detail"]


async def test_a_gateway_reserves_for_anybody_also_by_the_hash_of_a_key(
    client: httpx.AsyncClient, facts: Facts, gateway: Customer, ada: Customer
) -> None:
    hash_ = await facts.pool.fetchval("SELECT key_hash FROM api_keys WHERE id = $1", ada.key_id)
    for named in ({"subscription": ada.subscription_id}, {"api_key_hash": hash_}):
        answer = await reserve(client, gateway, **named)
        assert (answer.status_code, answer.json()["subscription"]) == (201, str(ada.subscription_id))
    bob = await facts.customer()
    mixed = await reserve(client, gateway, subscription=bob.subscription_id, api_key_id=ada.key_id)
    assert (mixed.status_code, "another subscription" in mixed.json()["detail"]) == (422, True)


async def test_nobody_reserves_for_others_or_for_nobody(
    client: httpx.AsyncClient, facts: Facts, gateway: Customer, ada: Customer
) -> None:
    bob = await facts.customer()
    assert (await reserve(client, bob, subscription=ada.subscription_id)).status_code == 404
    assert (await reserve(client, bob, api_key_id=ada.key_id)).status_code == 404
    assert (await reserve(client, gateway, subscription=uuid7())).status_code == 404
    assert (await reserve(client, gateway, api_key_hash="unknown")).status_code == 404


async def test_a_key_that_is_revoked_or_asks_too_often_reserves_nothing(
    client: httpx.AsyncClient, facts: Facts, gateway: Customer
) -> None:
    owner = await facts.customer()
    revoked, _ = await facts.key(owner.subscription_id, is_active=False, revoked_at=facts.clock.now())
    slow, _ = await facts.key(owner.subscription_id, quota_requests_per_minute=1)
    answers = [await reserve(client, gateway, api_key_id=key) for key in (revoked, slow, slow)]
    assert [answer.status_code for answer in answers] == [409, 201, 409]
    assert [answer.json().get("reasons") for answer in answers] == [["key_inactive"], None, ["rate_limited"]]


async def test_the_same_key_is_one_reservation(client: httpx.AsyncClient, facts: Facts, ada: Customer) -> None:
    first, again = [await reserve(client, ada, "call-1", tokens=5, credits="1.50") for _ in range(2)]
    spelled = await reserve(client, ada, "call-1", tokens=5, credits="1.5")
    other = await reserve(client, ada, "call-1", tokens=6, credits="1.5")
    assert [answer.status_code for answer in (first, again, spelled, other)] == [201, 200, 200, 422]
    assert first.json()["id"] == again.json()["id"] == spelled.json()["id"]
    assert other.json()["type"] == "urn:tallystick:problem:idempotency-key-reused"
    assert await facts.pool.fetchval("SELECT count(*) FROM reservations") == 1


async def test_what_is_not_used_is_given_back(client: httpx.AsyncClient, ada: Customer) -> None:
    path = f"{PATH}/{(await reserve(client, ada, tokens=100)).json()['id']}"
    assert (await reserve(client, ada, tokens=1)).status_code == 409
    for _ in range(2):
        answer = await client.delete(path, headers=ada.headers)
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert (await client.get(path, headers=ada.headers)).json()["state"] == "cancelled"
    assert (await reserve(client, ada, tokens=100)).status_code == 201
    assert (await client.delete(f"{PATH}/{uuid7()}", headers=ada.headers)).status_code == 404


async def test_what_its_usage_settled_cannot_be_cancelled(
    client: httpx.AsyncClient, facts: Facts, ada: Customer
) -> None:
    id_ = (await reserve(client, ada)).json()["id"]
    await Aggregator(facts.pool).apply(recorded(usage_naming(ada.subscription_id, [UUID(id_)])))
    answer = await client.delete(f"{PATH}/{id_}", headers=ada.headers)
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:tallystick:problem:conflict")
    assert (await client.get(f"{PATH}/{id_}", headers=ada.headers)).json()["state"] == "settled"


async def test_a_model_in_place_of_credits_is_priced_at_most(client: httpx.AsyncClient, facts: Facts) -> None:
    """1,000 tokens of gpt-4o cost 0.01 USD as an answer, more than as a prompt; a USD is 10 credits."""
    await make_price(facts.pool, per_request="0.002")
    owner = await facts.customer(billing_mode="prepaid", currency="USD")
    await facts.pool.execute("SELECT add_user_credits($1, 1)", owner.user_id)
    for model, held in (("gpt-4o", "0.12"), ("nobody-knows", "0")):
        answer = await reserve(client, owner, tokens=1_000, model=model)
        assert Decimal(answer.json()["held"]["credits"]) == Decimal(held), model
    assert Decimal(answer.json()["remaining"]["credits"]) == Decimal("0.88")
    refused = await reserve(client, owner, tokens=9_000, model="gpt-4o")
    assert (refused.status_code, refused.json()["reasons"]) == (409, ["credits_exhausted"])


async def test_of_several_each_is_made_or_refused_by_itself(
    client: httpx.AsyncClient, gateway: Customer, ada: Customer
) -> None:
    mine: dict[str, Any] = {"subscription": str(ada.subscription_id)}
    first = mine | {"tokens": 60, "idempotency_key": "a"}
    several = [first, mine | {"tokens": 60}, {"subscription": str(uuid7())}, mine]

    async def reserve_all(*asked: dict[str, Any]) -> list[Any]:
        answer = await client.post(f"{PATH}/batch", json={"reservations": asked}, headers=gateway.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]  # type: ignore[no-any-return]

    made, refused, unknown, last = await reserve_all(*several)
    assert [result["status"] for result in (made, refused, unknown, last)] == [201, 409, 404, 201]
    assert made["reservation"]["held"]["tokens"] == 60
    assert (refused["problem"]["reasons"], refused["reservation"]) == (["quota_tokens"], None)
    [again] = await reserve_all(first)
    assert (again["status"], again["reservation"]["id"]) == (200, made["reservation"]["id"])
    nothing = await client.post(f"{PATH}/batch", json={"reservations": []}, headers=gateway.headers)
    assert nothing.status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tokens": -1}, "tokens"),
        ({"tokens": 10**13}, "tokens"),
        ({"requests": 1.5}, "requests"),
        ({"credits": 1.5}, "credits"),
        ({"credits": "-1"}, "credits"),
        ({"ttl_seconds": 0}, "ttl_seconds"),
        ({"ttl_seconds": 86_401}, "ttl_seconds"),
        ({"subscription": "mine"}, "subscription"),
        ({"token": 5}, "token"),
    ],
)
async def test_bad_input_is_refused_with_the_field(
    client: httpx.AsyncClient, ada: Customer, body: dict[str, Any], field: str
) -> None:
    answer = await reserve(client, ada, **body)
    assert answer.status_code == 422
    assert field in answer.json()["errors"][0]["field"]

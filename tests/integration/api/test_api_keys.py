"""API keys over HTTP: shown once, replaced with an overlap, revoked; of oneself, and by administrators of others."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from shared.postgres import Pool
from tests.integration.api.facts import Customer, Facts
from tests.integration.schema_facts import make_subscription

KEYS = "/api/v1/api-keys"


def with_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def made(client: httpx.AsyncClient, who: Customer, **body: Any) -> dict[str, Any]:
    answer = await client.post(KEYS, headers=who.headers, json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def trail(pool: Pool, key_id: str) -> list[tuple[Any, ...]]:
    rows = await pool.fetch(
        "SELECT action, admin_id, user_id FROM audit_logs WHERE resource_id = $1 ORDER BY created_at", key_id
    )
    return [tuple(row) for row in rows]


async def test_a_key_is_shown_when_it_is_made_and_never_again(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    new = await made(client, ada, name="laptop")
    assert new["key"].startswith("tsk_")
    assert new["subscription_id"] == str(ada.subscription_id)
    me = (await client.get("/api/v1/me", headers=with_key(new["key"]))).json()
    assert (me["api_key_id"], me["user_id"]) == (new["id"], str(ada.user_id))
    listed = await client.get(KEYS, headers=ada.headers)
    assert {key["id"] for key in listed.json()["items"]} == {new["id"], str(ada.key_id)}
    assert new["key"] not in listed.text
    assert await trail(facts.pool, new["id"]) == [("api_key.created", None, ada.user_id)]


async def test_an_old_key_is_valid_beside_the_new_one_for_the_overlap(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    answer = await client.post(f"{KEYS}/{ada.key_id}/rotate", headers=ada.headers, json={"overlap_seconds": 60})
    new = answer.json()
    assert (answer.status_code, new["replaces"]) == (201, str(ada.key_id))
    for key in (ada.key, new["key"]):
        assert (await client.get("/api/v1/me", headers=with_key(key))).status_code == 200
    twice = await client.post(f"{KEYS}/{ada.key_id}/rotate", headers=ada.headers)
    assert (twice.status_code, twice.json()["type"]) == (409, "urn:tallystick:problem:conflict")
    facts.clock.at += timedelta(seconds=61)
    assert (await client.get("/api/v1/me", headers=ada.headers)).status_code == 401
    assert (await client.get("/api/v1/me", headers=with_key(new["key"]))).status_code == 200


async def test_a_revoked_key_is_refused_and_listed_on_request_only(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    new = await made(client, ada)
    for _ in range(2):
        assert (await client.delete(f"{KEYS}/{new['id']}", headers=ada.headers)).status_code == 204
    assert (await client.get("/api/v1/me", headers=with_key(new["key"]))).status_code == 401
    assert new["id"] not in (await client.get(KEYS, headers=ada.headers)).text
    assert new["id"] in (await client.get(f"{KEYS}?ended=true", headers=ada.headers)).text
    assert [action for action, *_ in await trail(facts.pool, new["id"])] == ["api_key.created", "api_key.revoked"]


async def test_an_administrator_keeps_the_keys_of_others(client: httpx.AsyncClient, facts: Facts) -> None:
    ada, eve = await facts.customer(), await facts.customer("admin")
    new = await made(client, eve, subscription_id=str(ada.subscription_id), requests_per_minute=None)
    assert (new["user_id"], new["requests_per_minute"]) == (str(ada.user_id), None)
    assert await trail(facts.pool, new["id"]) == [("api_key.created", eve.user_id, ada.user_id)]
    of_ada = await client.get(f"{KEYS}?user_id={ada.user_id}", headers=eve.headers)
    assert {key["user_id"] for key in of_ada.json()["items"]} == {str(ada.user_id)}
    assert (await client.delete(f"{KEYS}/{new['id']}", headers=eve.headers)).status_code == 204


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"requests_per_minute": None}, 403, "requests_per_minute"),
        ({"requests_per_day": 10_001}, 403, "requests_per_day"),
        ({"expires_at": "2026-11-20T11:00:00Z"}, 422, "expires_at"),
        ({"expires_at": "2026-12-20T11:00:00"}, 422, "expires_at"),
        ({"name": "a\u0000b"}, 422, "name"),
        ({"nickname": "x"}, 422, "nickname"),
    ],
)
async def test_what_a_user_may_not_have_is_named(
    client: httpx.AsyncClient, facts: Facts, body: dict[str, Any], status: int, field: str
) -> None:
    ada = await facts.customer()
    answer = await client.post(KEYS, headers=ada.headers, json=body)
    assert (answer.status_code, field in answer.text) == (status, True), answer.text


async def test_a_key_reaches_no_further_than_its_subscription(client: httpx.AsyncClient, facts: Facts) -> None:
    """Who finds a key must not be able to make themselves one of another subscription, or to cut that off."""
    ada = await facts.customer()
    async with facts.pool.acquire() as connection:
        other = await make_subscription(connection, ada.user_id)
    key_id, _ = await facts.key(other)
    for answer in (
        await client.post(KEYS, headers=ada.headers, json={"subscription_id": str(other)}),
        await client.post(f"{KEYS}/{key_id}/rotate", headers=ada.headers),
        await client.delete(f"{KEYS}/{key_id}", headers=ada.headers),
    ):
        assert answer.status_code == 404
    rows = await facts.pool.fetch("SELECT id, is_active, expires_at FROM api_keys WHERE subscription_id = $1", other)
    assert [tuple(row) for row in rows] == [(key_id, True, None)]


async def test_pages_follow_each_other(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    expected = [(await made(client, ada))["id"] for _ in range(4)]
    first = (await client.get(f"{KEYS}?limit=3", headers=ada.headers)).json()
    rest = (await client.get(f"{KEYS}?limit=3&cursor={first['next_cursor']}", headers=ada.headers)).json()
    seen = [key["id"] for key in (*first["items"], *rest["items"])]
    assert (len(first["items"]), rest["next_cursor"]) == (3, None)
    assert set(seen) == {*expected, str(ada.key_id)}
    by_offset = (await client.get(f"{KEYS}?limit=3&offset=3", headers=ada.headers)).json()
    assert [UUID(key["id"]) for key in by_offset["items"]] == [UUID(key["id"]) for key in rest["items"]]

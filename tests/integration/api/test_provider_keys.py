"""Keys at providers over HTTP: they go in, and never come out. audit_provider_key() writes what was done."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.accounts.provider_keys.keyring import Keyring, Sealed
from services.api.app import build
from services.api.provider_keys.watching import look
from services.api.settings import Settings
from shared.clock import FixedClock
from shared.errors import ConfigurationError
from shared.postgres import Pool
from tests.integration.api.conftest import NOW, PROVIDER_KEY_SECRET
from tests.integration.api.facts import Customer, Facts

KEYS = "/api/v1/provider-keys"
SECRET = "sk-proj-7f3a9c2e5b1d8f40"


async def store(client: httpx.AsyncClient, who: Customer, **body: Any) -> dict[str, Any]:
    answer = await client.post(KEYS, headers=who.headers, json={"provider": "openai", "api_key": SECRET, **body})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def stored(pool: Pool, key_id: str) -> str:
    """What the database has of a key, decrypted."""
    row = await pool.fetchrow(
        "SELECT encrypted_api_key, encryption_key_id FROM user_provider_keys WHERE id = $1", key_id
    )
    assert row is not None
    assert row["encryption_key_id"] == "tests"
    return Keyring(PROVIDER_KEY_SECRET).open(Sealed(*row))


async def defaults(client: httpx.AsyncClient, who: Customer) -> dict[str, bool]:
    listed = (await client.get(KEYS, headers=who.headers)).json()["items"]
    return {key["key_name"]: key["is_default"] for key in listed}


async def test_a_key_is_stored_and_shown_by_its_last_characters(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    key = await store(client, ada, key_name="laptop")
    assert (key["key_hint"], key["is_default"], key["user_id"]) == ("8f40", True, str(ada.user_id))
    assert key["rotation_due_at"] == "2027-02-18T12:00:00Z"
    assert await stored(facts.pool, key["id"]) == SECRET
    trail = await facts.pool.fetchrow("SELECT * FROM audit_logs WHERE resource_id = $1", key["id"])
    assert trail is not None
    assert (trail["action"], trail["user_id"]) == ("provider_key.created", ada.user_id)


async def test_a_key_is_never_returned_nor_logged(
    client: httpx.AsyncClient, facts: Facts, capsys: pytest.CaptureFixture[str]
) -> None:
    ada, eve = await facts.customer(), await facts.customer("admin")
    key = await store(client, ada)
    body = {"provider": "openai", "api_key": SECRET}
    answers = [
        await client.get(KEYS, headers=ada.headers),
        await client.get(f"{KEYS}?user_id={ada.user_id}", headers=eve.headers),
        await client.post(KEYS, headers=ada.headers, json=body),  # the name is taken
        await client.post(KEYS, headers=ada.headers, json={**body, "provider": "Not one"}),
        await client.post(KEYS, headers=ada.headers, json={**body, "api_key": SECRET + " x"}),
        await client.post(KEYS, headers=ada.headers, json={**body, "api_key": SECRET * 1_000}),
        await client.post(KEYS, headers=ada.headers, json={**body, "api_key": [SECRET]}),
        await client.post(
            KEYS, headers={**ada.headers, "Content-Type": "application/json"}, content=json.dumps(body)[:-1]
        ),
        await client.post(f"{KEYS}/{key['id']}/rotate", headers=ada.headers, json={"api_key": SECRET, "x": SECRET}),
        await client.post(f"{KEYS}/{key['id']}/default", headers=ada.headers),
        await client.post(f"{KEYS}/{key['id']}/rotate", headers=ada.headers, json={"api_key": SECRET}),
        await client.delete(f"{KEYS}/{key['id']}", headers=ada.headers),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 409, 422, 422, 422, 422, 400, 422, 200, 200, 204]
    token = Keyring(PROVIDER_KEY_SECRET).seal("x").token[:5]
    out, err = capsys.readouterr()
    assert "/api/v1/provider-keys" in out
    for text in (*(answer.text for answer in answers), out, err):
        assert SECRET not in text
        assert token not in text, "nor as it is stored"
    everything = str(await facts.pool.fetch("SELECT a::text FROM audit_logs a"))
    assert SECRET not in everything
    assert token not in everything


async def test_there_is_one_default_at_each_provider(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    first, second = await store(client, ada, key_name="first"), await store(client, ada, key_name="second")
    await store(client, ada, key_name="third", is_default=True)
    assert await defaults(client, ada) == {"first": False, "second": False, "third": True}
    await store(client, ada, key_name="elsewhere", provider="anthropic")
    assert (await client.post(f"{KEYS}/{second['id']}/default", headers=ada.headers)).json()["is_default"] is True
    assert await defaults(client, ada) == {"first": False, "second": True, "third": False, "elsewhere": True}
    await client.delete(f"{KEYS}/{second['id']}", headers=ada.headers)
    assert await defaults(client, ada) == {"first": True, "third": False, "elsewhere": True}, first["id"]


async def test_a_replaced_key_keeps_its_name_and_is_due_anew(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    key = await store(client, ada)
    await facts.pool.execute("UPDATE user_provider_keys SET rotation_reminded_at = now(), total_requests = 7")
    facts.clock.at += timedelta(days=100)
    answer = await client.post(
        f"{KEYS}/{key['id']}/rotate",
        headers=ada.headers,
        json={"api_key": "sk-another-key-0001", "remind_after_days": 30},
    )
    new = answer.json()
    assert (new["id"], new["key_hint"], new["total_requests"]) == (key["id"], "0001", 7)
    assert new["rotation_due_at"] == "2027-03-30T12:00:00Z"
    assert await stored(facts.pool, key["id"]) == "sk-another-key-0001"
    assert await facts.pool.fetchval("SELECT rotation_reminded_at FROM user_provider_keys") is None
    rows = await facts.pool.fetch("SELECT action FROM audit_logs WHERE resource_id = $1 ORDER BY created_at", key["id"])
    assert [row["action"] for row in rows] == ["provider_key.created", "provider_key.rotated"]


async def test_an_administrator_sees_and_deletes_but_cannot_replace(client: httpx.AsyncClient, facts: Facts) -> None:
    ada, eve = await facts.customer(), await facts.customer("admin")
    key = await store(client, ada)
    of_ada = (await client.get(f"{KEYS}?user_id={ada.user_id}", headers=eve.headers)).json()["items"]
    assert [found["id"] for found in of_ada] == [key["id"]]
    body = {"api_key": "sk-of-eve-12345"}
    assert (await client.post(f"{KEYS}/{key['id']}/rotate", headers=eve.headers, json=body)).status_code == 404
    assert (await client.delete(f"{KEYS}/{key['id']}", headers=eve.headers)).status_code == 204
    admin = await facts.pool.fetchval("SELECT admin_id FROM audit_logs WHERE action = 'provider_key.deleted'")
    assert admin == eve.user_id


async def test_pages_follow_each_other(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    for name in "abc":
        await store(client, ada, key_name=name)
    first = (await client.get(f"{KEYS}?limit=2", headers=ada.headers)).json()
    rest = (await client.get(f"{KEYS}?limit=2&cursor={first['next_cursor']}", headers=ada.headers)).json()
    assert [key["key_name"] for key in (*first["items"], *rest["items"])] == ["a", "b", "c"]
    assert rest["next_cursor"] is None


async def test_keys_that_cannot_be_read_are_counted(app: FastAPI, client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    one = await store(client, ada, key_name="one")
    await store(client, ada, key_name="two")
    state = app.state.tallystick
    assert await look(state) == 0
    await facts.pool.execute(
        "UPDATE user_provider_keys SET encrypted_api_key = 'gAAAAA' || reverse(encrypted_api_key) WHERE id = $1",
        one["id"],
    )
    assert await look(state) == 1


async def test_without_a_secret_nothing_is_stored(database: str, database_pool: Pool, facts: Facts) -> None:
    settings: Any = {"database_url": database, "kafka_bootstrap_servers": "127.0.0.1:1"}
    application = build(Settings(**settings), database_pool, FixedClock(NOW))
    ada = await facts.customer()
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://tallystick.test") as client:
        answer = await client.post(KEYS, headers=ada.headers, json={"provider": "openai", "api_key": SECRET})
    assert (answer.status_code, "TALLYSTICK_PROVIDER_KEY_SECRETS is not set" in answer.text) == (503, True)


@pytest.mark.parametrize(
    "secrets",
    ["abc", "a:b", PROVIDER_KEY_SECRET + "," + PROVIDER_KEY_SECRET, ":" + PROVIDER_KEY_SECRET],
    ids=["no-key-id", "too-short", "twice", "empty-key-id"],
)
def test_what_is_no_secret_is_refused_without_being_shown(secrets: str) -> None:
    with pytest.raises(ConfigurationError, match="is not ID:SECRET") as caught:
        Keyring(secrets)
    assert PROVIDER_KEY_SECRET.partition(":")[2] not in str(caught.value)

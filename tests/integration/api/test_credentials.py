"""Who may ask: API keys that are known, unknown, revoked, expired, of somebody who left."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.accounts.api_keys.keys import hash_of, new_key
from services.api.auth.api_keys import ApiKeys
from shared.clock import FixedClock
from shared.postgres import Pool
from tests.integration.api.conftest import NOW
from tests.integration.api.facts import Facts


async def test_a_key_says_whose_it_is(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer("service")
    answer = await client.get("/api/v1/me", headers=ada.headers)
    assert answer.status_code == 200
    said = answer.json()
    assert said["user_id"] == str(ada.user_id)
    assert said["subscription_id"] == str(ada.subscription_id)
    assert said["roles"] == ["service", "user"]
    by_other_header = await client.get("/api/v1/me", headers={"X-API-Key": ada.key})
    assert by_other_header.json() == said


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer tsk_nobody_has_this_key_at_all"},
        {"Authorization": "Bearer a.b.c"},
    ],
    ids=["none", "another scheme", "an unknown key", "a token where there is no identity provider"],
)
async def test_who_is_not_known_is_refused(client: httpx.AsyncClient, headers: Mapping[str, str]) -> None:
    answer = await client.get("/api/v1/me", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["type"] == "urn:tallystick:problem:unauthenticated"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE api_keys SET is_active = false, revoked_at = now()",
        "UPDATE api_keys SET expires_at = '2026-11-20T11:59:59Z'",
        "UPDATE users SET is_active = false",
    ],
)
async def test_a_key_that_is_not_valid_any_more_is_refused(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool, change: str
) -> None:
    ada = await facts.customer()
    assert (await client.get("/api/v1/me", headers=ada.headers)).status_code == 200
    await database_pool.execute(change)
    assert (await client.get("/api/v1/me", headers=ada.headers)).status_code == 401


async def test_a_key_with_the_same_beginning_is_another_key(client: httpx.AsyncClient, facts: Facts) -> None:
    ada = await facts.customer()
    other = ada.key[:-1] + ("a" if ada.key[-1] != "a" else "b")
    assert (await client.get("/api/v1/me", headers={"Authorization": f"Bearer {other}"})).status_code == 401


def keys(pool: Pool, clock: FixedClock, **changed: Any) -> ApiKeys:
    return ApiKeys(pool, clock, **{"pepper": "", "fresh": timedelta(seconds=2), "stale": timedelta(hours=1), **changed})


async def test_a_key_is_hashed_with_the_pepper(database_pool: Pool, facts: Facts) -> None:
    ada, key, clock = await facts.customer(), new_key(), FixedClock(NOW)
    await database_pool.execute(
        "UPDATE api_keys SET key_hash = $1, key_prefix = $2 WHERE id = $3",
        hash_of(key, "salt of the sea"),
        key[:10],
        ada.key_id,
    )
    assert await keys(database_pool, clock, pepper="another").recognise(key) is None
    found = await keys(database_pool, clock, pepper="salt of the sea").recognise(key)
    assert found is not None
    assert found.key_id == ada.key_id


async def test_a_known_key_is_recognised_while_the_database_is_away(
    database_pool: Pool, database: str, facts: Facts
) -> None:
    ada, bob, clock = await facts.customer(), await facts.customer(), FixedClock(NOW)
    known = keys(database_pool, clock)
    expected = await known.recognise(ada.key)
    assert expected is not None
    await database_pool.close()

    clock.at += timedelta(minutes=30)
    assert await known.recognise(ada.key) == expected
    with pytest.raises(Exception, match="closed"):
        await known.recognise(bob.key)
    clock.at += timedelta(hours=1)
    with pytest.raises(Exception, match="closed"):
        await known.recognise(ada.key)


async def test_a_database_that_is_away_is_a_503_with_a_time_to_try_again(
    app: FastAPI, client: httpx.AsyncClient, facts: Facts
) -> None:
    ada = await facts.customer()
    await app.state.tallystick.database.pool.close()
    answer = await client.get("/api/v1/me", headers=ada.headers)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.json()["type"] == "urn:tallystick:problem:unavailable"

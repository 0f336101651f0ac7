"""Local users log in with a password, refresh, and log out; what is stolen, guessed or old is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

import asyncpg
import bcrypt
import httpx
import pytest
from argon2 import PasswordHasher

from services.accounts import passwords
from services.accounts.sessions.tokens import MOST_ATTEMPTS, WINDOW, hash_of
from tests.integration.api.facts import Facts
from tests.integration.schema_facts import make_user

SESSIONS = "/api/v1/sessions"
PASSWORD = "correct horse battery staple"
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""Argon2 that does not take a test 50 ms; that it is weaker is why a login hashes anew."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_ARGON2", QUICK)
    passwords._nobodys.cache_clear()


@pytest.fixture
async def ada(facts: Facts) -> UUID:
    async with facts.pool.acquire() as connection:
        return await make_user(connection, email="Ada@Example.com", username="ada", password_hash=QUICK.hash(PASSWORD))


async def login(client: httpx.AsyncClient, password: str = PASSWORD, email: str = "ada@example.com") -> httpx.Response:
    return await client.post(SESSIONS, json={"email": email, "password": password})


async def tokens(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await login(client)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def refresh(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post(f"{SESSIONS}/refresh", json={"refresh_token": token})


async def me(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})


async def activity(facts: Facts) -> list[str]:
    return [row["action"] for row in await facts.pool.fetch("SELECT action FROM user_activity ORDER BY action")]


async def test_who_knows_the_password_is_in(client: httpx.AsyncClient, facts: Facts, ada: UUID) -> None:
    given = await tokens(client)
    said = (await me(client, given["access_token"])).json()
    assert (said["user_id"], said["name"], said["roles"]) == (str(ada), "ada", ["user"])
    assert given["expires_in"] == 900
    row = await facts.pool.fetchrow("SELECT last_login_at, now() FROM users WHERE id = $1", ada)
    assert row is not None
    assert row["last_login_at"] == facts.clock.at
    assert await activity(facts) == ["login"]


async def test_no_token_is_stored(client: httpx.AsyncClient, facts: Facts, ada: UUID) -> None:
    given = await tokens(client)
    stored = str(await facts.pool.fetch("SELECT s::text FROM sessions s"))
    assert hash_of(given["access_token"]) in stored
    assert given["access_token"] not in stored
    assert given["refresh_token"] not in stored


@pytest.mark.parametrize(
    ("email", "password"), [("ada@example.com", "wrong"), ("nobody@example.com", PASSWORD), ("ada@example.com", " ")]
)
async def test_it_is_not_said_what_was_wrong(client: httpx.AsyncClient, ada: UUID, email: str, password: str) -> None:
    answer = await login(client, password, email)
    assert (answer.status_code, answer.json()["detail"]) == (401, "the e-mail address or the password is wrong")


async def test_an_unknown_user_takes_as_much_work_as_a_known_one(
    client: httpx.AsyncClient, ada: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
            compared.append(str(hash))
            return super().verify(hash, password)

    monkeypatch.setattr(passwords, "_ARGON2", Counting(time_cost=1, memory_cost=8, parallelism=1))
    for email in ("ada@example.com", "nobody@example.com"):
        await login(client, "wrong", email)
    parameters = [found.split("$")[1:4] for found in compared]
    assert len(compared) == 2
    assert parameters[0] == parameters[1]


@pytest.mark.parametrize("change", ["is_active = false", "anonymised_at = now()", "password_hash = NULL"])
async def test_who_may_not_log_in_is_refused_and_loses_what_they_had(
    client: httpx.AsyncClient, facts: Facts, ada: UUID, change: str
) -> None:
    given = await tokens(client)
    await facts.pool.execute(f"UPDATE users SET {change}")  # noqa: S608
    assert (await login(client)).status_code == 401
    if "password" not in change:
        assert (await me(client, given["access_token"])).status_code == 401
        assert (await refresh(client, given["refresh_token"])).status_code == 401


async def test_roles_are_those_of_now(client: httpx.AsyncClient, facts: Facts, ada: UUID) -> None:
    given = await tokens(client)
    await facts.pool.execute("UPDATE users SET roles = '{user,finance}'")
    assert (await me(client, given["access_token"])).json()["roles"] == ["finance", "user"]


async def test_a_hash_from_elsewhere_is_accepted_and_made_anew(
    client: httpx.AsyncClient, facts: Facts, ada: UUID
) -> None:
    old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    await facts.pool.execute("UPDATE users SET password_hash = $1", old)
    assert (await login(client, "wrong")).status_code == 401
    assert (await login(client)).status_code == 201
    stored = await facts.pool.fetchval("SELECT password_hash FROM users")
    assert stored.startswith("$argon2id$")
    assert (await login(client)).status_code == 201


async def test_a_refresh_token_is_exchanged_once_and_both_are_new(
    client: httpx.AsyncClient, ada: UUID, facts: Facts
) -> None:
    first = await tokens(client)
    facts.clock.at += timedelta(minutes=20)
    assert (await me(client, first["access_token"])).status_code == 401
    second = (await refresh(client, first["refresh_token"])).json()
    assert {first["access_token"], first["refresh_token"]}.isdisjoint({second["access_token"], second["refresh_token"]})
    assert (await me(client, second["access_token"])).status_code == 200


async def test_an_exchanged_token_that_comes_again_ends_the_whole_login(
    client: httpx.AsyncClient, ada: UUID, facts: Facts
) -> None:
    elsewhere, first = await tokens(client), await tokens(client)
    second = (await refresh(client, first["refresh_token"])).json()
    facts.clock.at += timedelta(seconds=11)
    assert (await refresh(client, first["refresh_token"])).status_code == 401
    assert (await me(client, second["access_token"])).status_code == 401
    assert (await refresh(client, second["refresh_token"])).status_code == 401
    assert (await me(client, elsewhere["access_token"])).status_code == 200, "another login of theirs goes on"
    assert "session_revoked" in await activity(facts)


async def test_two_windows_that_refresh_at_once_do_not_end_it(client: httpx.AsyncClient, ada: UUID) -> None:
    first = await tokens(client)
    second = (await refresh(client, first["refresh_token"])).json()
    assert (await refresh(client, first["refresh_token"])).status_code == 401
    assert (await me(client, second["access_token"])).status_code == 200


async def test_a_login_ends_however_often_it_is_refreshed(client: httpx.AsyncClient, ada: UUID, facts: Facts) -> None:
    given = await tokens(client)
    end = given["session_expires_at"]
    facts.clock.at += timedelta(days=29, hours=23, minutes=50)
    given = (await refresh(client, given["refresh_token"])).json()
    assert (given["session_expires_at"], given["expires_in"]) == (end, 600)
    facts.clock.at += timedelta(minutes=10)
    assert (await refresh(client, given["refresh_token"])).status_code == 401


async def test_logging_out_ends_this_session_or_all(client: httpx.AsyncClient, ada: UUID, facts: Facts) -> None:
    one, two, three = [await tokens(client) for _ in range(3)]
    bearer = [{"Authorization": f"Bearer {given['access_token']}"} for given in (one, two, three)]
    assert (await client.delete(SESSIONS, headers=bearer[0])).status_code == 204
    assert [(await client.get("/api/v1/me", headers=h)).status_code for h in bearer] == [401, 200, 200]
    assert (await refresh(client, one["refresh_token"])).status_code == 401
    assert (await client.delete(f"{SESSIONS}?everywhere=true", headers=bearer[1])).status_code == 204
    assert [(await client.get("/api/v1/me", headers=h)).status_code for h in bearer] == [401] * 3
    assert await activity(facts) == ["login"] * 3 + ["logout", "logout_everywhere"]


async def test_an_api_key_has_no_session_to_end(client: httpx.AsyncClient, facts: Facts) -> None:
    eve = await facts.customer()
    assert (await client.delete(SESSIONS, headers=eve.headers)).status_code == 409


async def test_guessing_at_an_account_is_stopped_for_a_while(
    client: httpx.AsyncClient, ada: UUID, facts: Facts
) -> None:
    answers = [await login(client, "wrong", "ADA@example.com") for _ in range(MOST_ATTEMPTS["account"])]
    assert {answer.status_code for answer in answers} == {401}
    stopped = await login(client)
    assert (stopped.status_code, stopped.headers["retry-after"]) == (429, str(int(WINDOW.total_seconds())))
    facts.clock.at += WINDOW
    assert (await login(client)).status_code == 201
    assert (await login(client, "wrong")).status_code == 401, "it begins anew after a success"


async def test_guessing_from_one_address_is_stopped(client: httpx.AsyncClient, ada: UUID, facts: Facts) -> None:
    await facts.pool.execute(
        "INSERT INTO failed_logins VALUES ('address', '127.0.0.1', $1, $2)", MOST_ATTEMPTS["address"], facts.clock.at
    )
    assert (await login(client)).status_code == 429
    assert await facts.pool.fetchval("SELECT count(*) FROM failed_logins WHERE kind = 'account'") == 0


async def test_a_password_is_never_logged_nor_sent_back(
    client: httpx.AsyncClient, ada: UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    for body in (
        {"email": "ada@example.com", "password": PASSWORD},
        {"email": "ada@example.com", "password": PASSWORD, "extra": 1},
        {"email": ["x"], "password": PASSWORD},
        {"email": "ada@example.com", "password": PASSWORD * 100},
    ):
        answer = await client.post(SESSIONS, json=body)
        assert PASSWORD not in answer.text
    out, err = capsys.readouterr()
    assert PASSWORD not in out + err
    assert "request" in out


async def test_a_session_row_cannot_be_used_after_its_end(facts: Facts, ada: UUID) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="access_ends_first"):
        await facts.pool.execute(
            """INSERT INTO sessions (user_id, family, access_token, refresh_token, access_expires_at, expires_at, logged_in_at)
               VALUES ($1, gen_random_uuid(), 'a', 'b', now() + interval '2 h', now() + interval '1 h', now())""",
            ada,
        )

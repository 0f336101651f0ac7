"""`tallystick key`, as an operator types it; audit_api_key() writes what was done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.accounts.api_keys.keys import hash_of
from services.cli.main import run
from shared.clock import SystemClock
from shared.ids import uuid7
from tests.integration.schema_facts import make_subscription

Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tallystick(ingest_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command; returns its exit code and what it prints."""
    monkeypatch.setenv("DATABASE_URL", ingest_database)

    def command(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(words)
        return code, *capsys.readouterr()

    return command


def within(database: str, work: Callable[[asyncpg.Connection], Any]) -> Any:
    """Run something with a connection."""

    async def connected() -> Any:
        connection = await asyncpg.connect(database)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(connected())


@pytest.fixture
def subscription(ingest_database: str) -> UUID:
    found: UUID = within(ingest_database, make_subscription)
    return found


def row_of(database: str, key: str, pepper: str = "") -> Any:
    return within(database, lambda c: c.fetchrow("SELECT * FROM api_keys WHERE key_hash = $1", hash_of(key, pepper)))


def audited(database: str, key_id: object) -> list[tuple[Any, ...]]:
    rows = within(
        database,
        lambda c: c.fetch(
            "SELECT actor, action, details ->> 'why' AS why FROM audit_logs WHERE resource_id = $1 ORDER BY created_at",
            str(key_id),
        ),
    )
    return [tuple(row) for row in rows]


def test_a_key_is_printed_alone_for_a_script(tallystick: Type, subscription: UUID, ingest_database: str) -> None:
    code, out, err = tallystick("key", "create", str(subscription), "--quiet", "--by", "eve", "--why", "quick start")
    assert (code, err) == (0, "")
    key = out.strip()
    assert out == f"{key}\n"
    row = row_of(ingest_database, key)
    assert (row["subscription_id"], row["key_prefix"], row["is_active"]) == (subscription, key[:10], True)
    assert (row["quota_requests_per_minute"], row["quota_requests_per_day"]) == (60, 10_000)
    assert audited(ingest_database, row["id"]) == [("eve", "api_key.created", "quick start")]


def test_it_is_hashed_with_the_pepper_that_the_api_has(
    tallystick: Type, subscription: UUID, ingest_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYSTICK_API_KEY_PEPPER", "salt of the sea")
    _, out, _ = tallystick("key", "create", str(subscription), "--per-minute", "0", "--expires", "2999-01-01T00:00Z")
    assert row_of(ingest_database, out.strip()) is None
    row = row_of(ingest_database, out.strip(), "salt of the sea")
    assert (row["quota_requests_per_minute"], f"{row['expires_at']:%Y}") == (None, "2999")


def test_a_person_is_told_that_it_is_shown_once(tallystick: Type, subscription: UUID) -> None:
    _, out, err = tallystick("key", "create", str(subscription), "--name", "laptop")
    assert out.startswith("tsk_")
    assert "shown once" in err
    _, listed, _ = tallystick("key", "list", "--subscription", str(subscription))
    assert "laptop" in listed
    assert "60 requests a minute and 10,000 requests a day" in listed
    assert out.strip() not in listed


def test_a_key_is_replaced_once_and_stays_valid_for_the_overlap(
    tallystick: Type, subscription: UUID, ingest_database: str
) -> None:
    _, out, _ = tallystick("key", "create", str(subscription), "--per-day", "7", "--json")
    old = json.loads(out)
    before = SystemClock().now()
    _, out, _ = tallystick("key", "rotate", old["id"], "--overlap-seconds", "600", "--json")
    new = json.loads(out)
    assert (new["replaces"], new["quota_requests_per_day"], new["expires_at"]) == (old["id"], 7, None)
    ends = row_of(ingest_database, old["key"])["expires_at"]
    assert timedelta(0) <= ends - before - timedelta(seconds=600) < timedelta(seconds=60)
    assert [action for _, action, _ in audited(ingest_database, new["id"])] == ["api_key.rotated"]
    code, _, err = tallystick("key", "rotate", old["id"])
    assert (code, "was replaced already" in err) == (2, True)


def test_a_key_is_revoked_once(tallystick: Type, subscription: UUID, ingest_database: str) -> None:
    _, out, _ = tallystick("key", "create", str(subscription), "--json")
    key = json.loads(out)
    assert tallystick("key", "revoke", key["id"])[1] == f"key {key['id']} is not valid any more\n"
    assert tallystick("key", "revoke", key["id"])[1] == f"key {key['id']} was revoked already\n"
    assert [action for _, action, _ in audited(ingest_database, key["id"])] == ["api_key.created", "api_key.revoked"]
    assert tallystick("key", "list", "--subscription", str(subscription))[1] == "there are no valid keys\n"
    assert "revoked" in tallystick("key", "list", "--subscription", str(subscription), "--all")[1]
    assert "not valid any more: make a new one" in tallystick("key", "rotate", key["id"])[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", str(uuid7())), "there is no subscription"),
        (("create", "gold"), "'gold' is not an id"),
        (("revoke", str(uuid7())), "there is no API key"),
    ],
)
def test_what_is_not_there_is_said(tallystick: Type, words: tuple[str, ...], said: str) -> None:
    code, _, err = tallystick("key", *words)
    assert (code, said in err) == (2, True)


def test_an_expiry_in_the_past_and_a_subscription_that_ended_are_refused(
    tallystick: Type, subscription: UUID, ingest_database: str
) -> None:
    code, _, err = tallystick("key", "create", str(subscription), "--expires", "2020-01-01T00:00Z")
    assert (code, "which is past" in err) == (2, True)
    within(
        ingest_database,
        lambda c: c.execute("UPDATE subscriptions SET status = 'cancelled' WHERE id = $1", subscription),
    )
    code, _, err = tallystick("key", "create", str(subscription))
    assert (code, "is cancelled: it can have no new key" in err) == (2, True)

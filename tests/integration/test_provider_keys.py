"""Keys at providers outside of HTTP: encrypted anew by a command, counted by a job, reminded of by an alert."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.accounts.provider_keys.keyring import Keyring, Sealed, new_secret
from services.billing.notices.watching import Watch
from services.billing.provider_keys.jobs import count_usage
from services.cli.main import run
from shared.clock import FixedClock
from shared.ids import uuid7
from shared.outbox import Outbox
from shared.postgres import Connection, Pool
from tests.integration.roles import BILLING, with_role
from tests.integration.schema_facts import insert, make_model, make_subscription, make_user, rate_usage

OLD, NEW = new_secret("old"), new_secret("new")
OCTOBER, NOVEMBER = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)


async def store(connection: Connection, user_id: UUID, secret: str = OLD, **columns: Any) -> UUID:
    """Store a key that is named after its id."""
    id_ = uuid7()
    sealed = Keyring(secret).seal(f"sk-{id_}")
    facts = {
        "id": id_, "user_id": user_id, "provider": "openai", "key_name": str(id_), "encrypted_api_key": sealed.token,
        "encryption_key_id": sealed.secret_id, "key_hint": "1234", "usage_month": NOVEMBER, **columns,
    }  # fmt: skip
    await insert(connection, "user_provider_keys", **facts)
    return id_


# Encrypted anew


async def test_a_command_encrypts_all_keys_with_the_newest_secret(
    database: str, database_pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio  # noqa: PLC0415

    async with database_pool.acquire() as connection:
        user = await make_user(connection)
        keys = [await store(connection, user) for _ in range(450)]
        lost = await store(connection, user, new_secret("lost"))
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("TALLYSTICK_PROVIDER_KEY_SECRETS", f"{NEW},{OLD}")

    code = await asyncio.to_thread(run, ["provider-keys", "rotate", "--by", "root"])
    out, err = capsys.readouterr()
    assert "450 keys encrypted anew with the secret 'new'" in out
    assert "no key needs the secret old any more" in out
    assert (code, f"1 key cannot be read with the secrets that are set, the first is {lost}: put back lost" in err) == (
        2,
        True,
    )

    rows = await database_pool.fetch("SELECT * FROM user_provider_keys WHERE id <> $1", lost)
    keyring = Keyring(NEW)
    assert {row["id"]: keyring.open(Sealed(row["encrypted_api_key"], row["encryption_key_id"])) for row in rows} == {
        id_: f"sk-{id_}" for id_ in keys
    }
    trail = await database_pool.fetch(
        "SELECT actor, action, details FROM audit_logs WHERE action LIKE 'provider_keys.%'"
    )
    assert {(row["actor"], row["action"]) for row in trail} == {("root", "provider_keys.reencrypted")}
    assert sum(json.loads(row["details"])["keys"] for row in trail) == 450
    await asyncio.to_thread(run, ["provider-keys", "rotate", "--by", "root"])
    assert "0 keys encrypted anew" in capsys.readouterr().out
    await asyncio.to_thread(run, ["provider-keys", "list", "--limit", "1"])
    assert "…1234" in capsys.readouterr().out


def test_a_secret_is_made_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["provider-keys", "new-secret", "2026-11"]) == 0
    assert Keyring(capsys.readouterr().out.strip()).current == "2026-11"
    assert run(["provider-keys", "new-secret", "a:b"]) == 2


# Counted


async def use(connection: Connection, subscription: UUID, user: UUID, requests: int, **columns: Any) -> None:
    facts = {
        "model_id": "gpt-4o",
        "byok": True,
        "requests": requests,
        "request_tokens": 10 * requests,
        "response_tokens": 0,
    }
    hour = columns.get("hour", NOVEMBER)
    await rate_usage(
        connection,
        subscription,
        user,
        **{**facts, "hour": hour, "first_event_at": hour, "last_event_at": hour, **columns},
    )


async def counted(connection: Connection, key: UUID) -> tuple[int, int, int, datetime]:
    row = await connection.fetchrow(
        "SELECT monthly_requests, monthly_tokens, total_requests, usage_month FROM user_provider_keys WHERE id = $1",
        key,
    )
    assert row is not None
    return tuple(row)


async def test_usage_with_own_keys_is_counted_for_the_default_key(connection: Connection) -> None:
    user, now = await make_user(connection), NOVEMBER + timedelta(days=3)
    subscription = await make_subscription(connection, user)
    await make_model(connection)
    first = await store(connection, user, is_default=True)
    other = await store(connection, user)
    await use(connection, subscription, user, 5)
    await use(connection, subscription, user, -1, hour=NOVEMBER + timedelta(hours=1))  # taken back
    await use(connection, subscription, user, 100, byok=False)
    await use(connection, subscription, user, 100, hour=OCTOBER)
    await connection.execute("SET LOCAL ROLE tallystick_billing")
    assert await count_usage(connection, now) == 1
    assert await count_usage(connection, now) == 0, "counting again changes nothing"
    await connection.execute("RESET ROLE")
    assert await counted(connection, first) == (4, 40, 4, NOVEMBER)
    assert await counted(connection, other) == (0, 0, 0, NOVEMBER)

    await connection.execute("UPDATE user_provider_keys SET is_default = false WHERE id = $1", first)
    await connection.execute("UPDATE user_provider_keys SET is_default = true WHERE id = $1", other)
    await use(connection, subscription, user, 3, hour=NOVEMBER + timedelta(hours=2))
    await count_usage(connection, now)
    assert await counted(connection, first) == (4, 40, 4, NOVEMBER)
    assert await counted(connection, other) == (3, 30, 3, NOVEMBER)


async def test_a_month_is_counted_to_its_end_and_the_next_begins(connection: Connection) -> None:
    user = await make_user(connection)
    subscription = await make_subscription(connection, user)
    await make_model(connection)
    key = await store(connection, user, is_default=True, usage_month=OCTOBER, monthly_requests=2, total_requests=9)
    await use(connection, subscription, user, 5, hour=NOVEMBER - timedelta(hours=1))
    await use(connection, subscription, user, 7)
    await count_usage(connection, NOVEMBER + timedelta(minutes=20))
    assert await counted(connection, key) == (7, 70, 9 + 3 + 7, NOVEMBER)


# Reminded of


async def test_a_key_that_is_due_is_told_once(database_pool: Pool) -> None:
    clock = FixedClock(NOVEMBER)
    async with database_pool.acquire() as connection:
        user = await make_user(connection)
        due = await store(connection, user, provider="anthropic", rotation_due_at=NOVEMBER)
        await store(connection, user, rotation_due_at=NOVEMBER + timedelta(days=1))
        await store(connection, user, rotation_due_at=None)
    watch = Watch(
        with_role(database_pool, BILLING),
        clock,
        Outbox("billing_outbox"),
        expiring_days=7,
        unrated_after=timedelta(hours=1),
    )
    assert await watch() == {"provider_key_due": 1}
    assert await watch() == {}
    alert = await database_pool.fetchrow("SELECT * FROM billing_alerts")
    assert alert is not None
    assert alert["message"] == f"Your key '{due}' at anthropic (…1234) was to be replaced by 2026-11-01."
    event = json.loads(await database_pool.fetchval("SELECT value FROM billing_outbox"))
    assert (event["type"], event["data"]["provider_key"]) == ("tallystick.provider_key.due.v1", str(due))
    await database_pool.execute(
        "UPDATE user_provider_keys SET rotation_due_at = $2, rotation_reminded_at = NULL WHERE id = $1",
        due,
        NOVEMBER + timedelta(hours=1),
    )
    clock.at += timedelta(hours=2)
    assert await watch() == {"provider_key_due": 1}, "it was replaced, and is due again"

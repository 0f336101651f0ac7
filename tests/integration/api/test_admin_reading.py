"""What administrators read: lists in pages, one of each, the audit trail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from services.api.paging import encode
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.api.facts import Customer, Facts
from tests.integration.api.test_admin_writing import make_session, quarantine
from tests.integration.schema_facts import insert, make_model, make_price, make_subscription, make_user

ADMIN = "/api/v1/admin"


async def get(client: httpx.AsyncClient, who: Customer, path: str, status: int = 200) -> Any:
    answer = await client.get(ADMIN + path, headers=who.headers)
    assert answer.status_code == status, answer.text
    return answer.json()


async def pages(client: httpx.AsyncClient, who: Customer, path: str) -> list[Any]:
    """Everything of a list, two by two."""
    found, cursor = [], None
    while True:
        page = await get(
            client, who, f"{path}{'&' if '?' in path else '?'}limit=2" + (f"&cursor={cursor}" if cursor else "")
        )
        assert len(page["items"]) <= 2
        found += page["items"]
        if (cursor := page["next_cursor"]) is None:
            return found


async def test_users_are_found_in_pages_and_counted(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    admin = await facts.customer("admin")
    async with database_pool.acquire() as connection:
        for number in range(5):
            await make_user(connection, full_name=f"Grace {number}", subscription_tier="pro" if number else "free")
    found = await pages(client, admin, "/users?search=grace")
    assert {user["full_name"] for user in found} == {f"Grace {number}" for number in range(5)}
    first = await get(client, admin, "/users?search=GRACE&tier=pro&limit=3")
    assert (len(first["items"]), first["total"]) == (3, 4)
    by_offset = await get(client, admin, "/users?search=grace&tier=pro&limit=3&offset=3")
    assert len(by_offset["items"]) == 1
    foreign = await client.get(f"{ADMIN}/users?search=ada&cursor={first['next_cursor']}", headers=admin.headers)
    assert (foreign.status_code, foreign.json()["type"]) == (400, "urn:tallystick:problem:malformed")
    query = {"list": "users", "search": "grace", "role": None, "tier": None, "active": None}
    forged = await client.get(
        f"{ADMIN}/users?search=grace&cursor={encode(['yesterday', 7], query)}", headers=admin.headers
    )
    assert (forged.status_code, forged.json()["type"]) == (422, "urn:tallystick:problem:invalid-request")
    assert [user["id"] for user in (await get(client, admin, "/users?role=admin"))["items"]] == [str(admin.user_id)]
    stats = await get(client, admin, "/users/stats")
    assert (stats["total_users"], stats["new_users_this_week"]) == (6, 6)


async def test_a_user_is_shown_with_what_there_is_of_it(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    admin, ada = await facts.customer("admin"), await facts.customer()
    await database_pool.execute("SELECT add_user_credits($1, 12, 'bonus', idempotency_key => 'k')", ada.user_id)
    async with database_pool.acquire() as connection:
        for action in ("login", "login", "download"):
            await insert(connection, "user_activity", user_id=ada.user_id, action=action)
    await client.post(
        f"{ADMIN}/users/{ada.user_id}/notes", json={"note": "late", "is_flagged": True}, headers=admin.headers
    )
    shown = await get(client, admin, f"/users/{ada.user_id}")
    assert shown["subscriptions"] == {"active": 1}
    assert (shown["credits"], shown["notes"], shown["flagged_notes"]) == ("12", 1, 1)
    assert (shown["total_actions"], shown["most_common_action"]) == (3, "login")
    assert len(await pages(client, admin, f"/users/{ada.user_id}/activity")) == 3
    [note] = await pages(client, admin, f"/notes?user={ada.user_id}&flagged=true")
    assert note["note"] == "late"
    assert await pages(client, admin, "/notes?flagged=false") == []
    for _ in range(3):
        await make_session(database_pool, ada.user_id)
    sessions = await pages(client, admin, f"/sessions?user={ada.user_id}")
    assert len(sessions) == 3
    assert "token" not in str(sessions)
    await get(client, admin, f"/users/{uuid7()}", 404)


async def test_subscriptions_payments_models_and_prices_are_listed(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    admin = await facts.customer("admin")
    customers = [await facts.customer() for _ in range(3)]
    assert len(await pages(client, admin, "/subscriptions?status=active&to=enterprise")) == 4
    [one] = await pages(client, admin, f"/subscriptions?user={customers[0].user_id}")
    assert one["id"] == str(customers[0].subscription_id)
    assert await get(client, admin, f"/subscriptions/{customers[0].subscription_id}")
    await get(client, admin, f"/subscriptions/{uuid7()}", 404)
    async with database_pool.acquire() as connection:
        for name in ("acme/one", "acme/two", "other"):
            await make_model(connection, name)
        price = await make_price(connection, model_id="acme/one")
    assert [model["id"] for model in await pages(client, admin, "/models")] == ["acme/one", "acme/two", "other"]
    assert [model["id"] for model in await pages(client, admin, "/models?search=ACME/")] == ["acme/one", "acme/two"]
    assert (await get(client, admin, "/models/acme/two"))["id"] == "acme/two"
    await get(client, admin, "/models/none", 404)
    assert [one["id"] for one in await get(client, admin, "/prices?kind=model&subject=acme/one")] == [str(price)]
    assert (await get(client, admin, f"/prices/{price}"))["subject"] == "acme/one"
    await get(client, admin, f"/prices/{uuid7()}", 404)
    plans = {plan["id"]: plan for plan in await get(client, admin, "/plans")}
    assert plans["enterprise"]["subscriptions"] == 4
    assert (await get(client, admin, "/plans/basic"))["versions"][0]["limits"]["requestsPerMonth"] > 0
    await get(client, admin, "/plans/none", 404)
    assert [level["power_level"] for level in await get(client, admin, "/power-levels")] == [
        "eco",
        "balanced",
        "precision",
    ]
    assert await pages(client, admin, "/payments") == []


async def test_refused_and_held_records_are_shown_with_their_bytes(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    admin = await facts.customer("admin")
    ids = [await quarantine(database_pool, offset, admin.subscription_id) for offset in range(3)]
    assert {one["id"] for one in await pages(client, admin, "/quarantine?reason=invalid_value")} == set(map(str, ids))
    assert await pages(client, admin, "/quarantine?resolution=discarded") == []
    assert [one["records"] for one in await get(client, admin, "/quarantine/reasons")] == [3]
    shown = await get(client, admin, f"/quarantine/{ids[0]}")
    assert (shown["content"]["key_base64"], shown["stored"]) == (None, None)
    await client.post(f"{ADMIN}/quarantine/replay", json={"ids": [str(ids[0])], "why": "x"}, headers=admin.headers)
    shown = await get(client, admin, f"/quarantine/{ids[0]}")
    assert (shown["resolution"], shown["stored"]["request_id"]) == ("replayed", "req-0")
    await get(client, admin, f"/quarantine/{uuid7()}", 404)
    async with database_pool.acquire() as connection:
        row = await insert(
            connection, "held_events", id=uuid7(), reason="unknown_subscription", subscription_id=uuid7(), occurred_at=datetime.now(UTC),
            cluster="main", topic="usage.events", partition=0, epoch=1, record_offset=7, record_value=b"\xff", batch_id=uuid7(),
        )  # fmt: skip
    [held] = await pages(client, admin, "/held")
    assert held["id"] == str(row["id"])
    shown = await get(client, admin, f"/held/{row['id']}")
    assert (shown["content"]["value_base64"], shown["is_known"]) == ("/w==", False)
    [waiting] = await get(client, admin, "/held/waiting")
    assert (waiting["subscription_id"], waiting["events"]) == (str(row["subscription_id"]), 1)
    async with database_pool.acquire() as connection:
        await make_subscription(connection, id=row["subscription_id"])
    assert (await get(client, admin, f"/held/{row['id']}"))["is_known"]
    assert await pages(client, admin, "/held?state=expired") == []
    await get(client, admin, f"/held/{uuid7()}", 404)


async def test_jobs_are_listed_with_their_last_run(client: httpx.AsyncClient, facts: Facts) -> None:
    admin = await facts.customer("admin")
    await client.post(f"{ADMIN}/jobs/expire-credits/run", json={}, headers=admin.headers)
    jobs = {job["name"]: job for job in await get(client, admin, "/jobs")}
    assert (
        jobs["expire credits"]["last"]["asked_by"]
        == (await client.get("/api/v1/me", headers=admin.headers)).json()["name"]
    )
    assert jobs["close period"]["last"] is None


async def test_the_audit_trail_is_filtered_and_paged(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    admin, ada = await facts.customer("admin"), await facts.customer()
    for why in ("one", "two", "three"):
        url = f"{ADMIN}/subscriptions/{ada.subscription_id}"
        await client.post(f"{url}/suspend", json={"why": why}, headers=admin.headers)
        await client.post(f"{url}/activate", json={}, headers=admin.headers)
    name = (await client.get("/api/v1/me", headers=admin.headers)).json()["name"]
    trail = await pages(
        client, admin, f"/audit?resource_type=subscription&resource_id={ada.subscription_id}&actor={name}"
    )
    assert [entry["action"] for entry in trail] == ["subscription.active", "subscription.suspended"] * 3
    suspended = await pages(client, admin, f"/audit?action=subscription.suspended&user={ada.user_id}")
    assert [entry["details"]["why"] for entry in suspended] == ["three", "two", "one"]
    assert (
        len(await pages(client, admin, f"/audit?action=subscription&user={admin.user_id}&resource_type=subscription"))
        == 6
    )
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+", "%2B")
    assert await pages(client, admin, f"/audit?since={later}") == []
    naive = await client.get(f"{ADMIN}/audit?since=2026-01-01T00:00:00", headers=admin.headers)
    assert naive.status_code == 422


async def test_libraries_are_imported_again_without_a_change_and_read_by_everybody(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    admin, ada = await facts.customer("admin"), await facts.customer()
    wanted = {
        "libraries": [
            {"id": "/mongodb/docs", "name": "MongoDB", "vendor": "mongodb", "popularity_score": 9, "metadata": {"tags": ["database"]},
             "versions": [{"version": "6.0", "release_date": "2022-07-19"}, {"version": "7.0", "is_latest": True}]},
            *({"id": f"/acme/{number}", "name": f"Acme {number}", "popularity_score": number} for number in range(4)),
        ]
    }  # fmt: skip

    async def bring(query: str = "") -> Any:
        answer = await client.post(f"{ADMIN}/libraries/import{query}", json=wanted, headers=admin.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    dry = await bring("?dry_run=true")
    assert (dry["new"], dry["new_versions"]) == (5, 2)
    assert await database_pool.fetchval("SELECT count(*) FROM libraries") == 0
    assert await bring() == dry | {"dry_run": False}
    again = await bring()
    assert (again["new"], again["changed"], again["unchanged"], again["changed_versions"]) == (0, 0, 5, 0)
    wanted["libraries"][0]["versions"] = [{"version": "8.0", "is_latest": True}]
    assert (await bring())["new_versions"] == 1

    listed = await client.get("/api/v1/libraries?limit=2", headers=ada.headers)
    assert [one["id"] for one in listed.json()["items"]] == ["/mongodb/docs", "/acme/3"]
    following = await client.get(
        f"/api/v1/libraries?limit=2&cursor={listed.json()['next_cursor']}", headers=ada.headers
    )
    assert [one["id"] for one in following.json()["items"]] == ["/acme/2", "/acme/1"]
    searched = await client.get("/api/v1/libraries?search=mongodb", headers=ada.headers)
    assert [one["vendor"] for one in searched.json()["items"]] == ["mongodb"]
    shown = await client.get("/api/v1/libraries/mongodb/docs", headers=ada.headers)
    assert [one["version"] for one in shown.json()["versions"] if one["is_latest"]] == ["8.0"]
    assert len(shown.json()["versions"]) == 3
    assert (await client.get("/api/v1/libraries/none", headers=ada.headers)).status_code == 404

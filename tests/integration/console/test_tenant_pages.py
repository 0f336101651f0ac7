"""Pages of tenants over HTTP: each is there, what they do is done once, what is wrong stands beside the field."""

from __future__ import annotations

import html
import re
from uuid import UUID

import httpx
import pytest

from shared.postgres import Pool
from tests.integration.console.conftest import SignIn, csrf_of, field_of

PAGES = [
    "",
    "usage",
    "usage.csv",
    "usage?group_by=key&range=day",
    "usage?group_by=feature",
    "live",
    "keys",
    "provider-keys",
    "credits",
    "invoices",
    "alerts",
]


@pytest.mark.parametrize("language", ["en", "de", "fr"])
async def test_each_page_greets_somebody_new(client: httpx.AsyncClient, sign_in: SignIn, language: str) -> None:
    await sign_in(subscribed=language != "fr")
    for page in PAGES:
        answer = await client.get(f"/console/{page}", headers={"Accept-Language": language})
        assert answer.status_code == 200, (page, answer.text)
        assert not re.search(r"\sstyle=|<script(?! src=)|\son\w+=", answer.text), page


async def test_a_key_is_made_once_however_often_the_form_is_sent(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    person = await sign_in()
    page = await client.get("/console/keys")
    form = {
        "csrf": csrf_of(page), "idempotency_key": field_of(page, "idempotency_key"), "name": "</title><script>x</script>",
        "subscription_id": str(person.subscription_id), "requests_per_minute": "60",
    }  # fmt: skip
    made = await client.post("/console/keys", data=form)
    assert made.status_code == 201
    key = re.search(r'id="key">([^<]+)<', made.text)
    assert key
    again = await client.post("/console/keys", data=form)
    assert again.status_code == 409
    assert await database_pool.fetchval("SELECT count(*) FROM api_keys") == 1
    listed = await client.get("/console/keys")
    assert "<script>x" not in listed.text
    assert html.escape("</title><script>x</script>") in listed.text
    me = await client.get("/api/v1/me", headers={"Authorization": f"Bearer {key.group(1)}"})
    assert me.status_code == 200

    id_ = await database_pool.fetchval("SELECT id FROM api_keys")
    asked = await client.post(f"/console/keys/{id_}/revoke/preview", data={"csrf": csrf_of(listed)})
    assert "refused within seconds" in asked.text
    assert await database_pool.fetchval("SELECT revoked_at FROM api_keys") is None, (
        "nothing is done before it is confirmed"
    )
    for _ in range(2):
        done = await client.post(f"/console/keys/{id_}/revoke", data={"csrf": csrf_of(asked)})
        assert done.status_code == 303
    assert await database_pool.fetchval("SELECT revoked_at FROM api_keys") is not None
    assert "The key is revoked." in (await client.get("/console/keys")).text
    actors = await database_pool.fetch("SELECT DISTINCT actor FROM audit_logs WHERE resource_id = $1", str(id_))
    assert [row["actor"] for row in actors] == ["ada@example.com"]


async def test_what_is_wrong_stands_beside_the_field_and_what_was_typed_stays(
    client: httpx.AsyncClient, sign_in: SignIn
) -> None:
    person = await sign_in()
    page = await client.get("/console/keys")
    form = {
        "csrf": csrf_of(page), "idempotency_key": field_of(page, "idempotency_key"), "name": "night shift",
        "subscription_id": str(person.subscription_id), "requests_per_minute": "many",
    }  # fmt: skip
    refused = await client.post("/console/keys", data=form)
    assert refused.status_code == 422
    assert 'value="night shift"' in refused.text
    assert re.search(r'name="requests_per_minute"[^>]*aria-invalid="true"', refused.text)
    assert "Please write a whole number." in refused.text
    more = await client.post("/console/keys", data={**form, "requests_per_minute": "5000"})
    assert more.status_code == 403
    assert re.search(r'id="f-requests_per_minute-said"[^>]*>more than 60', more.text), more.text


async def test_keys_of_others_are_not_there(client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool) -> None:
    person = await sign_in()
    page = await client.get("/console/keys")
    await client.post(
        "/console/keys",
        data={
            "csrf": csrf_of(page),
            "idempotency_key": field_of(page, "idempotency_key"),
            "subscription_id": str(person.subscription_id),
        },
    )
    id_ = await database_pool.fetchval("SELECT id FROM api_keys")
    await sign_in(email="eve@example.com")
    page = await client.get("/console/keys")
    for step in ("revoke/preview", "revoke", "rotate"):
        refused = await client.post(f"/console/keys/{id_}/{step}", data={"csrf": csrf_of(page)})
        assert refused.status_code == 404, step
    assert await database_pool.fetchval("SELECT revoked_at FROM api_keys") is None


async def test_a_provider_key_is_stored_and_never_shown(client: httpx.AsyncClient, sign_in: SignIn) -> None:
    await sign_in()
    page = await client.get("/console/provider-keys")
    form = {"csrf": csrf_of(page), "provider": "openai", "key_name": "ours", "api_key": "sk-very-secret-indeed"}
    assert (await client.post("/console/provider-keys", data=form)).status_code == 303
    listed = await client.get("/console/provider-keys")
    assert "ours" in listed.text
    assert "very-secret" not in listed.text
    again = await client.post("/console/provider-keys", data=form)
    assert again.status_code in (409, 422)
    assert "very-secret" not in again.text


async def test_alerts_are_chosen(client: httpx.AsyncClient, sign_in: SignIn) -> None:
    await sign_in()
    page = await client.get("/console/alerts")
    wrong = await client.post(
        "/console/alerts/settings", data={"csrf": csrf_of(page), "on_spend": "on", "at_spend": "much"}
    )
    assert wrong.status_code == 422
    assert 'value="much"' in wrong.text
    kept = await client.post(
        "/console/alerts/settings", data={"csrf": csrf_of(page), "on_spend": "on", "at_spend": "100, 500"}
    )
    assert kept.status_code == 303, kept.text
    shown = await client.get("/console/alerts")
    assert 'value="100, 500"' in shown.text
    assert not re.search(r'name="on_low_balance" checked', shown.text)


async def test_alerts_are_read_up_to_what_was_shown(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    eve, ada = await sign_in(email="eve@example.com"), await sign_in()

    async def tell(user: UUID, message: str) -> UUID:
        alert: UUID = await database_pool.fetchval(
            "INSERT INTO billing_alerts (user_id, type, message, created_at) VALUES ($1, 'low_balance', $2, clock_timestamp()) RETURNING id",
            user, message,
        )  # fmt: skip
        return alert

    unread = "SELECT array_agg(message ORDER BY message) FROM billing_alerts WHERE NOT is_read"
    first, _, theirs = await tell(ada.id, "first"), await tell(ada.id, "second"), await tell(eve.id, "of eve")
    page = await client.get("/console/alerts")
    form = {"csrf": csrf_of(page), "until": field_of(page, "until")}
    for _ in range(2):
        assert (await client.post(f"/console/alerts/{first}/read", data=form)).status_code == 303
    assert (await client.post(f"/console/alerts/{theirs}/read", data=form)).status_code == 404
    await tell(ada.id, "third")
    assert (await client.post("/console/alerts/read", data=form)).status_code == 303
    assert await database_pool.fetchval(unread) == ["of eve", "third"]
    assert "Marked as read: 1." in (await client.get("/console/alerts")).text


async def test_a_package_is_bought_once(client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool) -> None:
    await sign_in()
    package = await database_pool.fetchval(
        "INSERT INTO credit_packages (name, credits, price, currency) VALUES ('Starter', 1000, 10, 'EUR') RETURNING id"
    )
    page = await client.get("/console/credits")
    asked = await client.post("/console/credits/buy/preview", data={"csrf": csrf_of(page), "package": str(package)})
    assert "€10.00" in asked.text
    form = {"csrf": csrf_of(asked), "package": str(package), "idempotency_key": field_of(asked, "idempotency_key")}
    first, second = [await client.post("/console/credits/buy", data=form) for _ in range(2)]
    assert first.status_code == second.status_code == 201, first.text
    assert await database_pool.fetchval("SELECT count(*) FROM payments") == 1

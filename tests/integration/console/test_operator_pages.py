"""What operators and finance see and do: as they would, page by page, and what a tenant does not get."""

from __future__ import annotations

import re
from html import unescape
from uuid import UUID, uuid4

import httpx
import pytest

from shared.postgres import Pool
from tests.integration.api.facts import Facts
from tests.integration.api.reading.test_invoices import MODEL, make_billed
from tests.integration.api.test_admin_writing import quarantine
from tests.integration.console.conftest import SignIn, csrf_of, field_of
from tests.integration.schema_facts import make_subscription, make_user

OPERATOR_PAGES = (
    "/console/health", "/console/customers", "/console/quarantine", "/console/held", "/console/prices", "/console/prices/new",
    "/console/jobs", "/console/audit", "/console/plans", "/console/plans/new", "/console/subscriptions",
)  # fmt: skip
FINANCE_PAGES = (
    "/console/finance/invoices", "/console/finance/payments", "/console/finance/runs", "/console/finance/runs/2026-10", "/console/reconciliation",
    "/console/finance/dunning",
)  # fmt: skip


@pytest.mark.parametrize("path", [*OPERATOR_PAGES, *FINANCE_PAGES])
async def test_a_tenant_is_told_that_a_page_is_not_for_them(
    client: httpx.AsyncClient, sign_in: SignIn, path: str
) -> None:
    await sign_in()
    answer = await client.get(path)
    assert answer.status_code == 403
    assert path not in (await client.get("/console/")).text


@pytest.mark.parametrize("language", ["en", "de", "fr"])
async def test_every_page_is_shown_where_nothing_is_yet(
    client: httpx.AsyncClient, sign_in: SignIn, language: str
) -> None:
    await sign_in("admin", subscribed=False)
    for path in (*OPERATOR_PAGES, *FINANCE_PAGES):
        answer = await client.get(path, headers={"Accept-Language": language})
        assert answer.status_code == 200, f"{path}: {answer.text}"
        assert f'<html lang="{language}">' in answer.text


async def test_finance_sees_money_and_not_the_pipeline(client: httpx.AsyncClient, sign_in: SignIn) -> None:
    await sign_in("finance")
    assert (await client.get("/console/finance/invoices")).status_code == 200
    assert (await client.get("/console/quarantine")).status_code == 403


async def test_a_customer_is_found_and_shown_and_their_name_is_no_markup(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    async with database_pool.acquire() as connection:
        user = await make_user(connection, email="mallory@example.com", full_name="<script>alert(1)</script> عادل")
        await make_subscription(connection, user, quota_requests=1_000)
    await sign_in("admin", subscribed=False)
    listed = await client.get("/console/customers", params={"search": "mallory"})
    assert listed.text.count(f"/console/customers/{user}") == 1
    assert "ada@example.com" not in re.sub(r"<header.*?</header>", "", listed.text, flags=re.S)
    shown = await client.get(f"/console/customers/{user}")
    assert shown.status_code == 200
    assert "&lt;script&gt;alert(1)&lt;/script&gt; عادل" in shown.text
    assert "<script>alert" not in shown.text
    assert "/ 1,000" in shown.text
    assert (await client.get(f"/console/customers/{uuid4()}")).status_code == 404


async def test_a_subscription_is_suspended_and_reactivated_in_two_steps_with_a_reason(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    async with database_pool.acquire() as connection:
        user = await make_user(connection)
        subscription = await make_subscription(connection, user)
    await sign_in("admin", subscribed=False)
    page = f"/console/subscriptions/{subscription}"

    asked = await client.get(f"{page}/suspend")
    wrong = await client.post(f"{page}/suspend/preview", data={"csrf": csrf_of(asked), "why": ""})
    assert wrong.status_code == 422
    assert "Please fill this in." in wrong.text
    before = await client.post(f"{page}/suspend/preview", data=hidden(asked) | {"why": "a <b>fraud</b>"})
    assert "a &lt;b&gt;fraud&lt;/b&gt;" in before.text
    assert await _status(database_pool, subscription) == "active", "looking at it changes nothing"

    for _ in range(2):  # a double click
        done = await client.post(f"{page}/suspend", data=hidden(before))
        assert (done.status_code, done.headers["location"]) == (303, f"/console/customers/{user}")
    assert await _status(database_pool, subscription) == "suspended"
    entries = await database_pool.fetch(
        "SELECT actor, details FROM audit_logs WHERE action = 'subscription.suspended' AND resource_id = $1",
        str(subscription),
    )
    assert len(entries) == 1
    assert "ada@example.com" in entries[0]["actor"]

    asked = await client.get(f"{page}/reactivate")
    before = await client.post(f"{page}/reactivate/preview", data=hidden(asked) | {"why": "a mistake"})
    await client.post(f"{page}/reactivate", data=hidden(before))
    assert await _status(database_pool, subscription) == "active"
    shown = await client.get(f"/console/customers/{user}")
    assert f"{page}/suspend" in shown.text
    log = await client.get("/console/audit", params={"action": "subscription.suspended"})
    assert "subscription.suspended" in log.text


async def test_a_form_without_the_token_of_the_page_does_nothing(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    async with database_pool.acquire() as connection:
        subscription = await make_subscription(connection)
    await sign_in("admin")
    answer = await client.post(f"/console/subscriptions/{subscription}/suspend", data={"why": "x", "csrf": "made up"})
    assert answer.status_code == 403
    assert await _status(database_pool, subscription) == "active"


async def test_a_note_is_written_and_an_empty_one_is_refused_beside_its_field(
    client: httpx.AsyncClient, sign_in: SignIn, facts: Facts
) -> None:
    ada = await facts.customer()
    await sign_in("admin")
    page = f"/console/customers/{ada.user_id}"
    shown = await client.get(page)
    wrong = await client.post(f"{page}/notes", data={"csrf": csrf_of(shown), "note": ""})
    assert (wrong.status_code, "Please fill this in." in wrong.text) == (422, True)
    await client.post(f"{page}/notes", data={"csrf": csrf_of(shown), "note": "calls often", "is_flagged": "on"})
    assert "calls often" in (await client.get(page)).text


async def test_a_record_in_quarantine_is_read_and_tried_again(
    client: httpx.AsyncClient, sign_in: SignIn, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    record = await quarantine(database_pool, 0, ada.subscription_id)
    await sign_in("admin")
    listed = await client.get("/console/quarantine")
    assert f"/console/quarantine/{record}" in listed.text
    page = f"/console/quarantine/{record}"
    shown = await client.get(page)
    assert "usage.events/" in shown.text
    assert str(ada.subscription_id) in shown.text, "its bytes are readable"
    before = await client.post(f"{page}/replay/preview", data=hidden(shown) | {"why": "a mended gateway"})
    for _ in range(2):
        assert (await client.post(f"{page}/replay", data=hidden(before))).status_code == 303
    assert await database_pool.fetchval("SELECT count(*) FROM usage_logs") == 1
    assert "replayed" in (await client.get(page)).text


async def test_an_invoice_is_followed_from_its_line_to_the_events(
    client: httpx.AsyncClient, sign_in: SignIn, facts: Facts, database_pool: Pool
) -> None:
    billed = await make_billed(facts, database_pool)
    await sign_in("finance")
    listed = await client.get("/console/finance/invoices", params={"status": "sent"})
    assert billed.number in listed.text
    [invoice] = set(re.findall(r"/console/finance/invoices/([0-9a-f-]{36})", listed.text))
    shown = await client.get(f"/console/finance/invoices/{invoice}")
    why = re.findall(r'href="(/console/finance/explain\?what=[0-9a-f-]{36})"', shown.text)
    assert why, shown.text
    explained = await client.get(why[0])
    assert "It holds" in explained.text
    events = await client.get(why[0].replace("explain?", "explain/events?"))
    assert events.status_code == 200
    assert events.text.count(MODEL) == 30
    assert (await client.get("/console/finance/explain", params={"what": "INV-1999-000001/1"})).status_code == 404


async def test_a_price_is_tried_on_history_before_it_is_set(
    client: httpx.AsyncClient, sign_in: SignIn, facts: Facts, database_pool: Pool
) -> None:
    billed = await make_billed(facts, database_pool)
    await sign_in("admin")
    asked = await client.get("/console/prices/new", params={"model": MODEL})
    wish = {"model": MODEL, "currency": "USD", "input_per_1k": "2", "output_per_1k": "0"}
    wrong = await client.post("/console/prices/new/preview", data=hidden(asked) | wish | {"input_per_1k": "a lot"})
    assert (wrong.status_code, 'value="a lot"' in wrong.text) == (422, True)

    prices = await database_pool.fetchval("SELECT count(*) FROM model_prices")
    tried = await client.post("/console/prices/new/preview", data=hidden(asked) | wish)
    assert tried.status_code == 200, tried.text
    assert str(billed.customer.user_id) in tried.text
    assert await database_pool.fetchval("SELECT count(*) FROM model_prices") == prices, "trying changes nothing"
    first = await client.post("/console/prices/new", data=hidden(tried))
    assert first.status_code == 303, first.text
    second = await client.post("/console/prices/new", data=hidden(tried))
    assert second.status_code == 409
    assert await database_pool.fetchval("SELECT count(*) FROM model_prices") == prices + 1
    timeline = await client.get(first.headers["location"])
    assert timeline.text.count(f"<bdi>{MODEL}</bdi>") >= 2


async def test_health_tells_what_waits(
    client: httpx.AsyncClient, sign_in: SignIn, facts: Facts, database_pool: Pool
) -> None:
    ada = await facts.customer()
    await quarantine(database_pool, 0, ada.subscription_id)
    await database_pool.execute(
        """INSERT INTO job_runs (job, scheduled_for, started_at, finished_at, result)
           VALUES ('reconcile', now(), now(), now(), '{"checks": 80, "differing": ["log"], "under_way": []}')"""
    )
    await sign_in("admin")
    shown = await client.get("/console/health")
    assert "The books do not agree: log." in shown.text
    assert "/console/quarantine" in shown.text


def hidden(answer: httpx.Response) -> dict[str, str]:
    """What the form of a page carries, as a browser sends it back."""
    found = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', answer.text))
    found["csrf"] = field_of(answer, "csrf")
    return {name: unescape(value) for name, value in found.items() if name != "next"}


async def _status(pool: Pool, subscription: UUID) -> str:
    return str(await pool.fetchval("SELECT status FROM subscriptions WHERE id = $1", subscription))

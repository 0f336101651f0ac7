"""Pages over HTTP of what is proved and what is invoiced: the reconciliation report, invoice runs, plans, held events, subscriptions."""

from __future__ import annotations

import asyncio
import json
import re
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from services.api.state import parts_of
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.api.facts import Facts
from tests.integration.api.reading.test_invoices import MODEL, OCTOBER
from tests.integration.billing_facts import Desk, make_customer, make_price, usage
from tests.integration.console.conftest import SignIn
from tests.integration.console.test_operator_pages import hidden
from tests.integration.schema_facts import insert, make_subscription, make_user

RUNS = "/console/finance/runs"


async def prove(client: httpx.AsyncClient) -> httpx.Response:
    before = await client.get("/console/jobs/reconcile/run")
    return await client.post("/console/jobs/reconcile/run", data=hidden(before))


async def test_the_books_are_proved_and_the_report_says_what_each_check_came_to(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    await sign_in("admin", subscribed=False)
    empty = await client.get("/console/reconciliation")
    assert "The books were not proved yet." in empty.text
    assert (await prove(client)).status_code == 303
    shown = await client.get("/console/reconciliation")
    assert re.search(r"All \d+ checks hold\.", shown.text), shown.text
    assert "Every offset that ingest passed is a stored event" in shown.text
    assert "ada@example.com" in re.sub(r"<header.*?</header>", "", shown.text, flags=re.S), "who made it"
    details = await database_pool.fetchval("SELECT jsonb_array_length(result->'details') FROM job_runs")
    assert shown.text.count('class="badge good"') == details + 1
    jobs = await client.get("/console/jobs")
    assert "details" not in jobs.text, "lists are without the figures"


async def test_a_check_that_differs_is_named_with_its_keys(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    desk = Desk(database_pool)
    async with database_pool.acquire() as connection:
        await make_price(connection, model=MODEL)
        customer = await make_customer(connection)
    await desk.use(usage(customer.subscription_id, at=OCTOBER, model=MODEL, request_tokens=5))
    await database_pool.execute("UPDATE usage_summaries SET request_tokens = 6 WHERE period_type = 'day'")  # the defect
    await sign_in("admin")
    await prove(client)
    shown = await client.get("/console/reconciliation")
    assert "The books do not agree: hours = days: request tokens" in shown.text or "hours = days" in shown.text
    assert "Differs at:" in shown.text
    assert str(customer.subscription_id) in shown.text
    assert shown.text.index("Differs at:") < shown.text.index("Every offset that ingest passed"), "it comes first"


async def test_finance_reads_the_report_and_cannot_run_the_proof(client: httpx.AsyncClient, sign_in: SignIn) -> None:
    await sign_in("finance")
    shown = await client.get("/console/reconciliation")
    assert (shown.status_code, "Prove the books now" in shown.text) == (200, False)
    assert (await client.get("/console/reconciliation", params={"run": "2026-10-01T00:00:00Z"})).status_code == 404


async def test_while_a_proof_is_made_the_page_says_so_and_no_other_begins(
    client: httpx.AsyncClient, sign_in: SignIn, app: FastAPI, database_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = asyncio.Event()

    async def slow(_connection: object) -> list[object]:
        await may_end.wait()
        return []

    monkeypatch.setattr("services.billing.reconciliation.jobs.reconcile", slow)
    monkeypatch.setattr(parts_of(app).capabilities.background, "patience", 0.2)
    await sign_in("admin")
    assert (await prove(client)).status_code == 303
    shown = await client.get("/console/reconciliation")
    assert "A proof is being made." in shown.text
    assert "Prove the books now" not in shown.text
    assert (await prove(client)).status_code == 303
    assert "a worker is running" in (await client.get("/console/jobs")).text
    may_end.set()
    await asyncio.wait(parts_of(app).capabilities.background._tasks, timeout=10)
    assert await database_pool.fetchval("SELECT count(*) FROM job_runs") == 1


async def test_a_month_is_looked_at_and_issued_once(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    desk = Desk(database_pool)
    async with database_pool.acquire() as connection:
        await make_price(connection, model=MODEL)
        for name in ("محمد الأمين", "<script>alert(1)</script>"):
            customer = await make_customer(connection)
            await connection.execute("UPDATE users SET full_name = $2 WHERE id = $1", customer.user_id, name)
            await desk.use(usage(customer.subscription_id, at=OCTOBER, model=MODEL, request_tokens=1_000_000))
    await sign_in("finance")
    page = await client.get(f"{RUNS}/2026-10")
    assert page.status_code == 200, page.text
    assert "Issue 2 invoices" in page.text
    assert "محمد الأمين" in page.text
    assert "<script>alert" not in page.text
    assert await database_pool.fetchval("SELECT count(*) FROM invoices") == 0, "looking at it changes nothing"
    for _ in range(2):  # a double click
        assert (await client.post(f"{RUNS}/2026-10", data=hidden(page))).status_code == 303
    issued = await database_pool.fetch("SELECT total FROM invoices WHERE number IS NOT NULL")
    assert len(issued) == 2
    assert f"{issued[0]['total']:,.2f}</td>" in page.text
    runs = await client.get(RUNS)
    assert "ada@example.com" in re.sub(r"<header.*?</header>", "", runs.text, flags=re.S)
    assert "Nothing is to be invoiced" in (await client.get(f"{RUNS}/2026-10")).text
    assert await database_pool.fetchval("SELECT count(*) FROM audit_logs WHERE action = 'job.run'") == 1


async def test_a_month_that_is_not_over_is_looked_at_and_not_issued(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    await sign_in("finance")
    page = await client.get(f"{RUNS}/2026-11")
    assert "late events are expected until then" in page.text
    refused = await client.post(f"{RUNS}/2026-11", data=hidden(await client.get(RUNS)))
    assert refused.status_code == 303
    assert "cannot be issued before" in (await client.get(RUNS)).text
    assert (await client.get(f"{RUNS}/2026-13")).status_code == 422


async def test_a_new_version_of_a_plan_is_looked_at_and_published_once(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    async with database_pool.acquire() as connection:
        await make_subscription(connection, plan_id="basic")
    await sign_in("admin", subscribed=False)
    assert "/console/plans/basic" in (await client.get("/console/plans")).text
    plan = await client.get("/console/plans/basic")
    assert plan.text.count("/console/customers/") == 1, "who is on it"
    form = await client.get("/console/plans/new", params={"plan": "basic"})
    wish = fields_of(form) | {"amount": "19.50", "trial_days": "7"}
    wrong = await client.post("/console/plans/new/preview", data=wish | {"meters": "{", "amount": "a lot"})
    assert wrong.status_code == 422
    assert "This is not a list in JSON." in wrong.text
    assert 'value="a lot"' in wrong.text
    past = await client.post("/console/plans/new/preview", data=wish | {"valid_from": "2020-01-01T00:00:00Z"})
    assert past.status_code == 422, past.text
    versions = await database_pool.fetchval("SELECT count(*) FROM plan_versions WHERE plan_id = 'basic'")
    seen = await client.post("/console/plans/new/preview", data=wish)
    assert "→ 19.50" in seen.text
    assert "→ 7<" in seen.text
    count = "SELECT count(*) FROM plan_versions WHERE plan_id = 'basic'"
    assert await database_pool.fetchval(count) == versions, "looking at it changes nothing"
    for _ in range(2):
        done = await client.post("/console/plans/new", data=hidden(seen))
        assert (done.status_code, done.headers.get("location")) == (303, "/console/plans/basic"), done.text
    assert await database_pool.fetchval(count) == versions + 1


async def test_a_plan_is_made_closed_and_opened(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    await sign_in("admin", subscribed=False)
    form = await client.get("/console/plans/new")
    meter = [
        {
            "key": "all",
            "name": "requests",
            "measure": "requests",
            "mode": "graduated",
            "tiers": [{"unit_price": "0.001"}],
        }
    ]
    wish = fields_of(form) | {
        "id": "team plan",
        "name": "Team",
        "amount": "49",
        "currency": "EUR",
        "meters": json.dumps(meter),
    }
    seen = await client.post("/console/plans/new/preview", data=wish)
    assert seen.status_code == 200, seen.text
    made = await client.post("/console/plans/new", data=hidden(seen))
    assert (made.status_code, made.headers.get("location")) == (303, "/console/plans/team%20plan"), made.text
    again = await client.get("/console/plans/new", params={"plan": "team plan"})
    assert "unit_price" in again.text, "a new version begins with what there is"
    for change, active in (("close", False), ("open", True)):
        asked = await client.get(f"/console/plans/team%20plan/{change}")
        for _ in range(2):
            assert (await client.post(f"/console/plans/team%20plan/{change}", data=hidden(asked))).status_code == 303
        assert await database_pool.fetchval("SELECT is_active FROM plans WHERE id = 'team plan'") is active
    changed = await database_pool.fetchval(
        "SELECT count(*) FROM audit_logs WHERE resource_id = 'team plan' AND action = 'plan.changed'"
    )
    assert changed == 2


async def test_a_held_event_is_read_and_given_up_with_a_reason(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    nobody = uuid7()
    async with database_pool.acquire() as connection:
        row = await insert(
            connection, "held_events", id=uuid7(), reason="unknown_subscription", subscription_id=nobody, occurred_at=OCTOBER,
            cluster="main", topic="usage.events", partition=0, epoch=1, record_offset=7, record_value=b'{"who": "\xd8\xb9"}',
            batch_id=uuid7(),
        )  # fmt: skip
    await sign_in("admin")
    page = f"/console/held/{row['id']}"
    listed = await client.get("/console/held")
    assert page in listed.text
    assert listed.text.count(str(nobody)) == 2, "who is waited for, and the event"
    assert page not in (await client.get("/console/held", params={"reason": "unknown_api_key"})).text
    shown = await client.get(page)
    assert "It names a subscription that there is not." in shown.text
    assert "ع" in shown.text
    assert "is there by now" not in shown.text
    wrong = await client.post(f"{page}/expire/preview", data=hidden(shown) | {"why": ""})
    assert (wrong.status_code, "Please fill this in." in wrong.text) == (422, True)
    asked = await client.post(f"{page}/expire/preview", data=hidden(shown) | {"why": "a test of theirs"})
    for _ in range(2):
        assert (await client.post(f"{page}/expire", data=hidden(asked))).status_code == 303
    assert "a test of theirs" in (await client.get(page)).text
    assert await database_pool.fetchval("SELECT count(*) FROM audit_logs WHERE action = 'held.expired'") == 1


async def test_a_held_event_whose_subscription_is_there_says_that_it_is_counted(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    async with database_pool.acquire() as connection:
        row = await insert(
            connection, "held_events", id=uuid7(), reason="unknown_subscription", subscription_id=await make_subscription(connection),
            occurred_at=OCTOBER, cluster="main", topic="usage.events", partition=0, epoch=1, record_offset=8, record_value=b"{}",
            batch_id=uuid7(),
        )  # fmt: skip
    await sign_in("admin")
    assert "is there by now" in (await client.get(f"/console/held/{row['id']}")).text


async def test_who_is_suspended_and_why_is_listed(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool
) -> None:
    async with database_pool.acquire() as connection:
        user: UUID = await make_user(connection, email="late@example.com")
        subscription = await make_subscription(connection, user)
        await connection.execute("SELECT suspend_subscription($1, 'payment_overdue')", subscription)
    await sign_in("admin")
    listed = await client.get("/console/subscriptions", params={"status": "suspended"})
    assert "late@example.com" in listed.text
    assert "payment overdue" in listed.text
    assert "ada@example.com" not in re.sub(r"<header.*?</header>", "", listed.text, flags=re.S)


async def test_health_tells_how_fresh_the_counters_are(
    client: httpx.AsyncClient, sign_in: SignIn, database_pool: Pool, facts: Facts
) -> None:
    batch = uuid7()
    async with database_pool.acquire() as connection:
        await insert(
            connection, "usage_batches", batch_id=batch, kind="held", cluster="main", topic="usage.events", partition=0, inserted=1,
            duplicates=0, quarantined=0, held=0, gaps=0, message_count=1,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO aggregator_inbox (batch_id, part, event_count, received_at) VALUES ($1, 0, 1, now() + interval '4 seconds')", batch
        )  # fmt: skip
    await sign_in("admin")
    shown = await client.get("/console/health")
    assert re.search(r'data-label="Median" class="num">4\.?\d* s', shown.text), shown.text
    assert "The broker has not said yet" in shown.text, "none runs here, and the page does not wait for it"


def fields_of(answer: httpx.Response) -> dict[str, str]:
    """What the form of a page holds, as a browser sends it back."""
    found = hidden(answer) | dict(re.findall(r'<input id="f-\w+" name="(\w+)"[^>]* value="([^"]*)"', answer.text))
    for name, options in re.findall(r'<select id="f-\w+" name="(\w+)"[^>]*>(.*?)</select>', answer.text, flags=re.S):
        chosen = re.search(r'value="([^"]*)" selected', options)
        found[name] = chosen.group(1) if chosen else ""
    if 'name="hard_limits" checked' in answer.text:
        found["hard_limits"] = "on"
    return found
